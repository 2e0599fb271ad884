//! The load's side of the wire: TLS, HTTP/2 and gRPC's frames, and nothing more. Messages that are only counted aren't decoded, so
//! that the load's own work isn't what is measured.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use chat_service::pb::chat::v1 as pb;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use prost::Message as _;
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::bench::Bench;
use crate::{Done, Failure};

/// What the server may send ahead. Many streams of one connection need much: with 64 KiB and hundreds of streams HTTP/2 clients
/// have been seen to stand still.
#[derive(Clone, Copy)]
pub struct Windows {
    pub stream_bytes: u32,
    pub connection_bytes: u32,
}

pub const WIDE: Windows = Windows { stream_bytes: 1024 * 1024, connection_bytes: 16 * 1024 * 1024 };
/// The protocol's own.
pub const NARROW: Windows = Windows { stream_bytes: 65_535, connection_bytes: 65_535 };

/// The library ends a connection that holds too many small frames unread; the load reads them all, in the end.
const SMALL_FRAMES_BUDGET: usize = 1 << 30;
/// Of one connection, before the server has said its own limit.
const STREAMS_MAX: usize = 1 << 20;
/// A flag and the length.
const PREFIX_BYTES: usize = 5;

/// How a server is reached.
#[derive(Clone)]
pub struct Dialer {
    address: SocketAddr,
    tls: TlsConnector,
    config: Arc<ClientConfig>,
    windows: Windows,
}

impl Dialer {
    /// Every connection makes a whole TLS handshake.
    pub fn new(bench: &Bench, port: u16, windows: Windows) -> Done<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(bench.path("certs/ca.pem"))?)?;
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        let config = Arc::new(config);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Self { address, tls: TlsConnector::from(Arc::clone(&config)), config, windows })
    }

    /// The same for one client that remembers its TLS session, as one does that comes back.
    pub fn remembering(&self) -> Self {
        let mut config = (*self.config).clone();
        config.resumption = Resumption::in_memory_sessions(1);
        let config = Arc::new(config);
        Self { tls: TlsConnector::from(Arc::clone(&config)), config, ..self.clone() }
    }

    pub fn with(&self, windows: Windows) -> Self {
        Self { windows, ..self.clone() }
    }

    pub async fn connect(&self) -> Done<Link> {
        let socket = TcpStream::connect(self.address).await?;
        socket.set_nodelay(true)?;
        let socket = self.tls.connect(ServerName::try_from("localhost")?, socket).await?;
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(self.windows.stream_bytes)
            .initial_connection_window_size(self.windows.connection_bytes)
            .initial_max_send_streams(STREAMS_MAX)
            .data_frame_budget(SMALL_FRAMES_BUDGET)
            .enable_push(false)
            .handshake::<_, Bytes>(socket)
            .await?;
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Link { requests, _driver: Arc::new(Driver(driver)) })
    }
}

/// Runs a connection; cuts it when its last user has gone.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection. Cloning shares it.
#[derive(Clone)]
pub struct Link {
    requests: SendRequest<Bytes>,
    _driver: Arc<Driver>,
}

impl Link {
    /// One unary call: the answer's message.
    pub async fn call(&self, request: &Request<()>, message: &impl prost::Message) -> Done<Bytes> {
        let mut requests = self.requests.clone().ready().await?;
        let (response, mut body) = requests.send_request(request.clone(), false)?;
        body.send_data(frame(message), true)?;
        let response = response.await?;
        refuse_status(response.headers())?;
        let mut body = response.into_body();
        let mut answer = Bytes::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            answer = if answer.is_empty() { chunk } else { [answer, chunk].concat().into() };
        }
        if let Some(trailers) = body.trailers().await? {
            refuse_status(&trailers)?;
        }
        if answer.len() < PREFIX_BYTES {
            return Err("an answer without a message".into());
        }
        Ok(answer.slice(PREFIX_BYTES..))
    }

    /// Opens a ConnectChat stream with its first frames.
    pub async fn open(&self, request: &Request<()>, first: Bytes) -> Done<Feed> {
        let mut requests = self.requests.clone().ready().await?;
        let (response, mut frames) = requests.send_request(request.clone(), false)?;
        frames.send_data(first, false)?;
        let response = response.await?;
        refuse_status(response.headers())?;
        Ok(Feed { frames, events: response.into_body(), rest: BytesMut::new(), _link: self.clone() })
    }
}

/// A ConnectChat stream.
pub struct Feed {
    frames: SendStream<Bytes>,
    events: RecvStream,
    /// The beginning of an event whose end hasn't come.
    rest: BytesMut,
    _link: Link,
}

impl Feed {
    pub fn send(&mut self, frames: Bytes) -> Done<()> {
        Ok(self.frames.send_data(frames, false)?)
    }

    /// Waits for the next piece, and hands over each event that is whole with it. An ended stream is an error: no row ends one.
    pub async fn piece(&mut self, mut take: impl FnMut(&[u8])) -> Done<()> {
        let Some(chunk) = self.events.data().await else { return Err(self.end().await) };
        let chunk = chunk?;
        self.events.flow_control().release_capacity(chunk.len())?;
        if self.rest.is_empty() {
            let used = split(&chunk, &mut take);
            self.rest.extend_from_slice(&chunk[used..]);
        } else {
            self.rest.extend_from_slice(&chunk);
            let whole = std::mem::take(&mut self.rest);
            let used = split(&whole, &mut take);
            self.rest.extend_from_slice(&whole[used..]);
        }
        Ok(())
    }

    async fn end(&mut self) -> Failure {
        match self.events.trailers().await {
            Ok(Some(trailers)) => match refuse_status(&trailers) {
                Ok(()) => "a stream has ended".into(),
                Err(error) => error,
            },
            Ok(None) => "a stream has ended without a status".into(),
            Err(error) => error.into(),
        }
    }

    /// Waits until the stream has joined its chat, with nothing behind that: the chat's last sequence.
    pub async fn joined(&mut self) -> Done<i64> {
        let mut joined = None;
        while joined.is_none() {
            self.piece(|event| joined = Some(pb::ConnectChatResponse::decode(event).map(|event| event.event))).await?;
        }
        match joined {
            Some(Ok(Some(pb::connect_chat_response::Event::Joined(event)))) => Ok(event.last_sequence),
            other => Err(format!("not joined: {other:?}").into()),
        }
    }
}

/// A message as gRPC frames it.
pub fn frame(message: &impl prost::Message) -> Bytes {
    let mut out = BytesMut::new();
    put_frame(&mut out, message);
    out.freeze()
}

pub fn put_frame(out: &mut BytesMut, message: &impl prost::Message) {
    let length = message.encoded_len();
    out.reserve(PREFIX_BYTES + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(out);
}

/// Hands over each whole message; the bytes that they took.
fn split(bytes: &[u8], take: &mut impl FnMut(&[u8])) -> usize {
    let mut at = 0;
    while let Some([_, a, b, c, d]) = bytes.get(at..at + PREFIX_BYTES).and_then(|prefix| <[u8; PREFIX_BYTES]>::try_from(prefix).ok()) {
        let begin = at + PREFIX_BYTES;
        let end = begin + u32::from_be_bytes([a, b, c, d]) as usize;
        let Some(message) = bytes.get(begin..end) else { break };
        take(message);
        at = end;
    }
    at
}

fn refuse_status(headers: &HeaderMap) -> Done<()> {
    match headers.get("grpc-status").map(http::HeaderValue::as_bytes) {
        None | Some(b"0") => Ok(()),
        Some(code) => {
            let message = headers.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
            Err(format!("refused: status {}, {message}", String::from_utf8_lossy(code)).into())
        }
    }
}

/// What an event is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glance {
    Joined,
    /// With its sequence.
    Message(i64),
    Acknowledged,
    Other,
}

/// Fields of ConnectChatResponse, as tags of length-delimited fields.
const TAG_JOINED: u64 = (1 << 3) | 2;
const TAG_MESSAGE: u64 = (2 << 3) | 2;
const TAG_ACKNOWLEDGED: u64 = (3 << 3) | 2;
/// `sequence` of Message.
const TAG_SEQUENCE: u64 = 2 << 3;

pub fn glance(event: &[u8]) -> Glance {
    let mut rest = event;
    match varint(&mut rest) {
        Some(TAG_JOINED) => Glance::Joined,
        Some(TAG_ACKNOWLEDGED) => Glance::Acknowledged,
        Some(TAG_MESSAGE) => sequence_of(rest).map_or(Glance::Other, Glance::Message),
        _ => Glance::Other,
    }
}

/// Of a message behind its length. What comes before the sequence, the chat's id, is skipped.
fn sequence_of(mut rest: &[u8]) -> Option<i64> {
    varint(&mut rest)?;
    loop {
        match varint(&mut rest)? {
            TAG_SEQUENCE => return i64::try_from(varint(&mut rest)?).ok(),
            tag if tag & 7 == 2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            _ => return None,
        }
    }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, more) = rest.split_first()?;
        *rest = more;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
