//! A client of plain HTTP, and of gRPC-web on top of it, that shows what the server sends.

use std::any::Any;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinHandle;
use tonic::Status;

use crate::common::{TestServer, mint, within};
use crate::raw;

/// An answer, as it comes.
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
    read: BytesMut,
    connection: JoinHandle<()>,
    /// HTTP/2 closes when nobody can send any more.
    _sender: Box<dyn Any + Send>,
}

/// What a gRPC-web body consists of.
#[derive(Debug)]
pub enum Piece {
    Message(Bytes),
    /// The last one.
    Trailers(HeaderMap),
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Reply {
    /// The whole body.
    pub async fn bytes(&mut self) -> Bytes {
        while let Some(frame) = within(self.body.frame()).await {
            self.read.extend_from_slice(frame.unwrap().data_ref().unwrap());
        }
        self.read.split().freeze()
    }

    pub async fn json(&mut self) -> serde_json::Value {
        serde_json::from_slice(&self.bytes().await).unwrap()
    }

    /// The next message or the trailers; `None`: the body has ended.
    pub async fn piece(&mut self) -> Option<Piece> {
        loop {
            if let Some(piece) = take_piece(&mut self.read) {
                return Some(piece);
            }
            let data = within(self.body.frame()).await?.unwrap().into_data().expect("gRPC-web has no trailers of HTTP's");
            self.read.extend_from_slice(&data);
        }
    }

    pub async fn message<M: prost::Message + Default>(&mut self) -> M {
        match self.piece().await {
            Some(Piece::Message(message)) => M::decode(message).unwrap(),
            other => panic!("no message: {other:?}"),
        }
    }

    /// How the call has ended; messages before are passed over.
    pub async fn end(&mut self) -> Status {
        if let Some(status) = Status::from_header_map(&self.headers) {
            assert!(self.bytes().await.is_empty(), "a status in the headers has no body behind it");
            return status;
        }
        loop {
            match self.piece().await.expect("a body ends with trailers") {
                Piece::Message(_) => {}
                Piece::Trailers(trailers) => {
                    assert!(self.piece().await.is_none(), "nothing comes behind the trailers");
                    return Status::from_header_map(&trailers).unwrap();
                }
            }
        }
    }
}

pub fn take_piece(read: &mut BytesMut) -> Option<Piece> {
    let length = u32::from_be_bytes(read.get(1..5)?.try_into().unwrap()) as usize;
    if read.len() < 5 + length {
        return None;
    }
    let flag = read[0];
    read.advance(5);
    let content = read.split_to(length).freeze();
    if flag == 0 {
        return Some(Piece::Message(content));
    }
    assert_eq!(flag, 0x80);
    let lines = std::str::from_utf8(&content).unwrap().split_terminator("\r\n").map(|line| line.split_once(':').unwrap());
    let entry = |(name, value): (&str, &str)| (name.parse::<HeaderName>().unwrap(), value.trim().parse::<HeaderValue>().unwrap());
    Some(Piece::Trailers(lines.map(entry).collect()))
}

/// Sends a request by this version of HTTP, on a connection of its own.
pub async fn send(server: &TestServer, version: Version, mut request: Request<Bytes>) -> Reply {
    let authority = format!("localhost:{}", server.port);
    let path = request.uri().path().to_owned();
    request.headers_mut().entry("host").or_insert(authority.parse().unwrap());
    if version == Version::HTTP_2 {
        *request.uri_mut() = format!("https://{authority}{path}").parse().unwrap();
        *request.version_mut() = Version::HTTP_2;
    }
    let request = request.map(Full::new);
    if version == Version::HTTP_2 {
        let io = TokioIo::new(raw::tls(server, "h2").await);
        let (mut sender, connection) = within(hyper::client::conn::http2::handshake(TokioExecutor::new(), io)).await.unwrap();
        let connection = tokio::spawn(async move { drop(connection.await) });
        let response = within(sender.send_request(request)).await.unwrap();
        return reply(response, connection, Box::new(sender));
    }
    let io = TokioIo::new(raw::tls(server, "http/1.1").await);
    let (mut sender, connection) = within(hyper::client::conn::http1::handshake(io)).await.unwrap();
    let connection = tokio::spawn(async move { drop(connection.await) });
    let response = within(sender.send_request(request)).await.unwrap();
    reply(response, connection, Box::new(sender))
}

fn reply(response: http::Response<Incoming>, connection: JoinHandle<()>, sender: Box<dyn Any + Send>) -> Reply {
    let (parts, body) = response.into_parts();
    Reply { status: parts.status.as_u16(), headers: parts.headers, body, read: BytesMut::new(), connection, _sender: sender }
}

/// A gRPC-web request with these messages for a body.
pub fn grpc_web(method: &str, sub: &str, messages: &[&[u8]]) -> Request<Bytes> {
    Request::post(format!("/chat.v1.ChatService/{method}"))
        .header("content-type", "application/grpc-web+proto")
        .header("x-grpc-web", "1")
        .header("authorization", format!("Bearer {}", mint(sub, &["user"])))
        .body(messages.concat().into())
        .unwrap()
}

/// Base64 that was made piece by piece, each with its own padding.
pub fn base64_decoded(text: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    for four in text.chunks(4) {
        out.extend_from_slice(&STANDARD.decode(four).unwrap());
    }
    out
}
