//! Readers that were cut off all come back at once, and read what they missed.

use http::Request;

use super::{Sample, pipelined};
use crate::Done;
use crate::bench::Bench;
use crate::process::{Clocks, Server};
use crate::site::{Site, each, users};
use crate::wire::{Dialer, Glance, frame, glance};
use chat_service::pb::chat::v1 as pb;
use chat_service::pb::chat::v1::connect_chat_request::Frame;

const OWNER: &str = "owner";
/// Before the cut.
const DIALS_AT_ONCE: usize = 64;

/// Milliseconds until every one of so many clients, each with a connection of its own, is back: connected by TLS, joined, and with
/// the messages that it was behind.
pub async fn measure(bench: &Bench, server: &Server, clients: usize, behind: u64) -> Done<Sample> {
    bench.need_files(clients + 200)?;
    let site = Site::of(bench, server)?;
    let (owner, names) = (site.dialer.connect().await?, users("reader", clients));
    let chat = site.create_chat(&owner, OWNER, &names).await?;
    let dialers: Vec<Dialer> = names.iter().map(|_| site.dialer.remembering()).collect();
    let there = each(clients, DIALS_AT_ONCE, |at| {
        let (site, dialer, name, chat) = (site.clone(), dialers[at].clone(), names[at].clone(), chat.clone());
        async move { site.join(&dialer.connect().await?, &name, &chat, None).await }
    })
    .await?;
    drop(there);
    if behind > 0 {
        pipelined::send_all(&site, &owner, OWNER, &chat, behind).await?;
    }
    let requests = names.iter().map(|name| site.request("ConnectChat", name)).collect::<Done<Vec<_>>>()?;
    server.quiet().await;

    let clocks = Clocks::read(bench, server);
    let back = each(clients, clients, |at| come_back(dialers[at].clone(), requests[at].clone(), chat.clone(), behind)).await?;
    let spent = Clocks::read(bench, server).since(&clocks);
    drop(back);
    Ok(Sample { value: spent.time.as_secs_f64() * 1e3, spent })
}

/// Returns what holds the stream open: nobody goes before all are there.
async fn come_back(dialer: Dialer, request: Request<()>, chat_id: String, behind: u64) -> Done<crate::wire::Feed> {
    let link = dialer.connect().await?;
    // From the beginning: nothing was sent before they were cut off.
    let join = Frame::Join(pb::JoinFrame { chat_id, after_sequence: Some(0), follow: false });
    let mut feed = link.open(&request, frame(&pb::ConnectChatRequest { frame: Some(join) })).await?;
    let (mut joined, mut last, mut wrong) = (false, 0, false);
    while !joined || last < behind {
        feed.piece(|event| match glance(event) {
            Glance::Joined => joined = true,
            Glance::Message(sequence) if sequence.unsigned_abs() == last + 1 => last += 1,
            Glance::Message(_) | Glance::Acknowledged | Glance::Other => wrong = true,
        })
        .await?;
        if wrong {
            return Err("a reader that came back got something else than the next message".into());
        }
    }
    Ok(feed)
}
