//! Verifies the token of every call but health checks and reflection, and gives the call its [`Identity`].

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use http::header::AUTHORIZATION;
use http::{Request, Response};
use tower::Service;

use super::context::RequestContext;
use super::token::Verifier;
use super::{Answer, HttpService};
use crate::converter::status::{self, Refused};
use crate::model::Identity;

/// Services that need no token.
const OPEN: [&str; 3] = ["/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];

#[derive(Clone)]
pub struct Auth<S> {
    pub inner: S,
    pub verifier: Arc<Verifier>,
}

impl<S: HttpService> Service<Request<Body>> for Auth<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Answer {
        if !OPEN.iter().any(|prefix| request.uri().path().starts_with(prefix)) {
            match identify(&self.verifier, &request) {
                Ok(identity) => {
                    if let Some(context) = request.extensions().get::<Arc<RequestContext>>() {
                        drop(context.user_id.set(identity.user_id.clone()));
                    }
                    request.extensions_mut().insert(identity);
                }
                Err(refused) => return Box::pin(std::future::ready(Ok(status::refused(refused).into_http()))),
            }
        }
        Box::pin(self.inner.call(request))
    }
}

fn identify(verifier: &Verifier, request: &Request<Body>) -> Result<Identity, Refused> {
    let header = request.headers().get(AUTHORIZATION).ok_or(Refused::TokenMissing)?;
    let header = header.to_str().map_err(|_| Refused::TokenInvalid)?;
    let (scheme, token) = header.split_once(' ').ok_or(Refused::TokenInvalid)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refused::TokenMissing);
    }
    verifier.verify(token.trim())
}
