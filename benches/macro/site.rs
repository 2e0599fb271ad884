//! A server as the load sees it: its address, users with tokens, chats.

use std::sync::Arc;

use chat_service::pb::chat::v1 as pb;
use chat_service::pb::chat::v1::connect_chat_request::Frame;
use http::Request;
use prost::Message as _;
use tokio::task::JoinSet;

use crate::Done;
use crate::bench::{Bench, token_of};
use crate::process::Server;
use crate::wire::{Dialer, Feed, Link, WIDE, frame};

/// Connections that are being made at once: more would wait in the listener's queue, or be dropped there.
const DIALS_MAX: usize = 64;
/// What one CreateChat may name.
const MEMBERS_OF_A_REQUEST: usize = 1000;

#[derive(Clone)]
pub struct Site {
    pub dialer: Dialer,
    secret: Arc<str>,
}

impl Site {
    pub fn of(bench: &Bench, server: &Server) -> Done<Self> {
        Ok(Self { dialer: Dialer::new(bench, server.port, WIDE)?, secret: Arc::clone(&bench.secret) })
    }

    /// A user's calls of a method.
    pub fn request(&self, method: &str, user: &str) -> Done<Request<()>> {
        let request = Request::post(format!("https://localhost/chat.v1.ChatService/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {}", token_of(&self.secret, user)?));
        Ok(request.body(())?)
    }

    /// A chat of this user and these others; its id.
    pub async fn create_chat(&self, link: &Link, user: &str, others: &[String]) -> Done<String> {
        if others.len() > MEMBERS_OF_A_REQUEST {
            return Err(format!("{} members are more than one request names", others.len()).into());
        }
        let create = pb::CreateChatRequest { title: "Benchmark".into(), member_ids: others.to_vec(), request_id: String::new() };
        let answer = link.call(&self.request("CreateChat", user)?, &create).await?;
        Ok(pb::CreateChatResponse::decode(answer)?.chat.unwrap_or_default().chat_id)
    }

    /// A stream of this user that has joined a chat.
    pub async fn join(&self, link: &Link, user: &str, chat_id: &str, after_sequence: Option<i64>) -> Done<(Feed, i64)> {
        let request = self.request("ConnectChat", user)?;
        let join = Frame::Join(pb::JoinFrame { chat_id: chat_id.into(), after_sequence, follow: false });
        let mut feed = link.open(&request, frame(&pb::ConnectChatRequest { frame: Some(join) })).await?;
        let last_sequence = feed.joined().await?;
        Ok((feed, last_sequence))
    }

    pub async fn links(&self, count: usize) -> Done<Vec<Link>> {
        let dialer = &self.dialer;
        each(count, DIALS_MAX, |_| {
            let dialer = dialer.clone();
            async move { dialer.connect().await }
        })
        .await
    }

    /// Streams, each of a user of its own, in turns over the connections, and in chunks over the chats; each with the sequence at
    /// which it joined.
    pub async fn streams(&self, links: &[Link], users: &[String], chats: &[String]) -> Done<Vec<(Feed, i64)>> {
        let of_a_chat = users.len().div_ceil(chats.len());
        each(users.len(), DIALS_MAX, |at| {
            let (site, link) = (self.clone(), links[at % links.len()].clone());
            let (user, chat) = (users[at].clone(), chats[at / of_a_chat].clone());
            async move { site.join(&link, &user, &chat, None).await }
        })
        .await
    }
}

pub fn users(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

/// Does something `count` times, `at_once` at a time; the results in order.
pub async fn each<T, F>(count: usize, at_once: usize, mut work: impl FnMut(usize) -> F) -> Done<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = Done<T>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let mut results: Vec<Option<T>> = (0..count).map(|_| None).collect();
    let mut next = 0;
    while next < count || !tasks.is_empty() {
        while next < count && tasks.len() < at_once {
            let (at, task) = (next, work(next));
            tasks.spawn(async move { (at, task.await) });
            next += 1;
        }
        if let Some(done) = tasks.join_next().await {
            let (at, result) = done?;
            results[at] = Some(result?);
        }
    }
    Ok(results.into_iter().flatten().collect())
}
