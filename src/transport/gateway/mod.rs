//! REST: an HTTP request becomes the gRPC request that it stands for, goes through the same layers, in this process, and its answer becomes JSON.
//!
//! Nothing here knows the API: routes come from the proto's google.api.http annotations, messages from its descriptors. docs/rest.md tells what
//! clients may rely on.

mod answer;
mod call;
pub mod json;
mod percent;
mod query;
pub mod routes;

use axum::body::Body;
use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use prost::Message;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use tonic::Status;

pub use call::Call;
pub use routes::{Routes, Unsupported};

use crate::converter::status::{self, Refused};
use crate::pb::FILE_DESCRIPTOR_SET;
use routes::Lookup;

/// This API's description, made by `make generate`.
pub const OPENAPI: &str = include_str!("openapi.json");

/// Every descriptor that answers may need: the API's, and those of the details of errors.
pub fn descriptors() -> Result<DescriptorPool, Unsupported> {
    let unsupported = |why: String| Unsupported { rpc: "descriptors".to_owned(), why };
    let mut pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).map_err(|error| unsupported(error.to_string()))?;
    let details =
        prost_types::FileDescriptorSet::decode(tonic_types::pb::FILE_DESCRIPTOR_SET).map_err(|error| unsupported(error.to_string()))?;
    // That set's other file holds google.rpc.Status, which the API's own descriptors have.
    let details = details.file.into_iter().filter(|file| file.message_type.iter().any(|message| message.name() == "ErrorInfo"));
    pool.add_file_descriptor_protos(details).map_err(|error| unsupported(error.to_string()))?;
    Ok(pool)
}

/// The REST side of the API.
#[derive(Debug)]
pub struct Gateway {
    routes: Routes,
    /// google.rpc.Status
    status: MessageDescriptor,
}

/// Why a request is no call.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    refused: Refused,
    /// The methods that the path has.
    allow: Option<HeaderValue>,
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        Self { refused, allow: None }
    }
}

impl Refusal {
    /// Of a method where only others are allowed.
    pub fn method(allowed: &str) -> Self {
        Self::method_because(Refused::MethodNotAllowed, allowed)
    }

    /// The same for a reason of its own.
    pub fn method_because(refused: Refused, allowed: &str) -> Self {
        Self { refused, allow: HeaderValue::from_str(allowed).ok() }
    }
}

impl Gateway {
    pub fn new() -> Result<Self, Unsupported> {
        let pool = descriptors()?;
        let status = pool
            .get_message_by_name("google.rpc.Status")
            .ok_or_else(|| Unsupported { rpc: "google.rpc.Status".to_owned(), why: "is not among the descriptors".to_owned() })?;
        Ok(Self { routes: Routes::of(&pool)?, status })
    }

    /// The call that a request is, by its line and headers alone.
    pub fn open(&self, request: &Request<Body>) -> Result<Call, Refusal> {
        let path = request.uri().path();
        match self.routes.find(request.method(), path) {
            Lookup::Found(route, _) if route.has_body && !is_json(request.headers()) => Err(Refused::ContentType.into()),
            Lookup::Found(route, variables) => Ok(Call::new(route, variables)),
            Lookup::OtherMethods(methods) => {
                let methods: Vec<&str> = methods.iter().map(http::Method::as_str).collect();
                Err(Refusal::method(&methods.join(", ")))
            }
            Lookup::Nothing if self.routes.is_rpc(path) => Err(Refused::ContentType.into()),
            Lookup::Nothing => Err(Refused::PathUnknown.into()),
        }
    }

    /// The answer to what is no call.
    pub fn refuse(&self, refusal: Refusal) -> Response<Body> {
        let mut response = self.error(&status::refused(refusal.refused));
        if let Some(allow) = refusal.allow {
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response.headers_mut().insert(ALLOW, allow);
        }
        response
    }

    /// An error as JSON.
    pub fn error(&self, status: &Status) -> Response<Body> {
        answer::error(&self.status, status)
    }

    /// A gRPC answer as JSON; any other goes through as it is. `output`: what the call answers with.
    pub async fn to_http(&self, response: Response<Body>, output: Option<MessageDescriptor>) -> Response<Body> {
        answer::of_grpc(&self.status, response, output).await
    }
}

/// JSON in UTF-8, and not packed. Without a content type a body counts as JSON.
fn is_json(headers: &HeaderMap) -> bool {
    let packed = headers.get(CONTENT_ENCODING).is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
    let typed = headers.get(CONTENT_TYPE).is_none_or(|value| {
        let Ok(value) = value.to_str() else { return false };
        let mut parts = value.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default();
        let other_charset = parts.any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            name.eq_ignore_ascii_case("charset") && !value.trim_matches('"').eq_ignore_ascii_case("utf-8")
        });
        essence.eq_ignore_ascii_case("application/json") && !other_charset
    });
    typed && !packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_json_unless_its_headers_say_otherwise() {
        let is =
            |name: &'static str, value: &'static str| is_json(&HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]));
        assert!(is_json(&HeaderMap::new()), "no content type");
        for fits in ["application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;charset=\"UTF-8\"; q=1"] {
            assert!(is("content-type", fits), "{fits}");
        }
        for other in ["", "text/plain", "application/jsonp", "application/x-www-form-urlencoded", "application/json; charset=latin1"] {
            assert!(!is("content-type", other), "{other}");
        }
        assert!(is("content-encoding", "identity") && !is("content-encoding", "gzip"));
    }

    #[test]
    fn the_details_of_errors_are_known() {
        let pool = descriptors().unwrap();
        for name in ["ErrorInfo", "BadRequest", "RetryInfo", "Status"] {
            assert!(pool.get_message_by_name(&format!("google.rpc.{name}")).is_some(), "{name}");
        }
    }
}
