//! The ways in for browsers: gRPC-web with CORS, and the WebSocket.

#[path = "../common/mod.rs"]
mod common;
mod cors;
mod foreign;
mod grpc_web;
mod http_client;
#[expect(dead_code, reason = "of the hostile clients' tools only some")]
#[path = "../hostile/raw.rs"]
mod raw;
mod socket;
mod websocket;
mod websocket_ends;
