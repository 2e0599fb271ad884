//! The tower layers that every request passes, outermost first. The order matters:
//!
//! 1. [`cors`]: around everything that `transport` answers, the dispatcher included: what is refused by the others must be readable by a
//!    page too.
//! 2. [`log`]: hides the request's credentials from whoever shows it, gives it its ids and its span, writes its line and counts it;
//!    before auth, so that refused calls are seen as well.
//! 3. [`panic`]: a panic anywhere below is answered as INTERNAL and takes nobody else along; behind the log, so that this answer has its
//!    ids, its line and its count as any other. What panics outside of it ends its HTTP/2 stream, or its HTTP/1 connection, alone: each is a
//!    task, or is caught in its connection's.
//! 4. [`limit::AddressLimit`]: before auth, so that guessing tokens, and the work of verifying them, is limited too.
//! 5. [`auth`]: verifies the token, or has it verified; nothing behind it runs for strangers.
//! 6. [`limit::UserLimit`]: behind auth, which says who the user is.
//! 7. [`deadline`]: innermost: what was let in is answered in time.
//!
//! Preflights carry no token: what answers them has the layers 1 to 4 alone.

pub mod address;
pub mod auth;
pub mod cors;
pub mod deadline;
pub mod limit;
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
