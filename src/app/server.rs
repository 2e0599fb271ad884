//! The server, put together: build, run(listener, shutdown).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fanout::Fanout;
use super::metrics::Metrics;
use super::probes::Probes;
use super::traces::{self, Traces, TracesError};
use super::{admin, hints, identity, lifecycle, panics, telemetry, wait};
use crate::broker::{BrokerStats, Registry};
use crate::client::redis::RedisUrlError;
use crate::config::{Collector, Config, ConfigError, DatabaseArgs, ServeArgs, Store, unless_empty};
use crate::interceptor::token::Verifier;
use crate::model::{Clock, Network, SystemClock};
use crate::observe::trace;
use crate::pb::chat::v1::chat_service_server::ChatServiceServer;
use crate::ratelimiter::memory::Rates;
use crate::repository::postgres::{self, PostgresOptions, PostgresStore};
use crate::repository::sqlite::{self, SqliteOptions, SqliteStore};
use crate::repository::traced::{TracedChats, TracedMessages};
use crate::repository::{ChatRepository, MessageRepository, StoreError};
use crate::service::append::Appender;
use crate::service::{ChatService, Parts, run_purge, run_sweep};
use crate::transport::limits::ConnectionLimits;
use crate::transport::listener::{self, ListenerOptions};
use crate::transport::session::SessionOptions;
use crate::transport::tls::{self, Certificates, TlsError, TlsFiles};
use crate::transport::{ChatApi, RouteOptions, routes};

/// Connections of the pool that serves everything but appends.
const POOL_CONNECTIONS: u32 = 16;
/// Lanes on PostgreSQL. Fewer make larger batches; more than one, so that a chat whose lock is held elsewhere doesn't hold up all others.
const POSTGRES_LANES: usize = 2;
/// Readers of the SQLite file.
const SQLITE_READERS: u32 = 4;
/// How often certificate, key and client CA are looked at.
const CERTIFICATES_INTERVAL: Duration = Duration::from_secs(1);
/// When a call's answer must have begun. Longer than the store's own time-outs.
const REQUEST_DUE: Duration = Duration::from_secs(60);
/// Part of the shutdown's time that is kept back for what comes after the streams.
const STOP_RESERVE: Duration = Duration::from_secs(1);

/// Why the server can't start. One line, naming the setting and the mend.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Log(#[from] telemetry::LogError),
    #[error(transparent)]
    Traces(#[from] TracesError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    #[error("DATABASE_URL: {0}")]
    Postgres(#[from] postgres::OpenError),
    #[error("DATABASE_URL: {0}")]
    Sqlite(#[from] sqlite::OpenError),
    #[error("DATABASE_URL: {0}")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Redis(#[from] RedisUrlError),
    #[error("{setting}: can't listen on {address}: {source}; choose another address or stop what uses it")]
    Listen { setting: &'static str, address: SocketAddr, source: std::io::Error },
    #[error("can't serve reflection: {0}; set CHAT_REFLECTION=false")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("can't wait for signals: {0}")]
    Signals(std::io::Error),
}

impl StartError {
    /// Whether the same may work a little later.
    pub(super) fn may_pass(&self) -> bool {
        let (Self::Postgres(postgres::OpenError::Store(error)) | Self::Store(error)) = self else { return false };
        error.may_pass()
    }
}

struct Opened {
    chats: Arc<dyn ChatRepository>,
    messages: Arc<dyn MessageRepository>,
}

async fn open(store: &Store, migrate: bool) -> Result<Opened, StartError> {
    let opened = match store {
        Store::Sqlite(path) => {
            let options = SqliteOptions { path: path.clone(), read_connections: SQLITE_READERS };
            let store = Arc::new(SqliteStore::open(&options, migrate).await?);
            Opened { chats: store.clone(), messages: store }
        }
        Store::Postgres(url) => {
            let options = PostgresOptions { url: url.clone(), pool_connections: POOL_CONNECTIONS, lanes: POSTGRES_LANES };
            let store = Arc::new(PostgresStore::open(&options, migrate).await?);
            Opened { chats: store.clone(), messages: store }
        }
    };
    Ok(if trace::on() { opened.traced(store.system()) } else { opened })
}

impl Opened {
    /// Each use of it has a span.
    fn traced(self, system: &'static str) -> Self {
        Self {
            chats: Arc::new(TracedChats { inner: self.chats, system }),
            messages: Arc::new(TracedMessages { inner: self.messages, system }),
        }
    }
}

/// The command `migrate`.
pub async fn migrate(args: DatabaseArgs) -> Result<(), StartError> {
    let store = Store::of(&args)?;
    wait::until_there(args.database_wait, || open(&store, true), |told| eprintln!("chat-service: {told}")).await?;
    eprintln!("the database's schema is up to date");
    Ok(())
}

/// The command `serve`: until SIGTERM or SIGINT.
pub async fn run(args: ServeArgs) -> Result<(), StartError> {
    let traces = Collector::of(&args.traces)?.map(|collector| traces::start(&collector)).transpose()?;
    telemetry::start(&args.log, traces.as_ref())?;
    panics::install();
    let config = Config::of(args)?;
    // From here on: the start may wait for the database, and the first process of a container has no signals but those it handles.
    let mut asked_to_stop = Box::pin(lifecycle::asked_to_stop().map_err(StartError::Signals)?);
    let mut server = tokio::select! {
        built = Server::build(config) => built?,
        () = &mut asked_to_stop => return Ok(()),
    };
    server.traces = traces;
    let certificates = server.tls.clone();
    lifecycle::on_hangup(move || {
        if let Some(certificates) = &certificates {
            certificates.reload_and_tell();
        }
    })
    .map_err(StartError::Signals)?;
    server.print_hints();
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        asked_to_stop.await;
        stopping.cancel();
    });
    server.run(stop).await;
    Ok(())
}

/// A server that listens and is ready to run.
pub struct Server {
    config: Config,
    opened: Opened,
    fanout: Fanout,
    service: Arc<ChatService>,
    lanes: Vec<tokio::task::JoinHandle<()>>,
    verifier: Arc<Verifier>,
    clock: Arc<dyn Clock>,
    tls: Option<Arc<Certificates>>,
    public: TcpListener,
    admin: TcpListener,
    times: Times,
    /// Set where this process exports traces.
    traces: Option<Traces>,
}

/// What isn't configured, and what tests shorten so that they needn't wait.
#[derive(Clone, Debug)]
pub struct Times {
    /// Of each connection.
    pub connection: ConnectionLimits,
    /// How long something may wait for a stream's client that takes nothing; `None`: as long as it likes.
    pub send_due: Option<Duration>,
    pub request_due: Duration,
    pub certificates_interval: Duration,
}

impl Times {
    fn of(config: &Config) -> Self {
        let limits = &config.args.limits;
        let unless_zero = |duration: Duration| (!duration.is_zero()).then_some(duration);
        let send_due = unless_zero(limits.send_timeout);
        let connection = ConnectionLimits {
            age_max: unless_zero(limits.max_connection_age),
            send_due,
            streams_max: limits.max_streams_per_connection,
            ..ConnectionLimits::default()
        };
        Self { connection, send_due, request_due: REQUEST_DUE, certificates_interval: CERTIFICATES_INTERVAL }
    }
}

impl Server {
    /// Opens the store, reads keys, and listens.
    pub async fn build(config: Config) -> Result<Self, StartError> {
        tls::install_provider();
        let args = &config.args;
        let verifier = Arc::new(identity::verifier(&config).await?);
        let files =
            TlsFiles { cert: args.tls.tls_cert.clone(), key: args.tls.tls_key.clone(), client_ca: unless_empty(&args.tls.tls_client_ca) };
        let tls = (!args.tls.insecure).then(|| Certificates::load(files)).transpose()?;
        let public = listen("CHAT_LISTEN", args.listen)?;
        let admin = listen("CHAT_ADMIN_LISTEN", args.admin_listen)?;
        let tell = |told: &str| tracing::warn!(error = told, "the database can't be reached yet");
        let opened = wait::until_there(args.database.database_wait, || open(&config.store, args.database.migrate), tell).await?;
        let fanout = Fanout::start(config.redis.as_ref()).await?;
        let mut lanes = Vec::new();
        for _ in 0..opened.messages.lane_count() {
            lanes.push(opened.messages.open_lane().await?);
        }
        let (appender, lanes) = Appender::start(lanes, &fanout.broker);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let service = Arc::new(ChatService::new(Parts {
            chats: Arc::clone(&opened.chats),
            messages: Arc::clone(&opened.messages),
            broker: Arc::clone(&fanout.broker),
            registry: Arc::clone(&fanout.registry),
            appender,
            clock: Arc::clone(&clock),
        }));
        let times = Times::of(&config);
        Ok(Self { config, opened, fanout, service, lanes, verifier, clock, tls, public, admin, times, traces: None })
    }

    /// For tests, before the server runs.
    pub fn times(&mut self) -> &mut Times {
        &mut self.times
    }

    /// Where the public port listens.
    pub fn address(&self) -> SocketAddr {
        self.public.local_addr().unwrap_or(self.config.args.listen)
    }

    /// The registry of its streams, for tests.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.fanout.registry)
    }

    /// What went between nodes, and whether it does.
    pub fn broker_stats(&self) -> Arc<BrokerStats> {
        Arc::clone(&self.fanout.stats)
    }

    fn print_hints(&self) {
        hints::print(self.address(), &self.config);
    }

    /// Serves until `stop`, then stops within the configured time, whatever clients do: streams are told to go, sends in flight
    /// are settled, and what is left at the end is cut.
    pub async fn run(self, stop: CancellationToken) {
        let Self { config, opened, mut fanout, service, lanes, verifier, clock, tls, public, admin, times, traces } = self;
        let minting = hints::minting(&config);
        let args = config.args;
        let (address, admin_address) = (public.local_addr().ok(), admin.local_addr().ok());
        let (draining, cut, background) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());

        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_serving::<ChatServiceServer<ChatApi>>().await;

        let tasks = TaskTracker::new();
        fanout.heal(Arc::clone(&opened.messages));
        let registry = Arc::clone(&fanout.registry);
        let mut vital: Vec<_> = lanes.iter().map(|lane| ("an append lane", lane.abort_handle())).collect();
        let metrics = Metrics {
            service: Arc::downgrade(&service),
            registry: Arc::clone(&registry),
            broker: Arc::clone(&fanout.broker),
            chats: Arc::clone(&opened.chats),
        };
        let sweep = run_sweep(Arc::clone(&opened.chats), opened.messages, registry, args.sweep_interval, background.clone());
        vital.push(("the sweep", tasks.spawn(sweep).abort_handle()));
        tasks.spawn(run_purge(Arc::clone(&opened.chats), background.clone()));
        let probes = Probes { chats: opened.chats, broker: Arc::clone(&fanout.stats), draining: draining.clone(), vital: vital.into() };
        tasks.spawn(admin::serve(admin, probes, metrics, background.clone()));
        if let Some(certificates) = &tls {
            tasks.spawn(Arc::clone(certificates).watch(times.certificates_interval, background.clone()));
        }

        let limiter = fanout.limiter(Rates {
            user_sends: args.limits.rate_limit_user_sends.0,
            user_calls: args.limits.rate_limit_user_calls.0,
            address: args.limits.rate_limit_address.0,
        });
        let trusted_proxies: Arc<[Network]> = args.limits.trusted_proxies.0.into();
        let options = SessionOptions {
            service,
            verifier: Arc::clone(&verifier),
            clock,
            limiter: Arc::clone(&limiter),
            send_due: times.send_due,
            draining: draining.clone(),
        };
        let routes = match routes(RouteOptions {
            api: ChatApi::new(options),
            verifier,
            limiter,
            trusted_proxies: Arc::clone(&trusted_proxies),
            origins: args.cors_origins.0.into(),
            request_due: times.request_due,
            health,
            reflection: args.reflection,
            minting,
        }) {
            Ok(routes) => routes,
            Err(error) => {
                tracing::error!(error = %error, "can't serve");
                return;
            }
        };
        let listening = ListenerOptions {
            tls,
            connections_max: args.limits.max_connections,
            connections_per_address_max: args.limits.max_connections_per_address,
            trusted_proxies,
            limits: times.connection,
        };
        let mut serving = tokio::spawn(listener::serve(public, routes, listening, draining.clone(), cut.clone()));
        tracing::info!(address = ?address, admin = ?admin_address, store = ?config.store, "serving");

        stop.cancelled().await;
        tracing::info!("stopping");
        let ends = tokio::time::Instant::now() + args.shutdown_timeout;
        reporter.set_not_serving::<ChatServiceServer<ChatApi>>().await;
        reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        draining.cancel();
        if tokio::time::timeout_at(ends - STOP_RESERVE.min(args.shutdown_timeout / 2), &mut serving).await.is_err() {
            tracing::warn!("the time to stop is over; cutting what is left");
            cut.cancel();
        }
        background.cancel();
        tasks.close();
        let rest = async {
            // Ends when the last stream has dropped the service: then the lanes have nothing left to store.
            for lane in lanes {
                drop(lane.await);
            }
            fanout.stop().await;
            tasks.wait().await;
            if let Some(traces) = traces {
                traces.flush(ends.saturating_duration_since(tokio::time::Instant::now())).await;
            }
        };
        if tokio::time::timeout_at(ends, rest).await.is_err() {
            tracing::warn!("some work did not end in time");
        }
        tracing::info!("stopped");
    }
}

/// Connections that wait to be accepted, as far as the system allows: after a restart all clients come at once, and one that finds no place
/// tries again only after a second.
const BACKLOG_CONNECTIONS: u32 = 4_096;

fn listen(setting: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let open = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restart doesn't wait for the last connections of the process before.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG_CONNECTIONS)
    };
    open().map_err(|source| StartError::Listen { setting, address, source })
}
