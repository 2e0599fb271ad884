//! How the service is reached: the listener with TLS and its limits, the handlers, the connected
//! stream's session, and the ways in for browsers: gRPC-web and WebSocket.

mod addresses;
mod connection;
mod detached;
mod frames;
mod grpc_web;
mod handlers;
pub mod limits;
pub mod listener;
mod routes;
pub mod session;
mod stall;
mod stream_task;
pub mod tls;
mod websocket;

pub use handlers::ChatApi;
pub use routes::{RouteOptions, routes};
