//! Verifies the token of every call but health checks and reflection, and gives the call its [`Identity`].

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use futures_util::future::Either;
use http::header::AUTHORIZATION;
use http::{Request, Response};
use tower::Service;

use super::token::{Check, Verifier};
use super::{Answer, HttpService};
use crate::converter::status::{self, Refused};
use crate::model::Identity;
use crate::observe::metrics::{self, AuthResult};
use crate::observe::request::RequestContext;

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
    type Future = Either<S::Future, Answer>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if OPEN.iter().any(|prefix| request.uri().path().starts_with(prefix)) {
            return Either::Left(self.inner.call(request));
        }
        match identify(&self.verifier, &request) {
            Check::Done(Ok(identity)) => {
                count(None);
                admit(&mut request, identity);
                Either::Left(self.inner.call(request))
            }
            Check::Done(Err(refused)) => {
                count(Some(refused));
                Either::Right(Box::pin(std::future::ready(Ok(status::refused(refused).into_http()))))
            }
            Check::Wait(check) => {
                // The one that said it is ready is the one to be called.
                let clone = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, clone);
                Either::Right(Box::pin(async move {
                    let checked = check.await;
                    count(checked.as_ref().err().copied());
                    match checked {
                        Ok(identity) => {
                            admit(&mut request, identity);
                            inner.call(request).await
                        }
                        Err(refused) => Ok(status::refused(refused).into_http()),
                    }
                }))
            }
        }
    }
}

/// Counts what came of a token.
pub fn count(refused: Option<Refused>) {
    metrics::authenticated(match refused {
        None => AuthResult::Accepted,
        Some(Refused::TokenMissing) => AuthResult::Missing,
        Some(Refused::TokenExpired) => AuthResult::Expired,
        Some(Refused::AccessDenied | Refused::TokenOfAnother) => AuthResult::Denied,
        Some(Refused::AuthUnavailable | Refused::AuthOverloaded) => AuthResult::Unavailable,
        Some(_) => AuthResult::Invalid,
    });
}

fn admit(request: &mut Request<Body>, identity: Identity) {
    if let Some(context) = request.extensions().get::<Arc<RequestContext>>() {
        drop(context.user_id.set(identity.user_id.clone().into()));
    }
    request.extensions_mut().insert(identity);
}

fn identify(verifier: &Arc<Verifier>, request: &Request<Body>) -> Check {
    match bearer(request) {
        Ok(token) => verifier.check(token, request.uri().path()),
        Err(refused) => Check::Done(Err(refused)),
    }
}

fn bearer(request: &Request<Body>) -> Result<&str, Refused> {
    let header = request.headers().get(AUTHORIZATION).ok_or(Refused::TokenMissing)?;
    let header = header.to_str().map_err(|_| Refused::TokenInvalid)?;
    let (scheme, token) = header.split_once(' ').ok_or(Refused::TokenInvalid)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(Refused::TokenMissing) }
}
