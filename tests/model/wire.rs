//! Reads what a session puts out, as a client does.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use bytes::{Buf, Bytes, BytesMut};
use chat_service::pb::chat::v1::ConnectChatResponse;
use chat_service::pb::chat::v1::connect_chat_response::Event;
use chat_service::transport::session::outbox::OutboxBody;
use http_body_util::BodyExt;
use prost::Message as _;
use tonic::Code;

use crate::check::Checked;

/// Bytes before each gRPC message: a flag and the length.
const PREFIX_BYTES: usize = 5;

/// What comes next.
#[derive(Debug)]
pub enum Next {
    Event(Event),
    End(Code),
}

/// The client's end of a response.
pub struct Reading {
    body: OutboxBody,
    buffer: BytesMut,
}

impl Reading {
    pub fn new(body: OutboxBody) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next event, or the stream's end. Cancel safe.
    pub async fn next(&mut self) -> Checked<Next> {
        loop {
            if let Some(event) = self.buffered()? {
                return Ok(Next::Event(event));
            }
            let Some(Ok(frame)) = self.body.frame().await else { return Err("the body ended without a status".into()) };
            match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    let trailers = frame.into_trailers().map_err(|_| "a frame that is neither data nor trailers")?;
                    let code = trailers.get("grpc-status").ok_or("trailers without grpc-status")?;
                    return if self.buffer.is_empty() {
                        Ok(Next::End(Code::from_bytes(code.as_bytes())))
                    } else {
                        Err("half an event".into())
                    };
                }
            }
        }
    }

    fn buffered(&mut self) -> Checked<Option<Event>> {
        let Some((prefix, rest)) = self.buffer.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let [compressed, length @ ..] = *prefix;
        let length = u32::from_be_bytes(length) as usize;
        if compressed != 0 {
            return Err("a compressed event".into());
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX_BYTES);
        let message: Bytes = self.buffer.split_to(length).freeze();
        let response = ConnectChatResponse::decode(message).map_err(|error| format!("an event that can't be decoded: {error}"))?;
        response.event.map(Some).ok_or_else(|| "an empty event".into())
    }
}
