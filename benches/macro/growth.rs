//! What grows with a deployment must not make each message dearer, nor the start slower: databases of three sizes, filled by bulk
//! inserts past the server, and the same paced load on each.
//!
//! | | chats | messages stored |
//! |---|--:|--:|
//! | small | 10 | 1,000 |
//! | many chats | 100,000 | 1,000 |
//! | many messages | 100,000 | 10 million (BENCH_STORED_MESSAGES) |

mod fill;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chat_service::pb::chat::v1 as pb;
use rand::Rng;
use tokio::task::JoinSet;

use crate::Done;
use crate::bench::Bench;
use crate::board::{Board, Goal, Spec};
use crate::load::paced::metronome;
use crate::load::{Count, Sample, Window, message_id, send_message, text, window};
use crate::process::{Kind, Server, Spent};
use crate::site::Site;
use crate::wire::Link;
use fill::{Database, Size, USERS, chat_id, user_of};

pub const KEYS: [&str; 2] = ["growth-postgres", "growth-sqlite"];

const SMALL: Size = Size { chats: 10, chats_with_messages: 10, messages_each: 100 };
const MANY_CHATS: Size = Size { chats: 100_000, chats_with_messages: 1_000, messages_each: 1 };
/// Messages a second: far from full load, so that batches are alike whatever the size.
const PACE: u32 = 2_000;
/// Longer than other rows: what is measured is a few per cent.
const TIMES: u32 = 3;
/// When a database of many messages must be served.
const START_GOAL: Duration = Duration::from_secs(1);

fn many_messages(bench: &Bench) -> Size {
    Size { chats_with_messages: MANY_CHATS.chats, messages_each: (bench.options.stored_messages / MANY_CHATS.chats).max(1), ..MANY_CHATS }
}

pub async fn play_all(bench: &Bench, board: &mut Board) {
    for (key, kind) in KEYS.into_iter().zip([Kind::Postgres, Kind::Sqlite]) {
        if !bench.options.wants(key) {
            continue;
        }
        eprintln!("{key}");
        if let Err(error) = play(kind, bench, board).await {
            board.fail(key, error);
        }
    }
}

async fn play(kind: Kind, bench: &Bench, board: &mut Board) -> Done<()> {
    let large = many_messages(bench);
    let small = Database::fill(bench, kind, SMALL).await?;
    let chats = Database::fill(bench, kind, MANY_CHATS).await?;
    let messages = Database::fill(bench, kind, large).await?;
    let store = kind.name();
    let cpu = |name: String, against| Spec { name, unit: "µs", goal: Goal::Flat(0.15), against };
    let by_chats = cpu(format!("CPU per message, {} chats ({store})", MANY_CHATS.chats), "10 chats");
    let by_messages = cpu(format!("CPU per message, {} stored messages ({store})", large.messages()), "1,000 stored messages");
    let start = Spec {
        name: format!("start to serving, {} stored messages ({store})", large.messages()),
        unit: "s",
        goal: Goal::AtMost(1.0),
        against: "1 s",
    };
    for _ in 0..bench.options.rounds {
        let (few, _) = measure(bench, kind, &small).await?;
        let (many, _) = measure(bench, kind, &chats).await?;
        let (full, started_in) = measure(bench, kind, &messages).await?;
        board.record(&by_chats, many, few);
        board.record(&by_messages, full, many);
        let plain = |time: Duration| Sample { value: time.as_secs_f64(), spent: Spent::default() };
        board.record(&start, plain(started_in), plain(START_GOAL));
    }
    for database in [small, chats, messages] {
        database.remove(bench).await?;
    }
    Ok(())
}

/// The CPU for each message, of the server and its PostgreSQL, in microseconds; and the time from the start of the process to its
/// first answer.
async fn measure(bench: &Bench, kind: Kind, database: &Database) -> Done<(Sample, Duration)> {
    let server = Server::start_on(bench, kind, &database.url).await?;
    let site = Site::of(bench, &server)?;
    let began = Instant::now();
    let first = site.dialer.connect().await?;
    let get = pb::GetChatRequest { chat_id: chat_id(0) };
    first.call(&site.request("GetChat", &user_of(0))?, &get).await?;
    let started_in = server.started_in + began.elapsed();
    drop(first);

    let window = paced(bench, &server, &site, database.size).await?;
    let spent = window.spent;
    server.stop(bench).await?;
    let micros = (spent.server + spent.database).as_secs_f64() * 1e6 / window.count as f64;
    Ok((Sample { value: micros, spent }, started_in))
}

/// Sends into chats by chance, when messages are due.
async fn paced(bench: &Bench, server: &Server, site: &Site, size: Size) -> Done<Window> {
    let time = bench.options.time * TIMES;
    let links: Vec<Link> = site.links(USERS as usize).await?;
    let requests = (0..USERS).map(|user| site.request("SendMessage", &user_of(user))).collect::<Done<Vec<_>>>()?;
    let beats = ((bench.options.warm_up + time).as_secs_f64() * f64::from(PACE)).ceil() as u32;
    let mut due = metronome(Duration::from_secs(1) / PACE, Instant::now(), beats);
    let (count, ids) = (Arc::new(Count::default()), AtomicU64::new(0));
    let run: u32 = rand::rng().random();
    let counted = Arc::clone(&count);
    let sending = tokio::spawn(async move {
        let mut sends = JoinSet::new();
        while due.recv().await.is_some() {
            let chat = rand::rng().random_range(0..size.chats);
            // The chat's own user.
            let user = (chat % USERS) as usize;
            let (link, request, count) = (links[user].clone(), requests[user].clone(), Arc::clone(&counted));
            // Other runs have left messages in the same database.
            let id = message_id(run as usize, ids.fetch_add(1, Ordering::Relaxed));
            sends.spawn(async move {
                match link.call(&request, &send_message(&chat_id(chat), id, text())).await {
                    Ok(_) => count.add(1),
                    Err(error) => count.fail(error),
                }
            });
            while sends.try_join_next().is_some() {}
        }
        while sends.join_next().await.is_some() {}
    });
    let window = window(bench, server, &count, time).await?;
    sending.await?;
    count.check()?;
    Ok(window)
}
