//! Pages of other origins: which may call this server, and what of its answers they may read.
//!
//! Browsers ask by a preflight, which carries no token; `transport` has it answered by [`preflight`], behind log and address limit. Without a configured origin
//! nothing is said, and pages of other origins stay out; the server's own need no leave.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use futures_util::future::Either;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use tonic::Code;
use tower::Service;

use super::{Answer, HttpService};
use crate::converter::status::Refused;
use crate::model::Origin;

const METHODS: &str = "GET, POST, DELETE";
const REQUEST_HEADERS: &str = "authorization, content-type, x-grpc-web, x-user-agent, grpc-timeout, x-request-id, traceparent, tracestate";
/// Headers of answers that scripts may read.
const EXPOSED: &str = "grpc-status, grpc-message, grpc-status-details-bin, x-request-id, traceparent, retry-after";
/// Seconds for which a browser may remember a preflight's answer: the longest that browsers keep one.
const MAX_AGE: &str = "7200";

#[derive(Clone)]
pub struct Cors<S> {
    pub inner: S,
    pub origins: Arc<[Origin]>,
}

impl<S: HttpService> Service<Request<Body>> for Cors<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Answer>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if self.origins.is_empty() || is_preflight(&request) {
            // A preflight's answer says it by itself.
            return Either::Left(self.inner.call(request));
        }
        let allowed = allowed(request.headers(), &self.origins);
        let answer = self.inner.call(request);
        Either::Right(Box::pin(async move {
            let mut response = answer.await?;
            let headers = response.headers_mut();
            headers.append(header::VARY, HeaderValue::from_static("origin"));
            if let Some(origin) = allowed {
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
                headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
            }
            Ok(response)
        }))
    }
}

/// The origin of the page that a request comes from, and how it was written. `None`: no page, or one without an origin.
pub fn origin(headers: &HeaderMap) -> Option<(Origin, &HeaderValue)> {
    let value = headers.get(header::ORIGIN)?;
    Some((value.to_str().ok()?.parse().ok()?, value))
}

/// The request's origin, where its pages may use this server.
fn allowed(headers: &HeaderMap, origins: &[Origin]) -> Option<HeaderValue> {
    origin(headers).filter(|(origin, _)| origins.contains(origin)).map(|(_, value)| value.clone())
}

/// Whether a browser asks before a page's request.
pub fn is_preflight(request: &Request<Body>) -> bool {
    let has = |name| request.headers().contains_key(name);
    request.method() == Method::OPTIONS && has(header::ORIGIN) && has(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight. `refuse` tells others than the pages of `origins` why not.
pub fn preflight(headers: &HeaderMap, origins: &[Origin], refuse: impl FnOnce(Refused) -> Response<Body>) -> Response<Body> {
    let allowed = allowed(headers, origins);
    let mut response = match &allowed {
        Some(_) => Response::new(Body::empty()),
        None => refuse(Refused::OriginNotAllowed),
    };
    let headers = response.headers_mut();
    let vary = "origin, access-control-request-method, access-control-request-headers";
    headers.insert(header::VARY, HeaderValue::from_static(vary));
    if let Some(origin) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(REQUEST_HEADERS));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
        *response.status_mut() = StatusCode::NO_CONTENT;
        // For the log's line.
        response.extensions_mut().insert(Code::Ok);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer(origins: &[&str], method: &str, headers: &[(&'static str, &'static str)]) -> Response<Body> {
        let origins: Arc<[Origin]> = origins.iter().map(|origin| origin.parse().unwrap()).collect();
        let known = Arc::clone(&origins);
        let inner = tower::service_fn(move |request: Request<Body>| {
            let refuse = |_| Response::builder().status(StatusCode::FORBIDDEN).body(Body::empty()).unwrap();
            let answer = if is_preflight(&request) { preflight(request.headers(), &known, refuse) } else { Response::new(Body::empty()) };
            std::future::ready(Ok::<_, Infallible>(answer))
        });
        let mut request = Request::builder().method(method);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Cors { inner, origins }.call(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    const APP: (&str, &str) = ("origin", "https://app.example.org");
    const ASKS: (&str, &str) = ("access-control-request-method", "POST");

    #[tokio::test]
    async fn a_preflight_of_a_configured_origin_is_answered_and_any_other_refused() {
        let allowed = answer(&["https://app.example.org"], "OPTIONS", &[APP, ASKS]).await;
        assert_eq!(
            (allowed.status(), &allowed.headers()["access-control-allow-origin"]),
            (StatusCode::NO_CONTENT, &APP.1.parse().unwrap())
        );
        for origins in [&[][..], &["https://other.example.org"], &["http://app.example.org"]] {
            let refused = answer(origins, "OPTIONS", &[APP, ASKS]).await;
            assert_eq!(refused.status(), StatusCode::FORBIDDEN);
            assert!(!refused.headers().contains_key("access-control-allow-origin"));
            assert_eq!(refused.headers()["vary"], allowed.headers()["vary"]);
        }
    }

    #[tokio::test]
    async fn an_answer_is_opened_to_configured_origins_alone() {
        let origins = ["https://app.example.org"];
        let opened = answer(&origins, "POST", &[APP]).await;
        assert_eq!(opened.headers()["access-control-allow-origin"], APP.1);
        assert_eq!(opened.headers()["vary"], "origin");
        let stranger = answer(&origins, "POST", &[("origin", "null")]).await;
        assert!(!stranger.headers().contains_key("access-control-allow-origin"));
        assert_eq!(stranger.headers()["vary"], "origin", "caches must not mix them up");
        assert!(answer(&[], "POST", &[APP]).await.headers().is_empty(), "nothing is said where nothing is configured");
    }
}
