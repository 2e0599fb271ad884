//! How the service is reached: the listener with TLS and its limits, the dispatcher, the handlers, REST, the connected stream's session, and
//! the ways in for browsers: gRPC-web and WebSocket.

mod addresses;
mod assets;
mod common;
mod connection;
#[cfg(test)]
mod counting;
mod detached;
mod dev_token;
mod dispatch;
mod drain;
mod driver;
mod frames;
pub mod gateway;
mod gather;
mod grpc_web;
mod handlers;
pub mod limits;
pub mod listener;
mod open;
mod rare_timer;
mod rarely;
mod routes;
pub mod session;
mod stall;
mod stream_task;
pub mod tls;
mod websocket;

pub use dev_token::DevToken;
pub use handlers::ChatApi;
pub use routes::{RouteError, RouteOptions, routes};
