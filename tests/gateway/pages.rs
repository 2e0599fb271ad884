//! The description and its page: there without a token, strict, and nothing beside them.

use serde_json::Value;

use crate::common::started;
use crate::http1::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_description_and_its_page_need_no_token() {
    let server = started(&[]).await;
    let get = async |path: &str| send(&server, request("GET", path, &[], "")).await;
    let (page, same) = (get("/swagger").await, get("/swagger/").await);
    assert_eq!((page.code(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert_eq!(page.body, same.body);
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    // Everything that the page names is there.
    let names: Vec<&str> = text.split('"').filter(|name| name.starts_with("/swagger")).collect();
    assert!(names.len() >= 4, "{names:?}");
    for name in names {
        let file = get(name).await;
        assert_eq!((file.code(), file.header("x-content-type-options")), (200, "nosniff"), "{name}");
        let policy = file.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{name}: {policy}");
    }
    let description = get("/swagger/openapi.json").await;
    let committed: Value = serde_json::from_str(&std::fs::read_to_string("src/transport/gateway/openapi.json").unwrap()).unwrap();
    assert_eq!(description.ok(), committed);
    assert_eq!(description.header("cache-control"), "no-cache");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_found_by_their_exact_names_alone() {
    let server = started(&[]).await;
    for path in [
        "/swagger/../Cargo.toml",
        "/swagger/..%2fCargo.toml",
        "/swagger/%2e%2e/%2e%2e/etc/passwd",
        "/swagger/..\\..\\x",
        "/swagger//openapi.json",
        "/swagger/./openapi.json",
        "/swagger/openapi.json/",
        "/swagger/openapi.json%00",
        "/swagger/openapi%2ejson",
        "/swagger/SHA256SUMS",
        "/SWAGGER",
        "/assets/swagger/index.html",
    ] {
        let answer = send(&server, request("GET", path, &[], "")).await;
        assert_eq!((answer.code(), answer.reason().as_str()), (404, "PATH_UNKNOWN"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_take_get_and_head_and_are_sent_once() {
    let server = started(&[]).await;
    let ask = async |method: &str, headers: &[(&str, &str)]| send(&server, request(method, "/swagger/openapi.json?x=1", headers, "")).await;
    let get = ask("GET", &[]).await;
    let head = ask("HEAD", &[]).await;
    assert_eq!((head.code(), head.body.len()), (200, 0));
    for name in ["content-length", "content-type", "etag", "cache-control", "content-security-policy"] {
        assert!(!get.header(name).is_empty() && get.header(name) == head.header(name), "{name}");
    }
    let unchanged = ask("GET", &[("if-none-match", get.header("etag"))]).await;
    assert_eq!((unchanged.code(), unchanged.body.len()), (304, 0));
    let posted = ask("POST", &[("content-type", "application/json")]).await;
    assert_eq!((posted.code(), posted.reason().as_str(), posted.header("allow")), (405, "METHOD_NOT_ALLOWED", "GET, HEAD"));
}
