//! Clients that do what no good client does.

use chat_service::pb::chat::v1::connect_chat_request::Frame;
use chat_service::pb::chat::v1::{ConnectChatRequest, SendFrame};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::common::{Client, Ground, Stream, join, mint, new_chat, raw_tls};

/// A stream that asks for a long history and never reads; `messages` are sent to its chat before.
pub async fn never_reads(ground: &Ground, port: u16, messages: usize) -> Stream {
    let mut client = client(ground, port, "never-reads").await;
    let chat = new_chat(&mut client, &[]).await;
    let send = |n: usize| Frame::Send(SendFrame { chat_id: chat.clone(), client_message_id: n.to_string(), text: "x".repeat(4000) });
    let mut sender = Stream::open(&mut client, send(0)).await;
    for n in 1..messages {
        sender.send(send(n));
    }
    for _ in 0..messages {
        sender.acknowledged().await;
    }
    Stream::open(&mut client, join(&chat, Some(0))).await
}

/// Opens streams and resets each at once; how many.
pub async fn resets(ground: &Ground, port: u16, streams: u64) -> u64 {
    let mut client = client(ground, port, "resets").await;
    let chat = new_chat(&mut client, &[]).await;
    for _ in 0..streams {
        let first = ConnectChatRequest { frame: Some(join(&chat, Some(0))) };
        // Dropping the answer resets the stream.
        drop(client.connect_chat(tokio_stream::iter([first])).await.unwrap());
    }
    streams
}

/// A connection that speaks HTTP/2 and neither reads nor ever ends: it can't even see a GOAWAY.
pub async fn ignores_goaway(ground: &Ground, port: u16) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut stream = raw_tls::to(ground, port, "h2").await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    stream.flush().await.unwrap();
    stream
}

async fn client(ground: &Ground, port: u16, sub: &str) -> Client {
    crate::common::client(ground, port, &mint(sub, &["user"])).await
}
