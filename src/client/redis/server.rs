//! One Redis server.

use std::fmt;
use std::time::Duration;

use ::redis::aio::{MultiplexedConnection, SendError};
use ::redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, PushInfo, RedisResult};

/// When a connection must be there, its greeting included.
const CONNECTION_DUE: Duration = Duration::from_secs(2);
/// When an answer is due. A server that takes longer is as good as gone: what it would bring comes faster from the database.
const ANSWER_DUE: Duration = Duration::from_secs(2);

/// A server's address, and what it takes to get in.
#[derive(Clone)]
pub struct Server {
    info: ConnectionInfo,
    name: String,
}

impl Server {
    pub(super) fn new(info: ConnectionInfo) -> Self {
        let name = info.addr().to_string();
        Self { info, name }
    }

    /// Another server, reached in the same way.
    pub(super) fn sibling(&self, host: &str, port: u16) -> Self {
        let address = match self.info.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure: *insecure, tls_params: tls_params.clone() }
            }
            _ => ConnectionAddr::Tcp(host.to_owned(), port),
        };
        Self::new(self.info.clone().set_addr(address))
    }

    /// Host and port.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn host(&self) -> &str {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
            _ => "",
        }
    }

    /// Connects. The connection ends when the last copy of what is returned is dropped.
    pub async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        self.connect_by(&config()).await
    }

    /// Connects; what the server sends unasked goes to `take`, which is called by the task that reads the connection and must not wait.
    pub async fn connect_and_take(&self, take: impl Fn(PushInfo) + Send + Sync + 'static) -> RedisResult<MultiplexedConnection> {
        let take = move |push: PushInfo| {
            take(push);
            Ok::<(), SendError>(())
        };
        self.connect_by(&config().set_push_sender(take)).await
    }

    async fn connect_by(&self, config: &AsyncConnectionConfig) -> RedisResult<MultiplexedConnection> {
        Client::open(self.info.clone())?.get_multiplexed_async_connection_with_config(config).await
    }
}

fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECTION_DUE)).set_response_timeout(Some(ANSWER_DUE))
}

impl PartialEq for Server {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Server {}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
