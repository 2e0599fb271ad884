//! Who calls: identity providers and Auth Services, in health and in trouble, and tokens made by others.

#[path = "../../examples/auth_service.rs"]
#[allow(dead_code, reason = "the example's own start")]
mod auth_service;
#[path = "../common/mod.rs"]
mod common;
mod foreign;
mod key_set;
mod provider;
mod service;

use common::{TestServer, list_request, with_token, within};
use tonic::Status;
use tonic::transport::Channel;

/// Calls a server on one connection, each time with another token.
struct Caller(Channel);

impl Caller {
    async fn of(server: &TestServer) -> Self {
        Self(server.channel().await)
    }

    async fn call(&self, token: &str) -> Result<(), Status> {
        within(with_token(self.0.clone(), token).list_chats(list_request())).await.map(drop)
    }
}
