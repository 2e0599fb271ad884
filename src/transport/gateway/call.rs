//! A REST request as the gRPC request that it stands for.

use std::sync::Arc;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderName, HeaderValue, Method, Request, Version};
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor, Value};
use tonic::Status;

use super::routes::Route;
use super::{json, percent, query};
use crate::converter::status::{self, Refused};
use crate::converter::validate::Violation;
use crate::model::limits;

/// Headers that mean the same to a gRPC call, and go with it.
const CARRIED: [&str; 7] = ["authorization", "x-request-id", "traceparent", "tracestate", "baggage", "x-forwarded-for", "user-agent"];

/// A request that has a route.
#[derive(Debug)]
pub struct Call {
    route: Arc<Route>,
    /// What the path gives, encoded.
    variables: Vec<String>,
}

impl Call {
    pub(super) fn new(route: Arc<Route>, variables: Vec<String>) -> Self {
        Self { route, variables }
    }

    /// What the call answers with.
    pub fn output(&self) -> MessageDescriptor {
        self.route.rpc.output()
    }

    /// The gRPC request. Its body is read, and understood, only when it is asked for: behind the layers that know the caller and the limits, as with gRPC.
    pub fn into_grpc(self, request: Request<Body>) -> Request<Body> {
        let (parts, body) = request.into_parts();
        let uri = self.route.uri.clone();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let mut grpc = Request::new(Body::from_stream(stream::once(self.message(query, body))));
        *grpc.method_mut() = Method::POST;
        *grpc.uri_mut() = uri;
        *grpc.version_mut() = Version::HTTP_2;
        let headers = grpc.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        for name in CARRIED {
            for value in parts.headers.get_all(name) {
                headers.append(HeaderName::from_static(name), value.clone());
            }
        }
        *grpc.extensions_mut() = parts.extensions;
        grpc
    }

    /// The message with gRPC's prefix. An error here becomes the call's status.
    async fn message(self, query: String, body: Body) -> Result<Bytes, Status> {
        let input = self.route.rpc.input();
        let body = if self.route.has_body { read(body).await? } else { Bytes::new() };
        let mut message = if body.iter().all(u8::is_ascii_whitespace) {
            // As grpc-gateway has it: nothing is the empty message.
            DynamicMessage::new(input)
        } else {
            json::decode(&input, &body).map_err(|unread| refuse(unread.into_violation()))?
        };
        // Where the body names a field of the path too, the path counts.
        for (field, encoded) in self.route.path_fields().zip(&self.variables) {
            let wrong = || Violation { field: field.name().to_owned(), description: "is not percent-encoded UTF-8".to_owned() };
            let text = percent::decode(encoded).ok_or_else(|| refuse(wrong()))?;
            message.set_field(field, Value::String(text));
        }
        query::bind(&mut message, &query, &self.route).map_err(refuse)?;
        Ok(framed(&message))
    }
}

fn refuse(violation: Violation) -> Status {
    status::invalid(&[violation])
}

async fn read(body: Body) -> Result<Bytes, Status> {
    let too_large = || status::refused(Refused::BodyTooLarge);
    if body.size_hint().lower() > limits::REQUEST_BYTES_MAX as u64 {
        return Err(too_large());
    }
    match Limited::new(body, limits::REQUEST_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(status::refused(Refused::BodyBroken)),
    }
}

fn framed(message: &DynamicMessage) -> Bytes {
    let message = message.encode_to_vec();
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    // Made of a body and a header, whose limits are far below; and tonic refuses what is above its own.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    frame.freeze()
}
