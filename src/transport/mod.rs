//! How the service is reached: the listener with TLS and its limits, the dispatcher, the handlers, REST, the connected stream's session.

mod addresses;
mod assets;
mod connection;
mod dev_token;
mod dispatch;
mod frames;
pub mod gateway;
mod handlers;
pub mod limits;
pub mod listener;
mod routes;
pub mod session;
mod stall;
mod stream_task;
pub mod tls;

pub use dev_token::DevToken;
pub use handlers::ChatApi;
pub use routes::{RouteError, RouteOptions, routes};
