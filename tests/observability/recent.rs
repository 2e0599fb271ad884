//! What streams that are a little behind have in common.

use crate::common::process::Process;
use crate::common::*;
use crate::metric;

crate::on_both_stores!(streams_that_come_back_together_read_what_they_lack_once);

async fn streams_that_come_back_together_read_what_they_lack_once(on: On) {
    const STREAMS: usize = 20;
    const MESSAGES: i64 = 10;
    let ground = Ground::new(on).await;
    let server = Process::serve(&ground, 0, &[]).await;
    let mut alice = client(&ground, server.port, &mint("alice", &["user"])).await;
    let chat = new_chat(&mut alice, &[]).await;
    for number in 0..MESSAGES {
        alice.send_message(send_request(&chat, &number.to_string(), "hello")).await.unwrap();
    }
    let come_back = async |mut alice: Client| {
        let mut stream = Stream::joined(&mut alice, &chat, Some(0)).await;
        for sequence in 1..=MESSAGES {
            assert_eq!(stream.message().await.sequence, sequence);
        }
        stream
    };
    let streams = futures_util::future::join_all((0..STREAMS).map(|_| come_back(alice.clone()))).await;
    let pages = metric(&server, "chat_catch_up_pages_total", &[]).await;
    // On a slow machine some come too late for what others read, and read for themselves.
    assert!(pages >= 1.0 && pages < STREAMS as f64, "{pages} pages for {STREAMS} streams");
    drop(streams);
}
