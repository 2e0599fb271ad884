//! A socket: its frames go into a call of ConnectChat, and the call's events come out.
//!
//! Nothing is queued here. A frame is read when the session has taken the one before; events are taken from the session's outbox when those
//! before have gone into the socket. So the outbox's bound holds for a slow reader, and the client's own socket fills when the session takes no frames.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Request, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Utf8Bytes};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower::ServiceExt;

use super::closing::{End, close};
use super::json;
use super::pulse::{Listener, Pulse};
use crate::converter::frames;
use crate::converter::status::Refused;
use crate::interceptor::HttpService;
use crate::model::limits;
use crate::pb::chat::v1 as pb;
use crate::pb::chat::v1::connect_chat_request::Frame as ClientFrame;
use crate::transport::connection::Carrier;
use crate::transport::detached::MayDetach;

/// The call that a socket is.
const CONNECT_CHAT: &str = "/chat.v1.ChatService/ConnectChat";
/// When a socket without a token must have sent one: as a stream's first frame.
const TOKEN_DUE: Duration = Duration::from_secs(10);
/// Bytes that are read at once; each socket has them.
const READ_BYTES: usize = 4 * 1024;
/// Bytes that are gathered before they are written.
const WRITE_BYTES: usize = 16 * 1024;
/// Bytes that may wait to be written: [`WRITE_BYTES`], and an event on top, whose 4,096 characters take six bytes each at most.
const WRITE_BYTES_MAX: usize = 256 * 1024;

/// What a socket begins with.
pub struct Opening {
    /// As the header of a call; `None`: the first frame has the token.
    pub authorization: Option<HeaderValue>,
    /// Others that the call has.
    pub headers: HeaderMap,
    /// Cancelled when the connection takes its leave.
    pub leaving: CancellationToken,
    /// To cut the connection.
    pub cut: CancellationToken,
}

/// Serves a socket to its end.
pub async fn serve<I, S>(io: I, opening: Opening, calls: S)
where
    I: AsyncRead + AsyncWrite + Unpin + Send,
    S: HttpService,
{
    // Compression isn't offered: it holds memory for each socket, and lengths would tell of what is in it.
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(WRITE_BYTES)
        .max_write_buffer_size(WRITE_BYTES_MAX)
        .max_message_size(Some(limits::REQUEST_BYTES_MAX))
        .max_frame_size(Some(limits::REQUEST_BYTES_MAX));
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let end = converse(&mut socket, opening, calls).await;
    tracing::debug!(?end, "a WebSocket ends");
    close(socket, end).await;
}

async fn converse<I, S>(socket: &mut WebSocketStream<I>, opening: Opening, calls: S) -> End
where
    I: AsyncRead + AsyncWrite + Unpin + Send,
    S: HttpService,
{
    let (mut outgoing, mut incoming) = socket.split::<Message>();
    let (pulse, mut listener) = (Pulse::default(), Listener::new());
    // One: while it waits, nothing more is read.
    let (inbound, taken) = mpsc::channel::<Result<Frame<Bytes>, Status>>(1);
    let authorization = match opening.authorization {
        Some(authorization) => authorization,
        None => {
            let waiting = token_frame(&mut incoming, &mut listener, &pulse);
            let first = tokio::select! {
                () = opening.leaving.cancelled() => return End::told(1001, "GOING_AWAY"),
                first = timeout(TOKEN_DUE, waiting) => first.unwrap_or_else(|_| Err(End::refused(Refused::TokenMissing))),
            };
            match first {
                Ok((authorization, frame)) => {
                    // The session answers it: `token_refreshed`. There is room for one.
                    drop(inbound.try_send(Ok(Frame::data(frame))));
                    authorization
                }
                Err(end) => return end,
            }
        }
    };
    let body = Body::new(StreamBody::new(ReceiverStream::new(taken)));
    let mut request = Request::new(body);
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static(CONNECT_CHAT);
    *request.headers_mut() = opening.headers;
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    request.headers_mut().insert(header::AUTHORIZATION, authorization);
    request.extensions_mut().insert(MayDetach(opening.cut.clone()));
    request.extensions_mut().insert(Arc::new(Carrier::new(None, opening.leaving, opening.cut)));
    let Ok(response) = calls.oneshot(request).await;
    // Refused at once, or ended before it began.
    if let Some(status) = Status::from_header_map(response.headers()) {
        return End::of_status(&status);
    }
    tokio::select! {
        biased;
        end = read(&mut incoming, &mut listener, &pulse, &inbound) => end,
        end = write(&mut outgoing, response.into_body(), &pulse) => end,
    }
}

/// The first frame of a socket without a token: only `refreshToken` will do.
async fn token_frame(
    incoming: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
    listener: &mut Listener,
    pulse: &Pulse,
) -> Result<(HeaderValue, Bytes), End> {
    let text = listener.text(incoming, pulse).await?;
    let frame = json::request_frame(&text).map_err(|status| End::of_status(&status))?;
    let message = frames::take_message(&mut BytesMut::from(&frame[..])).unwrap_or_default();
    match pb::ConnectChatRequest::decode(message).map(|request| request.frame) {
        Ok(Some(ClientFrame::RefreshToken(refresh))) => {
            let value = HeaderValue::from_str(&format!("Bearer {}", refresh.token));
            let mut value = value.map_err(|_| End::refused(Refused::TokenInvalid))?;
            value.set_sensitive(true);
            Ok((value, frame))
        }
        _ => Err(End::refused(Refused::TokenMissing)),
    }
}

/// Reads frames into the call, until the client closes, is gone, or sends what is none.
async fn read(
    incoming: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
    listener: &mut Listener,
    pulse: &Pulse,
    inbound: &mpsc::Sender<Result<Frame<Bytes>, Status>>,
) -> End {
    // Without a permit the session has ended, and its events are being written.
    while let Ok(permit) = inbound.reserve().await {
        let text: Utf8Bytes = match listener.text(incoming, pulse).await {
            Ok(text) => text,
            Err(end) => return end,
        };
        let frame = json::request_frame(&text);
        let is_broken = frame.is_err();
        permit.send(frame.map(Frame::data));
        if is_broken {
            // The session ends by it, behind the frames before it.
            break;
        }
    }
    std::future::pending().await
}

/// Writes the call's events, until it has ended or nobody takes them any more.
async fn write(outgoing: &mut (impl Sink<Message, Error = Error> + Unpin), mut body: Body, pulse: &Pulse) -> End {
    let mut waiting = BytesMut::new();
    loop {
        let frame = tokio::select! {
            biased;
            () = pulse.wanted() => {
                if outgoing.send(Message::Ping(Bytes::new())).await.is_err() {
                    return End::Gone;
                }
                pulse.sent();
                continue;
            }
            frame = body.frame() => frame,
        };
        let Some(Ok(frame)) = frame else { return End::refused(Refused::Panicked) };
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                let status = frame.into_trailers().ok().and_then(|trailers| Status::from_header_map(&trailers));
                return status.map_or_else(|| End::refused(Refused::Panicked), |status| End::of_status(&status));
            }
        };
        waiting.extend_from_slice(&data);
        while let Some(message) = frames::take_message(&mut waiting) {
            let Some(text) = json::event(&message) else { return End::refused(Refused::Panicked) };
            if outgoing.feed(Message::text(text)).await.is_err() {
                return End::Gone;
            }
        }
        if waiting.is_empty() {
            // An idle socket holds no memory.
            waiting = BytesMut::new();
        }
        if outgoing.flush().await.is_err() {
            return End::Gone;
        }
    }
}

#[cfg(test)]
mod tests;
