//! Asks what there is.

use ::redis::{ErrorKind, RedisError, ServerErrorKind, Value};

use super::{Server, Topology};

/// Why nobody could be asked. Told in the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiscoverError {
    #[error("{server}: {error}")]
    Silent { server: String, error: RedisError },
    #[error("{0} is no part of a Cluster, and REDIS_URL names several servers; name one server, or only those of one Cluster")]
    Single(String),
    #[error("{0} belongs to a Cluster in which no server has any slots")]
    Slotless(String),
}

/// Asks the candidates in turn until one answers. `is_several`: the configuration names several servers, which only a Cluster may have.
pub(super) async fn discover(candidates: &[&Server], is_several: bool) -> Result<(Server, Topology), DiscoverError> {
    let mut first_error = None;
    for server in candidates {
        match ask(server, is_several).await {
            Ok(topology) => return Ok((Server::clone(server), topology)),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or(DiscoverError::Slotless("REDIS_URL".into())))
}

async fn ask(server: &Server, is_several: bool) -> Result<Topology, DiscoverError> {
    let name = || server.name().to_owned();
    let no_answer = |error| DiscoverError::Silent { server: name(), error };
    let mut connection = server.connect().await.map_err(no_answer)?;
    let slots: Result<Value, RedisError> = ::redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await;
    match slots {
        Ok(answer) => Topology::of_slots(&answer, server).ok_or_else(|| DiscoverError::Slotless(name())),
        Err(error) if !says_no_cluster(&error) => Err(no_answer(error)),
        Err(_) if is_several => Err(DiscoverError::Single(name())),
        Err(_) => Ok(Topology::single(server.clone())),
    }
}

/// A server without a Cluster doesn't know the question. One that forbids it is taken for one as well: plain channels go through a whole
/// Cluster too, only at a higher price.
fn says_no_cluster(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ResponseError | ServerErrorKind::NoPerm))
}
