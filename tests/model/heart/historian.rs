//! One who reads a chat's history by closing its side behind the join: gets all that the chat has, and then the end.

use std::sync::Arc;

use chat_service::model::ChatId;
use chat_service::pb::chat::v1::connect_chat_response::Event;
use tokio::time::timeout;
use tonic::Code;

use super::World;
use super::client::{Connection, PATIENCE};
use crate::check::{Checked, ensure, equal};
use crate::wire::Next;

/// While nothing is sent any more, and so nothing but the stream itself can end it.
pub async fn read(world: Arc<World>, name: String, chat_id: ChatId) -> Checked {
    let last_sequence = world.last_sequence(chat_id);
    let mut connection = Connection::new(&world, &name);
    connection.join(chat_id, Some(0));
    connection.close();
    let mut seen = 0;
    loop {
        let next =
            timeout(PATIENCE, connection.reading.next()).await.map_err(|_| format!("behind {seen} messages the history doesn't end"))??;
        match next {
            Next::Event(Event::Joined(_)) => {}
            Next::Event(Event::Message(message)) => {
                seen += 1;
                equal(&message.sequence, &seen, "the next message's sequence")?;
            }
            Next::Event(event) => return Err(format!("nobody asked for {event:?}")),
            Next::End(code) => {
                ensure(code == Code::Ok, || format!("the history ended with {code:?}"))?;
                return equal(&seen, &last_sequence, "messages of the history");
            }
        }
    }
}
