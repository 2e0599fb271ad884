//! How often an address, and then a user, may call. An answer that refuses says when to come again.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use futures_util::future::{Either, Ready, ready};
use http::{Request, Response};
use tower::Service;

use super::HttpService;
use super::address::{Peer, client_address};
use crate::converter::status::{self, Refused};
use crate::model::{Identity, Network, client_network};
use crate::ratelimiter::{Check, RateLimiter, RetryAfter};

/// The call whose messages count as sends.
const SEND_MESSAGE: &str = "/chat.v1.ChatService/SendMessage";

/// Either refused at once, or what is behind answers.
type Decided<S> = Either<Ready<Result<Response<Body>, Infallible>>, <S as Service<Request<Body>>>::Future>;

/// Counts every request of an address, before anything is done for it.
#[derive(Clone)]
pub struct AddressLimit<S> {
    pub inner: S,
    pub limiter: Arc<dyn RateLimiter>,
    /// Proxies that are trusted to say for whom they ask.
    pub trusted_proxies: Arc<[Network]>,
}

impl<S: HttpService> Service<Request<Body>> for AddressLimit<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Decided<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let checked = check_address(&request, self.limiter.as_ref(), &self.trusted_proxies);
        decide(&mut self.inner, request, checked)
    }
}

/// Counts a request of its address.
pub fn check_address(request: &Request<Body>, limiter: &dyn RateLimiter, trusted_proxies: &[Network]) -> Result<(), RetryAfter> {
    client_of(request, trusted_proxies).map_or(Ok(()), |client| limiter.check(Check::Address(client)))
}

/// The network that a request counts for. `None`: it was made in this process, and has no peer.
pub fn client_of<B>(request: &Request<B>, trusted_proxies: &[Network]) -> Option<IpAddr> {
    let Peer(peer) = request.extensions().get()?;
    Some(client_network(client_address(request.headers(), *peer, trusted_proxies)))
}

/// Counts the calls of a user, whom the token names. Health and reflection have none and pass.
#[derive(Clone)]
pub struct UserLimit<S> {
    pub inner: S,
    pub limiter: Arc<dyn RateLimiter>,
}

impl<S: HttpService> Service<Request<Body>> for UserLimit<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Decided<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let checked = request.extensions().get::<Identity>().map_or(Ok(()), |identity| {
            let user = &identity.user_id;
            self.limiter.check(if request.uri().path() == SEND_MESSAGE { Check::Send(user) } else { Check::Call(user) })
        });
        decide(&mut self.inner, request, checked)
    }
}

fn decide<S: HttpService>(inner: &mut S, request: Request<Body>, checked: Result<(), RetryAfter>) -> Decided<S> {
    match checked {
        Ok(()) => Either::Right(inner.call(request)),
        Err(RetryAfter(wait)) => Either::Left(ready(Ok(status::refused(Refused::RateLimited(wait)).into_http()))),
    }
}
