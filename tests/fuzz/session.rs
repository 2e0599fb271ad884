//! Frames of every kind, in any order, on one session: each is answered once, and the session lives on or ends with a status.

use std::sync::Arc;
use std::time::Duration;

use chat_service::app::token;
use chat_service::broker::{Broker, LocalBroker, Registry};
use chat_service::interceptor::token::{Demands, Key, Verifier};
use chat_service::model::{Clock, Identity, NewChat, SystemClock, SystemRole, Timestamp, UserId};
use chat_service::pb::chat::v1::connect_chat_request::Frame;
use chat_service::pb::chat::v1::connect_chat_response::Event;
use chat_service::pb::chat::v1::{ConnectChatRequest, SendFrame};
use chat_service::ratelimiter::memory::{MemoryLimiter, Rates};
use chat_service::service::append::Appender;
use chat_service::service::{ChatService, Parts};
use chat_service::transport::session::{Session, SessionOptions, outbox};
use proptest::collection::vec;
use proptest::prelude::Strategy;
use proptest::prop_oneof;
use proptest::sample::select;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::check::{Checked, equal, paused_runtime, property};
use crate::inputs::{self, edited, edits, text};
use crate::memory::{Faults, MemoryStore, chat_id};
use crate::reference::Model;
use crate::wire::{Next, Reading};

const SECRET: &[u8] = b"a secret of the tests, long enough for HS256";
/// The id of the last frame: when it is answered, all others are.
const PROBE: &str = "the probe";
/// Virtual time.
const PATIENCE: Duration = Duration::from_secs(60);

fn signed(sub: &str, role: &str) -> String {
    token::sign(SECRET, sub, &[role.to_owned()], Duration::from_secs(3_600), None, None).unwrap()
}

fn frames() -> impl Strategy<Value = Vec<ConnectChatRequest>> {
    // Two chats of the user's, one of somebody else's, one of nobody's.
    let known: Vec<String> = (0..4).map(|number| chat_id(number).to_string()).collect();
    let ids = prop_oneof![10 => select(known), 1 => inputs::id()].boxed();
    let tokens = select(vec![signed("alice", "user"), signed("alice", "reader"), signed("alice", "admin"), signed("bob", "user")]);
    let frame = inputs::frame(ids, prop_oneof![4 => tokens, 1 => text(64)]);
    let mutated = (frame, edits()).prop_map(|(frame, edits)| {
        let bytes = edited(frame.encode_to_vec(), &edits);
        ConnectChatRequest::decode(bytes.as_slice()).unwrap_or(frame)
    });
    vec(mutated, 0..40)
}

fn chats() -> Model {
    let mut model = Model::default();
    for (number, owner) in [(0, "alice"), (1, "alice"), (2, "bob")] {
        model.create(&NewChat {
            id: chat_id(number),
            title: "Tea".into(),
            created_by: UserId::new(owner),
            members: Vec::new(),
            created_at: Timestamp::from_micros(1),
            request: None,
        });
    }
    model
}

async fn run(frames: Vec<ConnectChatRequest>) -> Checked {
    let store = MemoryStore::new(chats(), 0, Faults { pause_millis: 2, ..Faults::NONE });
    let registry = Registry::new();
    let broker: Arc<dyn Broker> = Arc::new(LocalBroker::new(Arc::clone(&registry)));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (appender, _lanes) = Appender::start(store.lanes(1), &broker);
    let parts =
        Parts { chats: store.clone(), messages: store, broker, registry: Arc::clone(&registry), appender, clock: Arc::clone(&clock) };
    let verifier = Verifier::new(&Key::Secret(SECRET.to_vec()), &Demands::default()).ok_or("no verifier")?;
    let draining = CancellationToken::new();
    let service = Arc::new(ChatService::new(parts));
    let limiter = Arc::new(MemoryLimiter::new(Rates::default()));
    let options = SessionOptions { service, verifier: Arc::new(verifier), clock, limiter, send_due: None, draining: draining.clone() };
    let options = Arc::new(options);
    let expires_at = Timestamp::from_secs(i64::MAX / 4_000_000);
    let identity = Identity { user_id: UserId::new("alice"), role: SystemRole::User, expires_at };
    let (sender, inbound) = mpsc::unbounded_channel::<Result<ConnectChatRequest, Status>>();
    let (outbox, body) = outbox::outbox();
    let session = tokio::spawn(Session::new(options, draining.clone(), identity, UnboundedReceiverStream::new(inbound), outbox).run());
    let mut reading = Reading::new(body);

    let probe = SendFrame { chat_id: chat_id(0).to_string(), client_message_id: PROBE.into(), text: "x".into() };
    let probe = ConnectChatRequest { frame: Some(Frame::Send(probe)) };
    let count = frames.len() + 1;
    for frame in frames.into_iter().chain([probe]) {
        sender.send(Ok(frame)).map_err(|_| "the session reads no more")?;
    }
    let answers = timeout(PATIENCE, answers(&mut reading)).await.map_err(|_| "a frame was never answered")??;
    equal(&answers, &count, "answers to frames")?;

    drop(sender);
    // One that follows a chat goes on until it is told to go.
    let code = match timeout(PATIENCE, end(&mut reading)).await {
        Ok(code) => code?,
        Err(_) => {
            draining.cancel();
            let code = timeout(PATIENCE, end(&mut reading)).await.map_err(|_| "a session never ended")??;
            equal(&code, &Code::Unavailable, "the end of a session that was told to go")?;
            Code::Ok
        }
    };
    equal(&code, &Code::Ok, "the end of a session")?;
    session.await.map_err(|error| format!("the session failed: {error}"))?;
    equal(&registry.subscription_count(), &0, "subscriptions that are left")
}

/// How many frames were answered when the probe was.
async fn answers(reading: &mut Reading) -> Checked<usize> {
    let mut count = 0;
    loop {
        let event = match reading.next().await? {
            Next::Event(event) => event,
            Next::End(code) => return Err(format!("a session ended with {code:?} while frames waited")),
        };
        let settled = match &event {
            Event::Message(_) => continue,
            Event::Acknowledged(acknowledged) => acknowledged.client_message_id.as_str(),
            Event::Rejected(rejected) => rejected.client_message_id.as_str(),
            Event::Joined(_) | Event::Left(_) | Event::TokenRefreshed(_) => "",
            Event::GoingAway(_) => return Err("told to go without a reason".into()),
        };
        count += 1;
        if settled == PROBE {
            return Ok(count);
        }
    }
}

async fn end(reading: &mut Reading) -> Checked<Code> {
    loop {
        if let Next::End(code) = reading.next().await? {
            return Ok(code);
        }
    }
}

#[test]
fn every_frame_is_answered_once_whatever_it_is() {
    property(96, &frames(), |frames| {
        let follows = frames.iter().any(|request| matches!(&request.frame, Some(Frame::Join(join)) if join.follow));
        paused_runtime().block_on(run(frames)).map_err(|why| format!("{why} (a join follows: {follows})"))
    });
}
