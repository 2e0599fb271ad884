//! `send` frames on streams, many under way: each stream has a connection of its own, joins nothing, and sends as fast as it is
//! acknowledged.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chat_service::pb::chat::v1 as pb;
use chat_service::pb::chat::v1::connect_chat_request::Frame;
use tokio::task::JoinSet;

use super::callers::own_chats;
use super::{Count, Sample, message_id, text, window};
use crate::Done;
use crate::bench::Bench;
use crate::process::Server;
use crate::site::{Site, users};
use crate::wire::{Feed, Glance, Link, glance, put_frame};

/// Sends of a stream that aren't acknowledged: a quarter of what the server allows.
const UNDER_WAY: u64 = 64;

/// Messages acknowledged in a second.
pub async fn measure(bench: &Bench, server: &Server, streams: usize) -> Done<Sample> {
    let site = Site::of(bench, server)?;
    let (links, names) = (site.links(streams).await?, users("caller", streams));
    let chats = own_chats(&site, &links, &names).await?;
    let (count, mut tasks) = (Arc::new(Count::default()), JoinSet::new());
    for (number, (link, chats)) in links.into_iter().zip(chats).enumerate() {
        let mut sender = Sender { task: number, chats, next: 0 };
        let first = sender.frames(UNDER_WAY);
        let request = site.request("ConnectChat", &names[number])?;
        let feed = link.open(&request, first).await?;
        let count = Arc::clone(&count);
        tasks.spawn(async move {
            if let Err(error) = sender.run(feed, &count).await {
                count.fail(error);
            }
        });
    }
    Ok(window(bench, server, &count, bench.options.time).await?.rate())
}

/// Sends messages, into this one chat, and waits for all acknowledgements.
pub async fn send_all(site: &Site, link: &Link, user: &str, chat_id: &str, messages: u64) -> Done<()> {
    let mut sender = Sender { task: usize::MAX, chats: vec![chat_id.to_owned()], next: 0 };
    let mut feed = link.open(&site.request("ConnectChat", user)?, sender.frames(messages)).await?;
    let mut left = messages;
    while left > 0 {
        left -= acknowledged(&mut feed).await?;
    }
    Ok(())
}

struct Sender {
    task: usize,
    chats: Vec<String>,
    next: u64,
}

impl Sender {
    /// The next so many `send` frames, in one piece.
    fn frames(&mut self, count: u64) -> Bytes {
        let mut out = BytesMut::new();
        for number in self.next..self.next + count {
            let send = pb::SendFrame {
                chat_id: self.chats[number as usize % self.chats.len()].clone(),
                client_message_id: message_id(self.task, number),
                text: text(),
            };
            put_frame(&mut out, &pb::ConnectChatRequest { frame: Some(Frame::Send(send)) });
        }
        self.next += count;
        out.freeze()
    }

    async fn run(mut self, mut feed: Feed, count: &Count) -> Done<()> {
        loop {
            let acknowledged = acknowledged(&mut feed).await?;
            if acknowledged > 0 {
                count.add(acknowledged);
                feed.send(self.frames(acknowledged))?;
            }
        }
    }
}

/// The acknowledgements of the next piece.
async fn acknowledged(feed: &mut Feed) -> Done<u64> {
    let (mut acknowledged, mut refused) = (0, 0);
    feed.piece(|event| match glance(event) {
        Glance::Acknowledged => acknowledged += 1,
        Glance::Message(_) | Glance::Joined | Glance::Other => refused += 1,
    })
    .await?;
    if refused > 0 { Err("a send was refused".into()) } else { Ok(acknowledged) }
}
