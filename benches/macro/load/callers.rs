//! Callers of SendMessage: each has a connection of its own and waits for each answer before it sends again.

use std::sync::Arc;

use http::Request;
use tokio::task::JoinSet;

use super::{Count, Sample, message_id, send_message, text, window};
use crate::Done;
use crate::bench::Bench;
use crate::process::Server;
use crate::site::{Site, each, users};
use crate::wire::Link;

/// "Many chats": so many for each caller, which goes from one to the next.
const CHATS_OF_A_CALLER: usize = 8;
/// Chats that are being created at once.
const CREATES_AT_ONCE: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chats {
    Many,
    One,
}

/// Messages answered in a second.
pub async fn measure(bench: &Bench, server: &Server, callers: usize, chats: Chats) -> Done<Sample> {
    let site = Site::of(bench, server)?;
    let (links, names) = (site.links(callers).await?, users("caller", callers));
    let chats = match chats {
        Chats::One => {
            let chat = site.create_chat(&links[0], &names[0], &names[1..]).await?;
            vec![vec![chat]; callers]
        }
        Chats::Many => own_chats(&site, &links, &names).await?,
    };
    let (count, mut tasks) = (Arc::new(Count::default()), JoinSet::new());
    for (number, (link, chats)) in links.into_iter().zip(chats).enumerate() {
        let request = site.request("SendMessage", &names[number])?;
        tasks.spawn(call(number, link, request, chats, Arc::clone(&count)));
    }
    Ok(window(bench, server, &count, bench.options.time).await?.rate())
}

/// Chats of each caller alone.
pub async fn own_chats(site: &Site, links: &[Link], names: &[String]) -> Done<Vec<Vec<String>>> {
    let chats = each(links.len() * CHATS_OF_A_CALLER, CREATES_AT_ONCE, |at| {
        let (site, link, name) = (site.clone(), links[at / CHATS_OF_A_CALLER].clone(), names[at / CHATS_OF_A_CALLER].clone());
        async move { site.create_chat(&link, &name, &[]).await }
    })
    .await?;
    Ok(chats.chunks(CHATS_OF_A_CALLER).map(<[String]>::to_vec).collect())
}

async fn call(task: usize, link: Link, request: Request<()>, chats: Vec<String>, count: Arc<Count>) {
    for number in 0.. {
        let chat = &chats[number as usize % chats.len()];
        let send = send_message(chat, message_id(task, number), text());
        match link.call(&request, &send).await {
            Ok(_) => count.add(1),
            Err(error) => return count.fail(error),
        }
    }
}
