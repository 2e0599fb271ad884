//! What nginx must let through: the client's address, streams on which nothing happens, REST and WebSocket.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use chat_service::config::duration::parse_duration;
use chat_service::pb::chat::v1::ListChatsRequest;
use chat_service::transport::limits::ConnectionLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::{Code, Request};

use crate::common::process::Process;
use crate::common::{Client, Ground, Stream, client, endpoint, mint, new_chat, raw_tls, with_token, within};
use crate::nginx::{self, Nginx};
use crate::stage::{Stage, kill};

/// Beyond what the limit lets through at once.
const CALLS: usize = 20;

/// A node behind nginx counts each client by its own address, which the client can't choose.
pub async fn client_address(stage: &mut Stage) -> String {
    let url = stage.redis_url(0);
    let flags = ["--redis-url", &url, "--rate-limit-address", "1/s burst 5", "--trusted-proxies", "127.0.0.1"];
    let mut node = Process::serve(&stage.ground, 0, &flags).await;
    let nginx = Nginx::start(&stage.ground, &[node.port], &[]).await;
    let mut first = client_from(&stage.ground, nginx.port, 2).await;
    let refused = refusals(&mut first, |_| {}).await;
    assert!(refused > 0, "127.0.0.2 was never refused");
    // Another client of the same proxy has a bucket of its own.
    let mut second = client_from(&stage.ground, nginx.port, 3).await;
    within(second.list_chats(ListChatsRequest::default())).await.unwrap();
    // What the client says of itself doesn't count: made-up addresses would each have a full bucket.
    let made_up = refusals(&mut first, |request| {
        let address = Ipv4Addr::from_bits(rand::random());
        request.metadata_mut().insert("x-forwarded-for", address.to_string().parse().unwrap());
    })
    .await;
    assert!(made_up > 0, "a made-up X-Forwarded-For counted");
    assert!(kill(&mut node).await);
    format!("{refused} and, with addresses made up, {made_up} of {CALLS} refused")
}

/// A client with an address of its own on loopback.
async fn client_from(ground: &Ground, port: u16, last: u8) -> Client {
    let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    let endpoint = endpoint(&ground.path("certs/ca.pem"), port).local_address(Some(address));
    with_token(within(endpoint.connect()).await.unwrap(), &mint("alice", &["user"]))
}

/// How many of some calls one after the other are refused for their number.
async fn refusals(client: &mut Client, change: impl Fn(&mut Request<ListChatsRequest>)) -> usize {
    let mut refused = 0;
    for _ in 0..CALLS {
        let mut request = Request::new(ListChatsRequest::default());
        change(&mut request);
        match within(client.list_chats(request)).await {
            Ok(_) => {}
            Err(status) if status.code() == Code::ResourceExhausted => refused += 1,
            Err(status) => panic!("{status:?}"),
        }
    }
    refused
}

/// nginx ends a stream on which the client says nothing for `client_body_timeout`, or the node nothing for `grpc_read_timeout`. The
/// deployed values outlast both: a client says nothing for hours, a node at least pings.
pub async fn idle_streams(stage: &mut Stage) -> String {
    let value = |name| parse_duration(&nginx::directive(name)).unwrap();
    assert!(value("client_body_timeout") >= Duration::from_secs(3600), "clients that only listen are cut");
    assert!(value("grpc_read_timeout") > 2 * ConnectionLimits::default().keep_alive_interval, "idle streams are cut between two pings");

    let node = stage.nodes[0].port;
    let mut alice = client(&stage.ground, stage.nginx.as_ref().expect("nginx").port, &mint("alice", &["user"])).await;
    let chat = new_chat(&mut alice, &[]).await;
    let mut lives = Stream::joined(&mut alice, &chat, None).await;
    for name in ["client_body_timeout", "grpc_read_timeout"] {
        let nginx = Nginx::start(&stage.ground, &[node], &[(name, "1s")]).await;
        let mut cut = client(&stage.ground, nginx.port, &mint("alice", &["user"])).await;
        let ended = Stream::joined(&mut cut, &chat, None).await.end().await;
        assert_ne!(ended.code(), Code::Ok, "{name}");
    }
    // As long as those were idle, this one was too.
    lives.send_text(&chat, "1", "still there");
    assert_eq!(lives.message().await.sequence, 1);
    "cut by short time-outs, and not by the deployed ones".into()
}

/// REST and the WebSocket come by HTTP/1.1.
pub async fn http(stage: &mut Stage) -> String {
    let port = stage.nginx.as_ref().expect("nginx").port;
    let token = mint("alice", &["user"]);
    let mut alice = client(&stage.ground, port, &token).await;
    let chat = new_chat(&mut alice, &[]).await;
    let head = format!("HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n");
    let mut rest = connect(&stage.ground, port).await;
    rest.write_all(format!("GET /v1/chats/{chat} {head}Connection: close\r\n\r\n").as_bytes()).await.unwrap();
    let answer = read_until(&mut rest, &chat).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let mut socket = connect(&stage.ground, port).await;
    let upgrade =
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(format!("GET /v1/connect {head}{upgrade}").as_bytes()).await.unwrap();
    let answer = read_until(&mut socket, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    socket.write_all(&text_frame(&format!(r#"{{"join":{{"chatId":"{chat}"}}}}"#))).await.unwrap();
    assert!(read_until(&mut socket, &chat).await.contains("joined"));
    "200, 101 and `joined`".into()
}

/// A connection to nginx that speaks HTTP/1.1.
async fn connect(ground: &Ground, port: u16) -> TlsStream<TcpStream> {
    raw_tls::to(ground, port, "http/1.1").await
}

/// What comes up to a text, and with it.
async fn read_until(stream: &mut TlsStream<TcpStream>, text: &str) -> String {
    let mut said = Vec::new();
    within(async {
        while !String::from_utf8_lossy(&said).contains(text) {
            // Some servers end TLS without a word.
            if stream.read_buf(&mut said).await.unwrap_or(0) == 0 {
                break;
            }
        }
    })
    .await;
    String::from_utf8_lossy(&said).into_owned()
}

/// A WebSocket's frame with a short text, masked by zeros, which change nothing.
fn text_frame(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 126).expect("a short text");
    [&[0x81, 0x80 | length, 0, 0, 0, 0][..], text.as_bytes()].concat()
}
