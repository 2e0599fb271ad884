//! The Auth Service: asks it who a token's bearer is, within a deadline, and lets nobody in that it couldn't ask about.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Uri;
use rand::Rng;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tonic::metadata::{Ascii, MetadataKey, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tracing::Instrument;

use super::trust::Trust;
use crate::model::{Clock, Identity, SystemRole, Timestamp, UserId};
use crate::observe::trace::{self, child_span};
use crate::pb::auth::v1::access_service_client::AccessServiceClient;
use crate::pb::auth::v1::{CheckRequest, CheckResponse};

/// How long a connection may take to be made.
const CONNECT_DUE: Duration = Duration::from_secs(1);
/// A connection is asked for a sign of life this often, and must give it in this time: else calls would wait for a peer that is gone.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_DUE: Duration = Duration::from_secs(5);
/// The pause before the second try; it doubles.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// The largest answer: a user with very many roles.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How much is asked of the Auth Service. Together they bound a check to about 3.2 s.
#[derive(Clone, Copy, Debug)]
pub struct AccessLimits {
    /// How long each try may take.
    pub try_due: Duration,
    /// Tries of a check, which is a read, where an answer didn't come.
    pub tries: u32,
    /// Checks under way at once. Beyond: refused as overloaded.
    pub in_flight: usize,
}

impl Default for AccessLimits {
    fn default() -> Self {
        Self { try_due: Duration::from_secs(1), tries: 3, in_flight: 1024 }
    }
}

/// Why somebody isn't let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessError {
    /// The service says that the token is not valid.
    Unauthenticated,
    /// The service says that its bearer may not call this.
    Denied,
    /// Too many checks are under way.
    Overloaded,
    /// The service gave no answer that can be used.
    Unavailable,
}

#[derive(Debug, thiserror::Error)]
#[error("CHAT_AUTH_SERVICE_URL: can't use the address: {0}")]
pub struct AddressError(#[from] tonic::transport::Error);

pub struct AccessClient {
    service: AccessServiceClient<Channel>,
    limits: AccessLimits,
    in_flight: Semaphore,
    clock: Arc<dyn Clock>,
    /// The last check got no answer: said once, not for each call.
    away: AtomicBool,
}

impl AccessClient {
    /// Connects with the first check. `trust`: required for https.
    pub fn new(address: &Uri, trust: Option<&Trust>, limits: AccessLimits, clock: Arc<dyn Clock>) -> Result<Self, AddressError> {
        let mut endpoint = Endpoint::from(address.clone())
            .connect_timeout(CONNECT_DUE)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_DUE);
        if let Some(trust) = trust {
            endpoint = endpoint.tls_config(trust.grpc())?;
        }
        let service = AccessServiceClient::new(endpoint.connect_lazy()).max_decoding_message_size(ANSWER_BYTES_MAX);
        Ok(Self { service, limits, in_flight: Semaphore::new(limits.in_flight), clock, away: AtomicBool::new(false) })
    }

    /// Who the bearer of a token is, if it may call `endpoint`.
    pub async fn check(&self, token: &str, endpoint: &str) -> Result<Identity, AccessError> {
        let Ok(_slot) = self.in_flight.try_acquire() else { return Err(AccessError::Overloaded) };
        let mut pause = RETRY_PAUSE;
        let mut tries = 1;
        loop {
            let span = child_span!(
                "auth.check",
                otel.kind = "client",
                rpc.system = "grpc",
                rpc.service = "auth.v1.AccessService",
                rpc.method = "Check"
            );
            let status = match timeout(self.limits.try_due, self.ask(token, endpoint)).instrument(span).await {
                Ok(Ok(answer)) => return self.identity(answer),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer in time"),
            };
            match status.code() {
                Code::Unauthenticated => return Err(AccessError::Unauthenticated),
                Code::PermissionDenied => return Err(AccessError::Denied),
                code if may_pass(code) && tries < self.limits.tries => {}
                _ => return Err(self.unavailable(&status)),
            }
            // Half of it at least, so that the service has time to come back; not everyone at once.
            let jittered = rand::rng().random_range(pause / 2..pause);
            sleep(jittered).await;
            tries += 1;
            pause *= 2;
        }
    }

    async fn ask(&self, token: &str, endpoint: &str) -> Result<CheckResponse, Status> {
        let mut request = Request::new(CheckRequest { token: token.to_owned(), endpoint: endpoint.to_owned() });
        request.set_timeout(self.limits.try_due);
        trace::hand_on(|name, value| {
            let header = (name.parse::<MetadataKey<Ascii>>(), value.parse::<MetadataValue<Ascii>>());
            if let (Ok(name), Ok(value)) = header {
                request.metadata_mut().insert(name, value);
            }
        });
        Ok(self.service.clone().check(request).await?.into_inner())
    }

    /// An answer that makes no sense is none.
    fn identity(&self, answer: CheckResponse) -> Result<Identity, AccessError> {
        let expires_at = answer.expires_at.and_then(timestamp).filter(|expires_at| *expires_at > self.clock.now());
        let Some((user_id, expires_at)) = UserId::parse(&answer.user_id).zip(expires_at) else {
            tracing::error!("the Auth Service's answer has no fit user_id, or no expires_at in the future");
            return Err(AccessError::Unavailable);
        };
        if self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("the Auth Service answers again");
        }
        Ok(Identity { user_id, role: SystemRole::from_claims(answer.roles.iter().map(String::as_str)), expires_at })
    }

    fn unavailable(&self, status: &Status) -> AccessError {
        if !self.away.swap(true, Ordering::Relaxed) {
            // Without the service's text, which may repeat the token; what failed below it is this side's own.
            let cause = status.source().map(|error| error.to_string()).unwrap_or_default();
            tracing::warn!(code = ?status.code(), %cause, "no answer from the Auth Service (CHAT_AUTH_SERVICE_URL); nobody is let in");
        }
        AccessError::Unavailable
    }
}

/// What another try may mend: the service is away or late, or the connection was lost, which tonic reports as one of the last two.
fn may_pass(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown)
}

/// `None`: no time that can be told.
fn timestamp(time: prost_types::Timestamp) -> Option<Timestamp> {
    let micros = time.seconds.checked_mul(1_000_000)?.checked_add(i64::from(time.nanos / 1_000))?;
    Some(Timestamp::from_micros(micros))
}
