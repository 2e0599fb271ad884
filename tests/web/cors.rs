//! Which pages may call the server, asked as browsers ask.

use bytes::Bytes;
use chat_service::pb::chat::v1::ListChatsRequest;
use http::{Request, Version};

use crate::common::*;
use crate::http_client::{grpc_web, send};
use crate::raw;

const APP: &str = "https://app.example.org";

fn preflight(origin: &str) -> Request<Bytes> {
    Request::options("/chat.v1.ChatService/ListChats")
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type,x-grpc-web")
        .body(Bytes::new())
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_a_configured_origin_may_call_and_read_the_answer() {
    let server = started(&["--cors-origins", "https://app.example.org, http://localhost:8080"]).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let allowed = send(&server, version, preflight(APP)).await;
        assert_eq!(allowed.status, 204, "without a token");
        assert_eq!(allowed.headers["access-control-allow-origin"], APP);
        let list = |name: &str| allowed.headers[name].to_str().unwrap().split(", ").map(str::to_owned).collect::<Vec<_>>();
        let headers = list("access-control-allow-headers");
        for header in ["authorization", "content-type", "x-grpc-web", "x-user-agent", "grpc-timeout", "x-request-id"] {
            assert!(headers.iter().any(|allowed| allowed == header), "{header}");
        }
        assert!(["traceparent", "tracestate"].iter().all(|header| headers.iter().any(|allowed| allowed == header)), "{headers:?}");
        assert!(
            ["GET", "POST", "DELETE"].iter().all(|method| list("access-control-allow-methods").iter().any(|allowed| allowed == method))
        );
        assert!(allowed.headers.contains_key("access-control-max-age"));

        let mut call = grpc_web("ListChats", "alice", &[&raw::message(&ListChatsRequest::default())]);
        call.headers_mut().insert("origin", APP.parse().unwrap());
        let answer = send(&server, version, call).await;
        assert_eq!(answer.headers["access-control-allow-origin"], APP);
        let exposed = answer.headers["access-control-expose-headers"].to_str().unwrap();
        assert_eq!(exposed, "grpc-status, grpc-message, grpc-status-details-bin, x-request-id, traceparent, retry-after");
        assert!(answer.headers.get_all("vary").iter().any(|value| value == "origin"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_call_can_be_read_by_its_page_too() {
    let server = started(&["--cors-origins", APP]).await;
    let mut call = grpc_web("ListChats", "alice", &[&raw::message(&ListChatsRequest::default())]);
    call.headers_mut().insert("origin", APP.parse().unwrap());
    call.headers_mut().insert("authorization", "Bearer forged".parse().unwrap());
    let mut answer = send(&server, Version::HTTP_11, call).await;
    assert_eq!(answer.headers["access-control-allow-origin"], APP);
    assert_eq!(reason(&answer.end().await), "TOKEN_INVALID");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_other_origins_are_refused() {
    let server = started(&["--cors-origins", APP]).await;
    for stranger in ["https://evil.example", "http://app.example.org", "https://app.example.org.evil.example", "null"] {
        let mut refused = send(&server, Version::HTTP_11, preflight(stranger)).await;
        assert_eq!(refused.status, 403, "{stranger}");
        assert!(!refused.headers.contains_key("access-control-allow-origin"));
        assert_eq!(refused.json().await["details"][0]["reason"], "ORIGIN_NOT_ALLOWED");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_is_configured_only_the_servers_own_pages_get_in() {
    let server = started(&[]).await;
    assert_eq!(send(&server, Version::HTTP_2, preflight(APP)).await.status, 403);
    let mut call = grpc_web("ListChats", "alice", &[&raw::message(&ListChatsRequest::default())]);
    call.headers_mut().insert("origin", format!("https://localhost:{}", server.port).parse().unwrap());
    let mut own = send(&server, Version::HTTP_2, call).await;
    assert!(!own.headers.contains_key("access-control-allow-origin"), "it needs no leave");
    assert_eq!(own.end().await.code(), tonic::Code::Ok);
}
