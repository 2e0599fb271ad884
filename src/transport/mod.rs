//! How the service is reached: the listener with TLS and its limits, the handlers, the connected stream's session.

mod addresses;
mod connection;
mod frames;
mod handlers;
pub mod limits;
pub mod listener;
mod routes;
pub mod session;
mod stall;
mod stream_task;
pub mod tls;

pub use handlers::ChatApi;
pub use routes::{RouteOptions, routes};
