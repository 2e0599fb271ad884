//! Streams that have joined a chat in which nothing happens: what they cost in memory.

use super::Sample;
use crate::Done;
use crate::bench::Bench;
use crate::process::{Server, Spent, memory_of};
use crate::site::{Site, users};

/// As many as one CreateChat names.
const STREAMS_OF_A_CHAT: usize = 1000;
const OWNER: &str = "owner";

/// Bytes of each stream, its share of the connection included: the growth of the server's PSS. Each stream has a user of its own.
pub async fn measure(bench: &Bench, server: &Server, streams: usize, connections: usize) -> Done<Sample> {
    bench.need_files(connections + 200)?;
    let site = Site::of(bench, server)?;
    let (owner, names) = (site.dialer.connect().await?, users("idle", streams));
    let of_a_chat = streams.div_ceil(streams.div_ceil(STREAMS_OF_A_CHAT));
    let mut chats = Vec::new();
    for members in names.chunks(of_a_chat) {
        chats.push(site.create_chat(&owner, OWNER, members).await?);
    }
    // What the first stream costs once for all isn't counted.
    drop(site.join(&site.dialer.connect().await?, OWNER, &chats[0], None).await?);
    server.quiet().await;

    let before = memory_of(server.pid)?;
    let links = site.links(connections).await?;
    let feeds = site.streams(&links, &names, &chats).await?;
    server.quiet().await;
    let after = memory_of(server.pid)?;
    drop((links, feeds));
    let grown = |before: u64, after: u64| after.saturating_sub(before) as f64 / streams as f64;
    eprintln!("  {}: {:.0} B RSS", server.kind.name(), grown(before.rss, after.rss));
    Ok(Sample { value: grown(before.pss, after.pss), spent: Spent::default() })
}
