//! The hot pieces alone: what a message costs on its way, apart from sockets and stores. `cargo bench --bench micro`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use chat_service::app::token;
use chat_service::broker::{Delivery, Mailbox, Registry};
use chat_service::converter::frames::message_frame;
use chat_service::converter::validate::violations;
use chat_service::interceptor::token::{Check, Demands, Key, Verifier};
use chat_service::model::{ChatId, Message, Timestamp, UserId};
use chat_service::pb::chat::v1 as pb;
use chat_service::pb::chat::v1::connect_chat_request::Frame;
use chat_service::transport::session::{Cursor, Verdict};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message as _;

const SECRET: &[u8] = b"a secret of the benchmark, long enough for HS256";
const ENDPOINT: &str = "/chat.v1.ChatService/SendMessage";
/// Messages that a cursor is shown in one go.
const SEQUENCES: i64 = 1000;

fn message(chat_id: ChatId, sequence: i64) -> Message {
    Message {
        chat_id,
        sequence,
        sender_id: UserId::new("alice"),
        client_message_id: "0192f0c1-2b3a-7000-8000-000000000001".into(),
        text: "x".repeat(100),
        created_at: Timestamp::from_secs(1_800_000_000),
    }
}

fn encode(criterion: &mut Criterion) {
    let message = message(ChatId::generate(), 1234);
    criterion.bench_function("message_frame", |bencher| bencher.iter(|| message_frame(black_box(&message))));
}

fn decode(criterion: &mut Criterion) {
    let send = pb::SendFrame {
        chat_id: ChatId::generate().to_string(),
        client_message_id: "0192f0c1-2b3a-7000-8000-000000000001".into(),
        text: "x".repeat(100),
    };
    let request = pb::ConnectChatRequest { frame: Some(Frame::Send(send)) };
    let bytes = request.encode_to_vec();
    criterion.bench_function("decode a send frame", |bencher| {
        bencher.iter(|| pb::ConnectChatRequest::decode(black_box(bytes.as_slice())));
    });
    criterion.bench_function("validate a send frame", |bencher| bencher.iter(|| violations(black_box(&request))));
}

fn sign(number: u64) -> String {
    let ttl = Duration::from_secs(3600);
    token::sign(SECRET, &format!("user{number}"), &["user".to_owned()], ttl, None, None).expect("HS256 signs everything")
}

fn check(criterion: &mut Criterion) {
    let verifier = Arc::new(Verifier::new(&Key::Secret(SECRET.to_vec()), &Demands::default()).expect("a secret is a key"));
    let is_valid = |token: &str| matches!(verifier.check(token, ENDPOINT), Check::Done(Ok(_)));
    let known = sign(0);
    assert!(is_valid(&known));
    criterion.bench_function("token check, remembered", |bencher| bencher.iter(|| is_valid(black_box(&known))));
    let mut number = 0;
    let mut new = || {
        number += 1;
        sign(number)
    };
    criterion.bench_function("token check, new", |bencher| {
        bencher.iter_batched(&mut new, |token| is_valid(&token), BatchSize::SmallInput);
    });
}

/// To each stream's channel and out of it; the streams' tasks aren't woken.
fn deliver(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("deliver");
    for readers in [1_u64, 100, 1000] {
        let (registry, chat) = (Registry::new(), ChatId::generate());
        let mut streams: Vec<_> =
            (0..readers).map(|_| registry.subscribe(chat, UserId::new("alice"), false, Arc::new(Mailbox::default()))).collect();
        let mut sequence = 0;
        group.throughput(Throughput::Elements(readers));
        group.bench_function(BenchmarkId::from_parameter(readers), |bencher| {
            bencher.iter(|| {
                sequence += 1;
                registry.deliver(Delivery::new(message(chat, sequence)));
                for (_, receiver) in &mut streams {
                    let delivery = receiver.try_recv().expect("it was delivered");
                    black_box(delivery.encoded(message_frame));
                }
            });
        });
    }
    group.finish();
}

fn cursor(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cursor");
    group.throughput(Throughput::Elements(SEQUENCES.unsigned_abs()));
    group.bench_function("in order", |bencher| {
        bencher.iter(|| {
            let mut cursor = Cursor::new(0, 0);
            (1..=SEQUENCES).filter(|sequence| cursor.receive(black_box(*sequence)) == Verdict::Deliver).count()
        });
    });
    group.finish();
}

criterion_group!(benches, encode, decode, check, deliver, cursor);
criterion_main!(benches);
