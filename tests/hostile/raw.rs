//! A client that speaks HTTP/2 frame by frame, so that it can speak it badly.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use crate::common::{TestServer, mint, raw_tls, within};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const INITIAL_WINDOW_SIZE: u16 = 4;
/// The largest window that there is.
pub const WINDOW_MAX: u32 = (1 << 31) - 1;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A TCP connection; `receive_bytes`: how much the kernel takes ahead of the client.
pub async fn tcp(server: &TestServer, receive_bytes: Option<u32>) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    if let Some(bytes) = receive_bytes {
        socket.set_recv_buffer_size(bytes).unwrap();
    }
    within(socket.connect(SocketAddr::from(([127, 0, 0, 1], server.port)))).await.unwrap()
}

pub async fn tls_on(server: &TestServer, tcp: TcpStream, alpn: &str) -> io::Result<TlsStream<TcpStream>> {
    raw_tls::over(&server.ground, tcp, alpn).await
}

pub async fn tls(server: &TestServer, alpn: &str) -> TlsStream<TcpStream> {
    tls_on(server, tcp(server, None).await, alpn).await.unwrap()
}

/// Reads until the other side closes, in whichever way.
pub async fn closed(mut io: impl tokio::io::AsyncRead + Unpin) {
    let mut rest = [0; 4096];
    within(async { while matches!(io.read(&mut rest).await, Ok(count) if count > 0) {} }).await;
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header field as HPACK writes it without any table.
pub fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.push(0);
    text(out, name);
    text(out, value);
}

/// A header field, and then the same again by its place in the table: a byte for each.
pub fn repeated_field(out: &mut Vec<u8>, name: &str, value: &str, times: usize) {
    out.push(0x40);
    text(out, name);
    text(out, value);
    out.extend(std::iter::repeat_n(0x80 | 62, times));
}

fn text(out: &mut Vec<u8>, text: &str) {
    // A number with a prefix of seven bits; the eighth would say Huffman.
    if text.len() < 127 {
        out.push(text.len() as u8);
    } else {
        out.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            out.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        out.push(rest as u8);
    }
    out.extend(text.as_bytes());
}

/// The header block of a call.
pub fn call(method: &str, token: &str) -> Vec<u8> {
    let mut block = Vec::new();
    field(&mut block, ":method", "POST");
    field(&mut block, ":scheme", "https");
    field(&mut block, ":path", &format!("/chat.v1.ChatService/{method}"));
    field(&mut block, ":authority", "localhost");
    field(&mut block, "content-type", "application/grpc");
    field(&mut block, "te", "trailers");
    field(&mut block, "authorization", &format!("Bearer {token}"));
    block
}

/// A message with gRPC's prefix.
pub fn message(message: &impl prost::Message) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend((message.encoded_len() as u32).to_be_bytes());
    bytes.extend(message.encode_to_vec());
    bytes
}

/// An HTTP/2 connection whose frames its test makes.
pub struct Raw {
    reading: ReadHalf<TlsStream<TcpStream>>,
    writing: WriteHalf<TlsStream<TcpStream>>,
    buffer: VecDeque<u8>,
    next_stream: u32,
    pub token: String,
}

impl Raw {
    pub async fn open(server: &TestServer, sub: &str, settings: &[(u16, u32)]) -> Self {
        Self::over(tls(server, "h2").await, sub, settings).await
    }

    pub async fn over(io: TlsStream<TcpStream>, sub: &str, settings: &[(u16, u32)]) -> Self {
        let (reading, writing) = tokio::io::split(io);
        let mut raw = Self { reading, writing, buffer: VecDeque::new(), next_stream: 1, token: mint(sub, &["user"]) };
        let mut payload = Vec::new();
        for (id, value) in settings {
            payload.extend(id.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        raw.write(&[PREFACE, &frame(SETTINGS, 0, 0, &payload), &frame(SETTINGS, ACK, 0, &[])].concat()).await.unwrap();
        raw
    }

    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        within(async {
            self.writing.write_all(bytes).await?;
            self.writing.flush().await
        })
        .await
    }

    /// Begins a call without a body yet; its stream.
    pub async fn begin(&mut self, method: &str) -> u32 {
        let stream = self.take_stream();
        let block = call(method, &self.token);
        self.write(&frame(HEADERS, END_HEADERS, stream, &block)).await.unwrap();
        stream
    }

    /// Begins a ConnectChat stream with a first frame; its stream.
    pub async fn connect(&mut self, first: chat_service::pb::chat::v1::connect_chat_request::Frame) -> u32 {
        let stream = self.begin("ConnectChat").await;
        let request = chat_service::pb::chat::v1::ConnectChatRequest { frame: Some(first) };
        self.write(&frame(DATA, 0, stream, &message(&request))).await.unwrap();
        stream
    }

    pub fn take_stream(&mut self) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        stream
    }

    /// The next frame; `None`: the connection is closed.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut piece = [0; 16 * 1024];
        loop {
            if self.buffer.len() >= 9 {
                let at = |index: usize| self.buffer[index];
                let length = u32::from_be_bytes([0, at(0), at(1), at(2)]) as usize;
                if self.buffer.len() >= 9 + length {
                    let (kind, flags) = (at(3), at(4));
                    let stream = u32::from_be_bytes([at(5), at(6), at(7), at(8)]);
                    let payload = self.buffer.drain(..9 + length).skip(9).collect();
                    return Some(Frame { kind, flags, stream, payload });
                }
            }
            match within(self.reading.read(&mut piece)).await {
                Ok(count) if count > 0 => self.buffer.extend(&piece[..count]),
                _ => return None,
            }
        }
    }

    /// The next frame of a kind; those before it are passed over. `None`: the connection was closed before.
    pub async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            match self.next().await {
                Some(frame) if frame.kind == kind => return Some(frame),
                Some(_) => {}
                None => return None,
            }
        }
    }

    /// Sends the same again and again until the server closes the connection.
    pub async fn flood_until_closed(mut self, mut next: impl FnMut(&mut Self) -> Vec<u8>) {
        let flood = async {
            // What the server answers isn't read: it may not hold what it can't send.
            loop {
                let bytes = next(&mut self);
                if self.writing.write_all(&bytes).await.is_err() || self.writing.flush().await.is_err() {
                    return;
                }
            }
        };
        within(flood).await;
    }

    /// Reads until the server closes the connection; whether it said GOAWAY before.
    pub async fn closed(mut self) -> bool {
        let mut told = false;
        while let Some(frame) = self.next().await {
            told |= frame.kind == GOAWAY;
        }
        told
    }
}
