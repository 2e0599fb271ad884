//! A plain HTTP client.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::common::{TestServer, mint, raw_tls, within};

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn code(&self) -> u16 {
        self.status.as_u16()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), "application/json", "{}", String::from_utf8_lossy(&self.body));
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The JSON of an answer that must be 200.
    pub fn ok(&self) -> Value {
        assert_eq!(self.code(), 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// The stable reason of an error.
    pub fn reason(&self) -> String {
        let json = self.json();
        let detail = detail(&json, "ErrorInfo").unwrap_or_else(|| panic!("{json}"));
        assert_eq!(detail["domain"], "chat.v1");
        detail["reason"].as_str().unwrap().to_owned()
    }
}

/// An error's detail of a kind.
pub fn detail(error: &Value, kind: &str) -> Option<Value> {
    let kind = format!("type.googleapis.com/google.rpc.{kind}");
    error["details"].as_array().unwrap().iter().find(|detail| detail["@type"] == kind).cloned()
}

pub async fn tls(server: &TestServer, alpn: &str) -> TlsStream<TcpStream> {
    raw_tls::to(&server.ground, server.port, alpn).await
}

/// One request on a connection of its own.
pub async fn send(server: &TestServer, request: Request<Full<Bytes>>) -> Answer {
    let io = TokioIo::new(tls(server, "http/1.1").await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    answer(within(sender.send_request(request)).await.unwrap()).await
}

/// The same by HTTP/2.
pub async fn send_h2(server: &TestServer, request: Request<Full<Bytes>>) -> Answer {
    let io = TokioIo::new(tls(server, "h2").await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    answer(within(sender.send_request(request)).await.unwrap()).await
}

async fn answer(response: http::Response<hyper::body::Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    Answer { status: parts.status, headers: parts.headers, body: within(body.collect()).await.unwrap().to_bytes() }
}

pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let builder = Request::builder().method(method).uri(path).header("host", "localhost");
    headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(Full::new(body.into())).unwrap()
}

/// Somebody with a token.
pub struct Caller<'a> {
    server: &'a TestServer,
    authorization: String,
}

impl<'a> Caller<'a> {
    pub fn new(server: &'a TestServer, sub: &str) -> Self {
        Self { server, authorization: format!("Bearer {}", mint(sub, &["user"])) }
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut all = vec![("authorization", self.authorization.as_str())];
        all.extend_from_slice(headers);
        send(self.server, request(method, path, &all, body)).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send("POST", path, &[("content-type", "application/json")], body).await
    }

    /// A new chat's id.
    pub async fn new_chat(&self, members: &[&str]) -> String {
        let body = serde_json::json!({ "title": "Tea", "memberIds": members }).to_string();
        self.post("/v1/chats", body).await.ok()["chat"]["chatId"].as_str().unwrap().to_owned()
    }

    /// A POST with its body's bytes as they are, and nothing behind them; the answer.
    pub async fn raw(&self, path: &str, headers: &str, body: &[u8]) -> Answer {
        let mut io = tls(self.server, "http/1.1").await;
        let authorization = &self.authorization;
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: {authorization}\r\n{headers}\r\n");
        io.write_all(head.as_bytes()).await.unwrap();
        io.write_all(body).await.unwrap();
        io.flush().await.unwrap();
        let mut answer = Vec::new();
        // However the connection ends.
        drop(within(io.read_to_end(&mut answer)).await);
        parsed(&String::from_utf8_lossy(&answer))
    }
}

/// An answer with a length, from its text.
fn parsed(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.lines();
    let status =
        lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{head}"));
    let header = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.parse::<http::HeaderName>().unwrap(), value.trim().parse::<http::HeaderValue>().unwrap())
    };
    Answer { status, headers: lines.map(header).collect(), body: Bytes::copy_from_slice(body.as_bytes()) }
}
