//! Refusals in plain HTTP, of what becomes no gRPC call: a google.rpc.Status as JSON.

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;
use tonic::Status;
use tonic_types::StatusExt;

use super::duration;

/// An answer with this code of HTTP's.
pub fn refusal<B: From<String>>(code: StatusCode, status: &Status) -> Response<B> {
    let details = status.get_error_details();
    let wait = details.retry_info().and_then(|retry| retry.retry_delay);
    let mut shown = Vec::new();
    if let Some(info) = details.error_info() {
        let kind = "type.googleapis.com/google.rpc.ErrorInfo";
        shown.push(json!({"@type": kind, "reason": info.reason, "domain": info.domain, "metadata": {}}));
    }
    if let Some(wait) = wait {
        shown.push(json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": duration(wait).to_string()}));
    }
    let body = json!({"code": i32::from(status.code()), "message": status.message(), "details": shown});
    let mut response = Response::new(B::from(body.to_string()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(wait) = wait {
        let whole_seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::converter::status::{Refused, refused};

    #[test]
    fn a_refusal_says_why_and_when_to_come_again() {
        let status = refused(Refused::RateLimited(Duration::from_millis(1500)));
        let response: Response<String> = refusal(StatusCode::TOO_MANY_REQUESTS, &status);
        assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (429, &HeaderValue::from_static("2")));
        let body: serde_json::Value = serde_json::from_str(response.body()).unwrap();
        assert_eq!((&body["code"], &body["details"][0]["reason"]), (&json!(8), &json!("RATE_LIMITED")));
        assert_eq!(body["details"][1]["retryDelay"], "1.500s");
    }
}
