//! The request that asks for a WebSocket: whether it is one, from whose page, and with whose token.

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::converter::status::{self, Refused};
use crate::interceptor::cors;
use crate::model::Origin;
use crate::transport::gateway::Gateway;

/// The protocol that is spoken, for clients that name protocols.
const PROTOCOL: &str = "chat.v1";
/// What a token begins with, where it comes as the name of a protocol: browsers can't set headers.
const BEARER: &str = "bearer.";
const KEY_BYTES: usize = 16;

/// Why there is no WebSocket, and how HTTP says it.
#[derive(Debug, PartialEq, Eq)]
pub struct NoSocket {
    pub code: StatusCode,
    pub refused: Refused,
}

impl NoSocket {
    pub fn into_response(self, version: Version, gateway: &Gateway) -> Response<Body> {
        let mut response = gateway.error(&status::refused(self.refused));
        *response.status_mut() = self.code;
        let headers = response.headers_mut();
        match self.code {
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
            }
            StatusCode::UPGRADE_REQUIRED => {
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
                // HTTP/2 has no such header.
                if version == Version::HTTP_11 {
                    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                }
            }
            _ => {}
        }
        response
    }
}

/// Checks the request, and makes the answer that agrees.
pub fn agree(request: &Request<Body>, origins: &[Origin]) -> Result<Response<Body>, NoSocket> {
    let no = |code, why| NoSocket { code, refused: Refused::Handshake(why) };
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(no(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket is asked for by GET"));
    }
    let asks = words(headers, header::CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade"))
        && words(headers, header::UPGRADE).any(|word| word.eq_ignore_ascii_case("websocket"));
    if request.version() != Version::HTTP_11 || !asks {
        return Err(no(StatusCode::UPGRADE_REQUIRED, "this is a WebSocket: ask for it by HTTP/1.1 with `Upgrade: websocket`"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(no(StatusCode::UPGRADE_REQUIRED, "the version of the WebSocket protocol is 13"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| STANDARD.decode(key).is_ok_and(|key| key.len() == KEY_BYTES));
    let key = key.ok_or_else(|| no(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is not 16 bytes in base64"))?;
    if !may_come_from(headers, origins) {
        return Err(NoSocket { code: StatusCode::FORBIDDEN, refused: Refused::OriginNotAllowed });
    }
    let named = headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL);
    if named && !words(headers, header::SEC_WEBSOCKET_PROTOCOL).any(|name| name == PROTOCOL) {
        return Err(no(StatusCode::BAD_REQUEST, "of the protocols in Sec-WebSocket-Protocol one must be chat.v1"));
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let agreed = response.headers_mut();
    agreed.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    agreed.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    // Base64 is fit for a header.
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        agreed.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if named {
        // Never the one with the token.
        agreed.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    Ok(response)
}

/// What the request says of its caller, as the header `authorization`: its own, or the token among the protocols.
pub fn authorization(headers: &HeaderMap) -> Option<HeaderValue> {
    let own = headers.get(header::AUTHORIZATION).cloned();
    let mut value = own.or_else(|| {
        let token = words(headers, header::SEC_WEBSOCKET_PROTOCOL).find_map(|name| name.strip_prefix(BEARER))?;
        HeaderValue::from_str(&format!("Bearer {token}")).ok()
    })?;
    value.set_sensitive(true);
    Some(value)
}

/// Browsers send an origin with every WebSocket, and let any page open one: the server has to look. Others than browsers send none.
fn may_come_from(headers: &HeaderMap, origins: &[Origin]) -> bool {
    if !headers.contains_key(header::ORIGIN) {
        return true;
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    cors::origin(headers).is_some_and(|(origin, _)| origins.contains(&origin) || origin.is_at(host))
}

/// The words of a header that lists them by commas, in one line or several.
fn words(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn asking(change: impl FnOnce(&mut Request<Body>)) -> Result<Response<Body>, NoSocket> {
        let mut request = Request::get("/v1/connect")
            .header("host", "chat.example.org")
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", KEY)
            .body(Body::empty())
            .unwrap();
        change(&mut request);
        agree(&request, &["https://app.example.org".parse().unwrap()])
    }

    fn with(name: &'static str, value: &str) -> Result<Response<Body>, NoSocket> {
        asking(|request| {
            request.headers_mut().insert(name, value.parse().unwrap());
        })
    }

    fn code(answer: Result<Response<Body>, NoSocket>) -> u16 {
        answer.unwrap_or_else(|no| no.into_response(Version::HTTP_11, &Gateway::new().unwrap())).status().as_u16()
    }

    #[test]
    fn a_handshake_is_answered_as_the_protocol_has_it() {
        let agreed = asking(|_| {}).unwrap();
        assert_eq!(agreed.status(), StatusCode::SWITCHING_PROTOCOLS);
        // The example of RFC 6455.
        assert_eq!(agreed.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!agreed.headers().contains_key("sec-websocket-protocol"));
    }

    #[test]
    fn what_is_no_handshake_is_told_so() {
        assert_eq!(code(asking(|request| *request.method_mut() = Method::POST)), 405);
        assert_eq!(code(asking(|request| *request.version_mut() = Version::HTTP_2)), 426);
        assert_eq!(code(with("upgrade", "h2c")), 426);
        assert_eq!(code(with("connection", "close")), 426);
        assert_eq!(code(with("sec-websocket-version", "8")), 426);
        assert_eq!(code(with("sec-websocket-key", "c2hvcnQ=")), 400);
        assert_eq!(code(with("sec-websocket-protocol", "graphql-ws")), 400);
    }

    #[test]
    fn pages_of_other_origins_stay_out_unless_they_are_configured() {
        assert_eq!(code(with("origin", "https://chat.example.org")), 101);
        assert_eq!(code(with("origin", "https://app.example.org")), 101);
        for stranger in ["https://evil.example", "http://app.example.org", "https://chat.example.org:8443", "null", "*"] {
            assert_eq!(code(with("origin", stranger)), 403, "{stranger}");
        }
    }

    #[test]
    fn a_token_comes_as_a_header_or_as_a_protocol_and_is_never_sent_back() {
        let agreed = with("sec-websocket-protocol", "chat.v1, bearer.abc.def-_g").unwrap();
        assert_eq!(agreed.headers()["sec-websocket-protocol"], "chat.v1");
        let mut headers = HeaderMap::new();
        assert_eq!(authorization(&headers), None);
        headers.insert("sec-websocket-protocol", "chat.v1, bearer.abc.def-_g".parse().unwrap());
        let value = authorization(&headers).unwrap();
        assert!(value == "Bearer abc.def-_g" && value.is_sensitive());
        headers.insert("authorization", "Bearer other".parse().unwrap());
        assert_eq!(authorization(&headers).unwrap(), "Bearer other");
    }
}
