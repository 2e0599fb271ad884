//! A member who is removed in the middle: its stream loses the chat even where the announcement is lost, gets nothing behind the
//! end, and before it what everyone gets.

use std::sync::Arc;
use std::time::Duration;

use chat_service::model::ChatId;
use chat_service::pb::chat::v1::LeftReason;
use chat_service::pb::chat::v1::connect_chat_response::Event;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Code;

use super::World;
use super::client::{Connection, PATIENCE};
use crate::check::{Checked, ensure, equal};
use crate::wire::Next;

/// Virtual time in which nothing may come any more.
const QUIET: Duration = Duration::from_secs(5);

pub async fn visit(world: Arc<World>, name: &'static str, chat_id: ChatId) -> Checked {
    let due = Instant::now() + PATIENCE;
    let mut seen = 0;
    let mut connection = Connection::new(&world, name);
    connection.join(chat_id, Some(seen));
    loop {
        let next = timeout_at(due, connection.reading.next()).await.map_err(|_| "one who was removed kept the chat")??;
        match next {
            Next::Event(Event::Joined(_)) => {}
            Next::Event(Event::Message(message)) => {
                seen += 1;
                equal(&message.sequence, &seen, "the next message's sequence")?;
            }
            Next::Event(Event::Left(left)) => {
                equal(&left.reason(), &LeftReason::Removed, "why the chat was lost")?;
                break;
            }
            Next::Event(Event::Rejected(rejected)) => match rejected.status.as_ref().map(|status| Code::from_i32(status.code)) {
                // Removed before it had joined.
                Some(Code::NotFound) => break,
                Some(Code::Unavailable) => connection.join(chat_id, Some(seen)),
                _ => return Err(format!("{rejected:?}")),
            },
            Next::Event(event) => return Err(format!("nobody asked for {event:?}")),
            Next::End(code) => {
                ensure(code == Code::Unavailable && !world.store.is_calm(), || format!("the stream ended with {code:?}"))?;
                connection = Connection::new(&world, name);
                connection.join(chat_id, Some(seen));
            }
        }
    }
    let more = timeout(QUIET, connection.reading.next()).await;
    ensure(more.is_err(), || format!("behind the end came {more:?}"))
}
