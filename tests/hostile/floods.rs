//! Floods of frames, headers and streams.

use chat_service::app::server::Times;
use tonic::Code;

use crate::Honest;
use crate::common::*;
use crate::raw::*;

/// A server whose own count of frames doesn't come before the limit that a test is about.
async fn uncounted() -> TestServer {
    let adjust = |times: &mut Times| times.connection.control_frames_per_second_max = u32::MAX;
    TestServer::start_with(Ground::new(On::Sqlite).await, &[], adjust).await
}

/// A server that takes 100 frames a second that carry nothing.
async fn counted() -> TestServer {
    let adjust = |times: &mut Times| times.connection.control_frames_per_second_max = 100;
    TestServer::start_with(Ground::new(On::Sqlite).await, &[], adjust).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rapid_reset_ends_its_connection() {
    let server = uncounted().await;
    let mut honest = Honest::new(&server).await;
    let raw = Raw::open(&server, "mallory", &[]).await;
    let block = call("ConnectChat", &raw.token);
    let flood = raw.flood_until_closed(|raw| {
        let mut bytes = Vec::new();
        for _ in 0..1000 {
            let stream = raw.take_stream();
            bytes.extend(frame(HEADERS, END_HEADERS, stream, &block));
            bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        }
        bytes
    });
    honest.beside(flood).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_makes_the_server_reset_its_streams_ends_its_connection() {
    let adjust = |times: &mut Times| times.connection.local_resets_max = 50;
    let server = TestServer::start_with(Ground::new(On::Sqlite).await, &[], adjust).await;
    let mut honest = Honest::new(&server).await;
    let raw = Raw::open(&server, "mallory", &[]).await;
    let block = call("ConnectChat", &raw.token);
    // A window beyond what can be: the stream is reset, by the server, after its work has begun.
    let flood = raw.flood_until_closed(|raw| {
        let stream = raw.take_stream();
        [frame(HEADERS, END_HEADERS, stream, &block), frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes())].concat()
    });
    honest.beside(flood).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_never_end_end_their_connection() {
    let server = uncounted().await;
    let mut honest = Honest::new(&server).await;
    let mut raw = Raw::open(&server, "mallory", &[]).await;
    let stream = raw.take_stream();
    raw.write(&frame(HEADERS, 0, stream, &call("ConnectChat", &raw.token.clone()))).await.unwrap();
    let flood = raw.flood_until_closed(|_| {
        let mut block = Vec::new();
        field(&mut block, "x", "y");
        frame(CONTINUATION, 0, stream, &block).repeat(100)
    });
    honest.beside(flood).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_list_far_above_the_limit_ends_its_connection() {
    let server = TestServer::start(On::Sqlite).await;
    let mut honest = Honest::new(&server).await;
    let mut raw = Raw::open(&server, "mallory", &[]).await;
    let stream = raw.take_stream();
    // Small on the wire: one frame of 5 KiB says 800.
    let mut block = call("GetChat", &raw.token);
    repeated_field(&mut block, "x-bomb", &"y".repeat(3900), 200);
    raw.write(&frame(HEADERS, END_HEADERS, stream, &block)).await.unwrap();
    assert!(honest.beside(raw.closed()).await, "with a GOAWAY");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_list_above_the_limit_is_refused_and_the_connection_goes_on() {
    let server = TestServer::start(On::Sqlite).await;
    let mut alice = server.client("alice").await;
    let chat = new_chat(&mut alice, &[]).await;
    let padded = |bytes: usize| {
        let mut request = tonic::Request::new(send_request(&chat, &bytes.to_string(), "x"));
        request.metadata_mut().insert("x-padding", "y".repeat(bytes).parse().unwrap());
        request
    };
    within(alice.send_message(padded(20 * 1024))).await.unwrap();
    within(alice.send_message(padded(40 * 1024))).await.unwrap_err();
    let stored = within(alice.send_message(send_request(&chat, "last", "x"))).await.unwrap().into_inner().message.unwrap();
    assert_eq!(stored.sequence, 2, "the refused one was not stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_beyond_the_limit_are_refused() {
    let server = started(&["--max-streams-per-connection", "4"]).await;
    let mut honest = Honest::new(&server).await;
    let mut raw = Raw::open(&server, "mallory", &[]).await;
    for _ in 0..4 {
        raw.begin("ConnectChat").await;
    }
    let fifth = raw.begin("ConnectChat").await;
    let reset = honest.beside(raw.next_of(RST_STREAM)).await.unwrap();
    let refused_stream = 7_u32.to_be_bytes();
    assert_eq!((reset.stream, reset.payload.as_slice()), (fifth, &refused_stream[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pings_ends_its_connection() {
    let server = counted().await;
    let mut honest = Honest::new(&server).await;
    let raw = Raw::open(&server, "mallory", &[]).await;
    honest.beside(raw.flood_until_closed(|_| frame(PING, 0, 0, &[7; 8]).repeat(100))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_settings_ends_its_connection() {
    let server = counted().await;
    let mut honest = Honest::new(&server).await;
    let raw = Raw::open(&server, "mallory", &[]).await;
    honest.beside(raw.flood_until_closed(|_| frame(SETTINGS, 0, 0, &[]).repeat(100))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_empty_data_ends_its_connection() {
    let server = TestServer::start(On::Sqlite).await;
    let mut honest = Honest::new(&server).await;
    let mut raw = Raw::open(&server, "mallory", &[]).await;
    let stream = raw.begin("ConnectChat").await;
    honest.beside(raw.flood_until_closed(|_| frame(DATA, 0, stream, &[]).repeat(100))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_reset_all_at_once_leave_nothing_behind() {
    const STREAMS: usize = 100;
    let server = TestServer::start(On::Sqlite).await;
    let mut honest = Honest::new(&server).await;
    let chat = new_chat(&mut server.client("mallory").await, &[]).await;
    let mut raw = Raw::open(&server, "mallory", &[]).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(raw.connect(join(&chat, Some(0))).await);
    }
    until("all have joined", || server.registry.subscription_count() == STREAMS + 1).await;
    let resets: Vec<u8> = streams.iter().flat_map(|stream| frame(RST_STREAM, 0, *stream, &8_u32.to_be_bytes())).collect();
    let attack = async {
        raw.write(&resets).await.unwrap();
        until("only the honest one's subscription is left", || server.registry.subscription_count() == 1).await;
    };
    honest.beside(attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_above_the_limit_ends_its_stream_before_it_is_read() {
    let server = TestServer::start(On::Sqlite).await;
    let mut honest = Honest::new(&server).await;
    let mut raw = Raw::open(&server, "mallory", &[]).await;
    let stream = raw.begin("ConnectChat").await;
    // One GiB is announced.
    raw.write(&frame(DATA, 0, stream, &[0, 0x40, 0, 0, 0])).await.unwrap();
    let ended = async {
        loop {
            let frame = raw.next().await.expect("the connection goes on");
            if frame.stream == stream && (frame.kind == RST_STREAM || frame.flags & END_STREAM != 0) {
                break;
            }
        }
    };
    honest.beside(ended).await;

    let mut mallory = server.client("mallory").await;
    let chat = new_chat(&mut mallory, &[]).await;
    let mut stream = Stream::joined(&mut mallory, &chat, None).await;
    stream.send_text(&chat, "1", &"x".repeat(300 * 1024));
    assert_eq!(honest.beside(stream.end()).await.code(), Code::OutOfRange);
}
