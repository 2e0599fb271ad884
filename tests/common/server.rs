//! A server in this process, on a real port.

use std::sync::Arc;

use chat_service::app::server::{Server, StartError, Times};
use chat_service::broker::{BrokerStats, Registry};
use chat_service::config::{Config, ServeArgs};
use clap::Parser;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{Client, Ground, On, channel, client, mint, within};

/// A flag that comes again replaces the one before.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Serve {
    #[command(flatten)]
    args: ServeArgs,
}

/// A server in this process.
pub struct TestServer {
    pub ground: Arc<Ground>,
    pub port: u16,
    pub registry: Arc<Registry>,
    pub broker: Arc<BrokerStats>,
    stop: CancellationToken,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl TestServer {
    pub async fn start(on: On) -> Self {
        Self::start_on(Ground::new(on).await, &[]).await
    }

    pub async fn start_on(ground: Arc<Ground>, more: &[&str]) -> Self {
        Self::start_with(ground, more, |_| {}).await
    }

    /// A server some of whose times are others than the usual ones. Flags in `more` take the place of the ground's.
    pub async fn start_with(ground: Arc<Ground>, more: &[&str], adjust: impl FnOnce(&mut Times)) -> Self {
        let flags = ground.flags();
        Self::try_start_with(ground, &flags, more, adjust).await.unwrap()
    }

    /// Where something else than the ground's secret vouches for tokens.
    pub async fn start_without_secret(ground: Arc<Ground>, more: &[&str]) -> Self {
        let flags = ground.flags_without_secret();
        Self::try_start(ground, &flags, more).await.unwrap()
    }

    pub async fn try_start(ground: Arc<Ground>, flags: &[String], more: &[&str]) -> Result<Self, StartError> {
        Self::try_start_with(ground, flags, more, |_| {}).await
    }

    async fn try_start_with(
        ground: Arc<Ground>,
        flags: &[String],
        more: &[&str],
        adjust: impl FnOnce(&mut Times),
    ) -> Result<Self, StartError> {
        let args = Serve::parse_from(std::iter::once("serve").chain(flags.iter().map(String::as_str)).chain(more.iter().copied())).args;
        let mut server = Server::build(Config::of(args)?).await?;
        adjust(server.times());
        let (port, registry, stop) = (server.address().port(), server.registry(), CancellationToken::new());
        let broker = server.broker_stats();
        let running = tokio::spawn(server.run(stop.clone()));
        Ok(Self { ground, port, registry, broker, stop, running: Some(running) })
    }

    pub fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Waits until a server that was told to stop has stopped.
    pub async fn stopped(mut self) {
        within(self.running.take().unwrap()).await.unwrap();
    }

    pub async fn channel(&self) -> Channel {
        channel(&self.ground, self.port).await
    }

    pub async fn client(&self, sub: &str) -> Client {
        client(&self.ground, self.port, &mint(sub, &["user"])).await
    }

    pub async fn client_as(&self, sub: &str, roles: &[&str]) -> Client {
        client(&self.ground, self.port, &mint(sub, roles)).await
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A server on SQLite with further flags.
pub async fn started(more: &[&str]) -> TestServer {
    TestServer::start_on(Ground::new(On::Sqlite).await, more).await
}
