//! Tokens for whoever asks, on a development server: the chat page's minting field. Where the secret isn't a development secret nothing of this is there.
//!
//! A development server listens on loopback only, but pages of other origins, names that were made to point here and proxies on this machine
//! reach loopback too. Whoever may be one of these is answered as at any unknown path.

use std::sync::Arc;

use axum::body::Body;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::json;
use tonic::Code;

use super::gateway::{Gateway, Refusal};
use crate::converter::status;
use crate::converter::validate::Violation;
use crate::interceptor::address::Peer;
use crate::model::UserId;

pub const PATH: &str = "/v1/dev/token";
/// Bytes of a request: a user's id and what stands around it.
const BODY_BYTES_MAX: usize = 4096;
/// Headers by which a proxy tells of itself.
const PROXIES: [&str; 4] = ["forwarded", "x-forwarded-for", "x-forwarded-host", "via"];

/// Signs a token for a user.
pub type Sign = Arc<dyn Fn(&UserId) -> Option<String> + Send + Sync>;

#[derive(Clone)]
pub struct DevToken {
    pub sign: Sign,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    sub: String,
}

impl DevToken {
    /// Whether the request is for minting, and comes from this machine by a name of this machine.
    pub fn answers(request: &Request<Body>) -> bool {
        let headers = request.headers();
        // HTTP/2 names the host in the URI.
        let named = headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = request.uri().authority().map(http::uri::Authority::as_str).or(named).unwrap_or_default();
        let own_page = headers.get(ORIGIN).is_none_or(|origin| {
            let origin = origin.to_str().unwrap_or_default();
            origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
        });
        request.uri().path() == PATH
            && request.extensions().get::<Peer>().is_some_and(|Peer(peer)| peer.to_canonical().is_loopback())
            && is_loopback(host)
            && own_page
            && !PROXIES.iter().any(|name| headers.contains_key(*name))
    }

    /// GET: it can be had here. POST `{"sub": "alice"}`: `{"token": "…"}`. `gateway` writes errors.
    pub async fn answer(&self, request: Request<Body>, gateway: &Gateway) -> Response<Body> {
        match *request.method() {
            Method::GET | Method::HEAD => told(&json!({})),
            Method::POST => match self.mint(request.into_body()).await {
                Some(token) => told(&json!({ "token": token })),
                None => {
                    let description = r#"must be {"sub":"…"} with a user's id of 1 to 128 characters"#;
                    gateway.error(&status::invalid(&[Violation { field: "body".into(), description: description.into() }]))
                }
            },
            _ => gateway.refuse(Refusal::method("GET, POST")),
        }
    }

    /// `None`: the body asks for no token that could be one.
    async fn mint(&self, body: Body) -> Option<String> {
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await.ok()?;
        let wanted: Wanted = serde_json::from_slice(&body.to_bytes()).ok()?;
        (self.sign)(&UserId::parse(&wanted.sub)?)
    }
}

fn told(body: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // For the log's line.
    response.extensions_mut().insert(Code::Ok);
    response
}

/// A name or address of this machine, with or without a port.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::StatusCode;

    use super::*;

    /// The peer, the URI, and headers.
    type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

    fn request(peer: &str, uri: &str, headers: &[(&'static str, &str)]) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = uri.parse().unwrap();
        request.extensions_mut().insert(Peer(peer.parse::<IpAddr>().unwrap()));
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        request
    }

    #[test]
    fn only_this_machine_by_a_name_of_its_own_is_answered() {
        let good: [Case; 5] = [
            ("127.0.0.1", PATH, &[("host", "localhost:50051")]),
            ("::1", PATH, &[("host", "[::1]:50051")]),
            ("::ffff:127.0.0.1", PATH, &[("host", "127.0.0.1")]),
            ("127.0.0.1", "https://localhost:50051/v1/dev/token", &[]),
            ("127.0.0.1", PATH, &[("host", "localhost:50051"), ("origin", "https://localhost:50051")]),
        ];
        for (peer, uri, headers) in good {
            assert!(DevToken::answers(&request(peer, uri, headers)), "{peer} {uri} {headers:?}");
        }
        let bad: [Case; 11] = [
            ("192.0.2.1", PATH, &[("host", "localhost")]),
            ("127.0.0.1", PATH, &[]),
            ("127.0.0.1", PATH, &[("host", "chat.example:50051")]),
            ("127.0.0.1", PATH, &[("host", "localhost.chat.example")]),
            ("127.0.0.1", "https://chat.example/v1/dev/token", &[("host", "localhost")]),
            ("127.0.0.1", PATH, &[("host", "localhost"), ("origin", "https://chat.example")]),
            ("127.0.0.1", PATH, &[("host", "localhost:50051"), ("origin", "http://localhost:3000")]),
            ("127.0.0.1", PATH, &[("host", "localhost"), ("origin", "null")]),
            ("127.0.0.1", PATH, &[("host", "localhost"), ("x-forwarded-for", "192.0.2.1")]),
            ("127.0.0.1", PATH, &[("host", "localhost"), ("via", "1.1 proxy")]),
            ("127.0.0.1", "/v1/dev/token/", &[("host", "localhost")]),
        ];
        for (peer, uri, headers) in bad {
            assert!(!DevToken::answers(&request(peer, uri, headers)), "{peer} {uri} {headers:?}");
        }
    }

    #[tokio::test]
    async fn a_token_is_for_a_user_that_could_be_one() {
        let minting = DevToken { sign: Arc::new(|user| Some(format!("token of {}", user.as_str()))) };
        let gateway = Gateway::new().unwrap();
        let post = async |body: &str| {
            let mut request = request("127.0.0.1", PATH, &[]);
            *request.method_mut() = Method::POST;
            *request.body_mut() = Body::from(body.to_owned());
            let response = minting.answer(request, &gateway).await;
            let (status, body) = (response.status(), response.into_body().collect().await.unwrap().to_bytes());
            (status, serde_json::from_slice::<serde_json::Value>(&body).unwrap())
        };
        assert_eq!(post(r#"{"sub":"dave"}"#).await, (StatusCode::OK, json!({ "token": "token of dave" })));
        let long = format!(r#"{{"sub":"{}"}}"#, "x".repeat(129));
        let huge = format!(r#"{{"sub":"dave"}}{}"#, " ".repeat(BODY_BYTES_MAX));
        for body in ["", "dave", "{}", r#"{"sub":""}"#, r#"{"sub":"a\u0000"}"#, r#"{"sub":"dave","roles":["admin"]}"#, &long, &huge] {
            assert_eq!(post(body).await.0, StatusCode::BAD_REQUEST, "{body}");
        }
    }
}
