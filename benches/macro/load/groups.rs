//! Many small chats in which everyone sends: each member has a connection, a stream that has joined its chat, and sends as fast as it
//! is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::fanout::Tally;
use super::{Count, POLL, Sample, message_id, send_message, text, window};
use crate::Done;
use crate::bench::Bench;
use crate::process::{Kind, Server};
use crate::site::{Site, each, users};

const CREATES_AT_ONCE: usize = 16;
/// How long the last deliveries may take.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// Messages answered in a second, with every one delivered to every member.
pub async fn measure(bench: &Bench, server: &Server, chats: usize, members: usize) -> Done<Sample> {
    bench.need_files(chats * members + 200)?;
    let site = Site::of(bench, server)?;
    let (links, names) = (site.links(chats * members).await?, users("member", chats * members));
    let ids = each(chats, CREATES_AT_ONCE, |at| {
        let (site, link, first) = (site.clone(), links[at * members].clone(), names[at * members].clone());
        let others = names[at * members + 1..(at + 1) * members].to_vec();
        async move { site.create_chat(&link, &first, &others).await }
    })
    .await?;
    let feeds = site.streams(&links, &names, &ids).await?;
    server.quiet().await;

    let (tally, mut readers) = (Arc::new(Tally::new(members)), JoinSet::new());
    for (feed, joined_at) in feeds {
        let tally = Arc::clone(&tally);
        readers.spawn(async move {
            if let Err(error) = tally.read(feed, joined_at).await {
                tally.delivered.fail(error);
            }
        });
    }
    let (count, stop, mut senders) = (Arc::new(Count::default()), Arc::new(AtomicBool::new(false)), JoinSet::new());
    for (number, link) in links.into_iter().enumerate() {
        let (request, chat) = (site.request("SendMessage", &names[number])?, ids[number / members].clone());
        let (count, stop) = (Arc::clone(&count), Arc::clone(&stop));
        senders.spawn(async move {
            for message in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                match link.call(&request, &send_message(&chat, message_id(0, message), text())).await {
                    Ok(_) => count.add(1),
                    Err(error) => return count.fail(error),
                }
            }
        });
    }
    let window = window(bench, server, &count, bench.options.time).await?;
    stop.store(true, Ordering::Relaxed);
    while senders.join_next().await.is_some() {}
    count.check()?;

    let (expected, began) = (count.get() * members as u64, Instant::now());
    while tally.delivered.get() < expected && began.elapsed() < LOST_AFTER {
        tally.delivered.check()?;
        tokio::time::sleep(POLL).await;
    }
    let lost = expected.saturating_sub(tally.delivered.get()) + tally.lost();
    match (lost, server.kind) {
        (0, _) => {}
        (_, Kind::Bare) => eprintln!("  bare tonic lost {lost} deliveries"),
        _ => return Err(format!("{lost} of {expected} deliveries were lost").into()),
    }
    Ok(window.rate())
}
