//! The tower layers that every request passes, outermost first. The order matters:
//!
//! 1. [`panic`]: a panic anywhere below is answered as INTERNAL and takes nobody else along, so it stands first.
//! 2. [`log`]: gives the request its ids and writes its line; before auth, so that refused calls are seen as well.
//! 3. [`auth`]: verifies the token, or has it verified; nothing behind it runs for strangers.

pub mod auth;
pub mod context;
pub mod log;
pub mod panic;
pub mod token;

use std::convert::Infallible;
use std::pin::Pin;

use axum::body::Body;
use http::{Request, Response};

/// What a layer of this stack wraps.
pub trait HttpService:
    tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

impl<S> HttpService for S where
    S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

/// What a layer answers with.
type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;
