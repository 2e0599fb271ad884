//! Whether this process lives, and whether it may be sent requests.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::broker::{BrokerState, BrokerStats};
use crate::repository::{ChatRepository, StoreError};

/// How long the database may take to show that it is there.
const PING_DUE: Duration = Duration::from_secs(2);

/// What the probes look at.
#[derive(Clone)]
pub struct Probes {
    pub chats: Arc<dyn ChatRepository>,
    pub broker: Arc<BrokerStats>,
    pub draining: CancellationToken,
    /// Tasks without which the promises don't hold, by what each is for. They end with the server alone.
    pub vital: Arc<[(&'static str, AbortHandle)]>,
}

type Said = (StatusCode, String);

impl Probes {
    /// `/healthz` and `/readyz`.
    pub fn router(self) -> Router {
        let ready = self.clone();
        Router::new()
            .route("/healthz", get(move || std::future::ready(self.alive())))
            .route("/readyz", get(move || async move { ready.ready().await }))
    }

    /// One that isn't alive should be started anew. It asks nobody else: restarts don't mend a database that is away.
    fn alive(&self) -> Said {
        let ended = self.vital.iter().find(|(_, task)| task.is_finished());
        match ended {
            // A stop ends them in order.
            Some((name, _)) if !self.draining.is_cancelled() => unavailable(&format!("{name} has ended")),
            Some(_) | None => (StatusCode::OK, "alive\n".to_owned()),
        }
    }

    /// One that isn't ready should get no requests for now.
    async fn ready(&self) -> Said {
        if self.draining.is_cancelled() {
            return unavailable("draining");
        }
        match tokio::time::timeout(PING_DUE, self.chats.ping()).await {
            // Without Redis a node is ready all the same, only slower: taking it out would take out all of them together.
            Ok(Ok(())) => match self.broker.state() {
                BrokerState::Up => (StatusCode::OK, "ready\n".to_owned()),
                BrokerState::Starting | BrokerState::Degraded => {
                    (StatusCode::OK, "degraded: Redis is away; messages of other nodes wait for the sweep\n".to_owned())
                }
            },
            Ok(Err(StoreError::SchemaTooOld)) => {
                unavailable("the database's schema is older than this build's; run `chat-service migrate`")
            }
            Ok(Err(
                StoreError::Unreachable(_)
                | StoreError::Undone(_)
                | StoreError::Unavailable(_)
                | StoreError::TimedOut(_)
                | StoreError::Refused(_)
                | StoreError::Corrupt(_),
            ))
            | Err(_) => unavailable("the database is unreachable"),
        }
    }
}

fn unavailable(why: &str) -> Said {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::sqlite::{SqliteOptions, SqliteStore};

    #[tokio::test]
    async fn a_process_whose_vital_task_has_ended_is_not_alive_unless_it_stops() {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteOptions { path: folder.path().join("chat.db"), read_connections: 1 };
        let chats = Arc::new(SqliteStore::open(&options, true).await.unwrap());
        let task = tokio::spawn(std::future::pending::<()>());
        let vital: Arc<[_]> = Arc::from([("an append lane", task.abort_handle())]);
        let probes = Probes { chats, broker: Arc::default(), draining: CancellationToken::new(), vital };
        assert_eq!(probes.alive().0, StatusCode::OK);
        assert_eq!(probes.ready().await.0, StatusCode::OK);
        task.abort();
        drop(task.await);
        assert_eq!(probes.alive(), (StatusCode::SERVICE_UNAVAILABLE, "an append lane has ended\n".to_owned()));
        probes.draining.cancel();
        assert_eq!(probes.alive().0, StatusCode::OK);
        assert_eq!(probes.ready().await, (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned()));
    }
}
