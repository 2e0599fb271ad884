//! How the service is reached: the listener with TLS, the handlers, the connected stream's session.

mod handlers;
pub mod listener;
mod routes;
pub mod session;
mod stream_task;
pub mod tls;

pub use handlers::ChatApi;
pub use routes::{RouteOptions, routes};
