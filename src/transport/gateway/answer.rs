//! gRPC answers as JSON, with the HTTP codes of grpc-gateway's mapping.

use axum::body::Body;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use prost_reflect::{DynamicMessage, MessageDescriptor, Value};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::json;
use crate::converter::status;
use crate::observe::request::{REQUEST_ID, TRACEPARENT};
use crate::service::Error;

/// Bytes before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// What is answered where even an error can't be written.
const UNWRITABLE: &str = r#"{"code":13,"message":"internal error","details":[]}"#;

/// A gRPC answer as JSON; any other goes through as it is.
pub(super) async fn of_grpc(descriptor: &MessageDescriptor, response: Response<Body>, output: Option<MessageDescriptor>) -> Response<Body> {
    if !response.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let mut answer = match outcome(&parts.headers, body, output).await {
        Ok(message) => ok(&message).unwrap_or_else(|| error(descriptor, &status::of_error(&Error::Internal))),
        Err(status) => error(descriptor, &status),
    };
    for name in [REQUEST_ID, TRACEPARENT] {
        if let Some(id) = parts.headers.get(name) {
            answer.headers_mut().insert(name, id.clone());
        }
    }
    answer
}

/// The message that a gRPC answer holds. The whole of it is at hand already, and bounded by what the API's answers may hold.
async fn outcome(headers: &HeaderMap, body: Body, output: Option<MessageDescriptor>) -> Result<DynamicMessage, Status> {
    let internal = || status::of_error(&Error::Internal);
    let body = body.collect().await.map_err(|_| internal())?;
    let status = Status::from_header_map(headers).or_else(|| body.trailers().and_then(Status::from_header_map)).ok_or_else(internal)?;
    if status.code() != Code::Ok {
        return Err(status);
    }
    let (output, bytes) = (output.ok_or_else(internal)?, body.to_bytes());
    let message = bytes.get(PREFIX_BYTES..).filter(|_| bytes.first() == Some(&0)).ok_or_else(internal)?;
    DynamicMessage::decode(output, message).map_err(|_| internal())
}

fn ok(message: &DynamicMessage) -> Option<Response<Body>> {
    match json::encode(message) {
        Ok(text) => Some(with_body(StatusCode::OK, text.into())),
        Err(error) => {
            tracing::error!(error = %error, "an answer can't be written as JSON");
            None
        }
    }
}

/// An error as google.rpc.Status in JSON.
pub(super) fn error(descriptor: &MessageDescriptor, status: &Status) -> Response<Body> {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.as_str()).unwrap_or_default();
    let mut response = with_body(http_status(status.code(), reason), status_json(descriptor, status));
    if let Some(wait) = details.retry_info().and_then(|retry| retry.retry_delay) {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    if status.code() == Code::Unauthenticated {
        let challenge = if reason == "TOKEN_MISSING" { "Bearer" } else { r#"Bearer error="invalid_token""# };
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    // For the log's line.
    response.extensions_mut().insert(status.code());
    response
}

fn status_json(descriptor: &MessageDescriptor, status: &Status) -> Bytes {
    // The details of a status are the whole encoded message. Where there are none, tonic itself has answered.
    let message = DynamicMessage::decode(descriptor.clone(), status.details());
    let mut message = message.unwrap_or_else(|_| DynamicMessage::new(descriptor.clone()));
    message.set_field_by_name("code", Value::I32(status.code().into()));
    message.set_field_by_name("message", Value::String(status.message().to_owned()));
    json::encode(&message).map_or(Bytes::from_static(UNWRITABLE.as_bytes()), Bytes::from)
}

fn with_body(code: StatusCode, text: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// grpc-gateway's mapping, but for what HTTP has codes of its own.
fn http_status(code: Code, reason: &str) -> StatusCode {
    match reason {
        "BODY_TOO_LARGE" => return StatusCode::PAYLOAD_TOO_LARGE,
        "CONTENT_TYPE" | "GRPC_WEB_REQUEST" => return StatusCode::UNSUPPORTED_MEDIA_TYPE,
        _ => {}
    }
    match code {
        Code::Ok => StatusCode::OK,
        // "Client closed request"; no name in the standard.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::super::Gateway;
    use super::*;
    use crate::converter::status::Refused;
    use crate::converter::validate::Violation;

    async fn shown(status: Status) -> (u16, HeaderMap, serde_json::Value) {
        let response = Gateway::new().unwrap().to_http(status.into_http(), None).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), parts.headers, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn an_error_keeps_its_code_message_and_details() {
        let violation = Violation { field: "text".into(), description: "must not be blank".into() };
        let (code, headers, body) = shown(status::invalid(&[violation])).await;
        assert_eq!((code, headers[CONTENT_TYPE].as_bytes()), (400, &b"application/json"[..]));
        assert_eq!((&body["code"], &body["message"]), (&json!(3), &json!("text: must not be blank")));
        let details = body["details"].as_array().unwrap();
        let of_type =
            |name: &str| details.iter().find(|detail| detail["@type"] == format!("type.googleapis.com/google.rpc.{name}")).unwrap();
        let violation = &of_type("BadRequest")["fieldViolations"][0];
        assert_eq!((&violation["field"], &violation["description"]), (&json!("text"), &json!("must not be blank")));
        let info = of_type("ErrorInfo");
        assert_eq!((&info["reason"], &info["domain"], &info["metadata"]), (&json!("INVALID_FIELDS"), &json!("chat.v1"), &json!({})));
    }

    #[tokio::test]
    async fn the_wait_is_stated_in_whole_seconds_rounded_up() {
        for (wait, seconds) in [(30, "1"), (1000, "1"), (1001, "2")] {
            let (code, headers, body) = shown(status::refused(Refused::RateLimited(Duration::from_millis(wait)))).await;
            assert_eq!((code, headers[RETRY_AFTER].to_str().unwrap()), (429, seconds));
            assert!(body["details"].as_array().unwrap().iter().any(|detail| detail.get("retryDelay").is_some()));
        }
    }

    #[tokio::test]
    async fn the_unauthenticated_are_told_how() {
        let (code, headers, _) = shown(status::refused(Refused::TokenMissing)).await;
        assert_eq!((code, headers[WWW_AUTHENTICATE].to_str().unwrap()), (401, "Bearer"));
        let (_, headers, _) = shown(status::refused(Refused::TokenExpired)).await;
        assert_eq!(headers[WWW_AUTHENTICATE], r#"Bearer error="invalid_token""#);
    }

    #[tokio::test]
    async fn an_answer_keeps_the_ids_of_its_call() {
        let mut answer = status::refused(Refused::TokenMissing).into_http::<Body>();
        for (name, id) in [(REQUEST_ID, "of-the-call"), (TRACEPARENT, "00-1-2-01"), ("server", "of-nobody")] {
            answer.headers_mut().insert(name, HeaderValue::from_static(id));
        }
        let shown = Gateway::new().unwrap().to_http(answer, None).await;
        assert_eq!(shown.headers()[REQUEST_ID], "of-the-call");
        assert_eq!(shown.headers()[TRACEPARENT], "00-1-2-01");
        assert!(!shown.headers().contains_key("server"));
    }

    #[tokio::test]
    async fn a_status_without_details_is_shown_too() {
        let (code, _, body) = shown(Status::unimplemented("no such RPC")).await;
        assert_eq!((code, body), (501, json!({"code": 12, "message": "no such RPC", "details": []})));
    }

    #[test]
    fn codes_are_those_of_grpc_gateway() {
        let expected = [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401];
        for (number, http) in (0..).zip(expected) {
            assert_eq!(http_status(Code::from_i32(number), "").as_u16(), http, "{number}");
        }
    }
}
