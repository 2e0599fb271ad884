//! The one mapping from errors to statuses: code, stable reason, and what helps the caller.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::validate::Violation;
use crate::service::Error;

/// The domain of the reasons in ErrorInfo.
const DOMAIN: &str = "chat.v1";
/// How long a caller should wait before it tries again.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Violations that one answer names: it must fit into HTTP headers.
const VIOLATIONS_MAX: usize = 20;

/// Errors of a call or a stream that aren't the service's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    TokenMissing,
    TokenInvalid,
    TokenExpired,
    /// The Auth Service says so.
    AccessDenied,
    /// Who vouches for tokens can't be asked.
    AuthUnavailable,
    AuthOverloaded,
    FirstFrameLate,
    StreamJoined,
    StreamNotJoined,
    TooManyChats,
    TokenOfAnother,
    UnknownFrame,
    MalformedFrame,
    MalformedRequest,
    RequestTooLarge,
    NeedsHttp2,
    /// A request for a WebSocket that is none, and why.
    Handshake(&'static str),
    OriginNotAllowed,
    /// A request by gRPC-web that is none, and why.
    GrpcWeb(&'static str),
    Unhealable,
    Panicked,
    /// Too often; allowed again after this time.
    RateLimited(Duration),
    SendStalled,
    RequestLate,
    /// A reflection stream has asked enough, or lived long enough.
    ReflectionSpent,
    // Of HTTP requests that become no call:
    BodyTooLarge,
    BodyBroken,
    ContentType,
    MethodNotAllowed,
    PathUnknown,
}

pub fn of_error(error: &Error) -> Status {
    let (code, reason, retry) = match error {
        Error::ChatNotFound => (Code::NotFound, "CHAT_NOT_FOUND", false),
        Error::MemberNotFound => (Code::NotFound, "MEMBER_NOT_FOUND", false),
        Error::Denied => (Code::PermissionDenied, "ROLE_TOO_LOW", false),
        Error::MessageIdTaken => (Code::AlreadyExists, "CLIENT_MESSAGE_ID_TAKEN", false),
        Error::RequestIdTaken => (Code::AlreadyExists, "REQUEST_ID_TAKEN", false),
        Error::LastOwner => (Code::FailedPrecondition, "LAST_OWNER", false),
        Error::TooManyMembers => (Code::FailedPrecondition, "TOO_MANY_MEMBERS", false),
        Error::SequenceAhead { .. } => (Code::OutOfRange, "SEQUENCE_AHEAD", false),
        Error::Invalid { field, description } => {
            return invalid(&[Violation { field: (*field).to_owned(), description: (*description).to_owned() }]);
        }
        Error::Overloaded => (Code::ResourceExhausted, "OVERLOADED", true),
        Error::GoingAway => (Code::Unavailable, "GOING_AWAY", true),
        Error::NotStored => (Code::Unavailable, "NOT_STORED", true),
        Error::Unavailable => (Code::Unavailable, "STORE_UNAVAILABLE", true),
        Error::Internal => (Code::Internal, "INTERNAL", false),
    };
    status(code, &error.to_string(), reason, retry.then_some(RETRY_AFTER))
}

pub fn refused(refused: Refused) -> Status {
    let (code, reason, message) = match refused {
        Refused::TokenMissing => (Code::Unauthenticated, "TOKEN_MISSING", "send the metadata `authorization: Bearer <token>`"),
        Refused::TokenInvalid => (Code::Unauthenticated, "TOKEN_INVALID", "the token is not valid here"),
        Refused::TokenExpired => (Code::Unauthenticated, "TOKEN_EXPIRED", "the token has expired; get a new one"),
        Refused::AccessDenied => (Code::PermissionDenied, "ACCESS_DENIED", "the token's bearer may not call this"),
        Refused::AuthUnavailable => (Code::Unavailable, "AUTH_UNAVAILABLE", "the token can't be checked now"),
        Refused::AuthOverloaded => (Code::ResourceExhausted, "AUTH_OVERLOADED", "too many tokens are being checked"),
        Refused::FirstFrameLate => (Code::DeadlineExceeded, "FIRST_FRAME_LATE", "no valid frame came within 10 seconds"),
        Refused::StreamJoined => (Code::AlreadyExists, "ALREADY_JOINED", "the stream has joined this chat already"),
        Refused::StreamNotJoined => (Code::NotFound, "NOT_JOINED", "the stream has not joined this chat"),
        Refused::TooManyChats => {
            (Code::ResourceExhausted, "TOO_MANY_CHATS", "a stream joins at most 128 chats; leave one, or join on another stream")
        }
        Refused::TokenOfAnother => {
            (Code::PermissionDenied, "TOKEN_OF_ANOTHER", "the new token is of another user or kind of role; open a new stream with it")
        }
        Refused::UnknownFrame => (Code::InvalidArgument, "UNKNOWN_FRAME", "the frame is empty or of a kind that this server does not know"),
        Refused::MalformedFrame => (Code::InvalidArgument, "MALFORMED_FRAME", "the frame could not be read"),
        Refused::NeedsHttp2 => (Code::Unimplemented, "NEEDS_HTTP2", "ConnectChat needs HTTP/2, gRPC-web or a WebSocket"),
        Refused::Handshake(why) => (Code::InvalidArgument, "WEBSOCKET_HANDSHAKE", why),
        Refused::OriginNotAllowed => (
            Code::PermissionDenied,
            "ORIGIN_NOT_ALLOWED",
            "pages of this origin may not use this server; CHAT_CORS_ORIGINS lists those that may",
        ),
        Refused::GrpcWeb(why) => (Code::InvalidArgument, "GRPC_WEB_REQUEST", why),
        Refused::MalformedRequest => (Code::InvalidArgument, "MALFORMED_REQUEST", "the request could not be read"),
        Refused::RequestTooLarge => (Code::OutOfRange, "REQUEST_TOO_LARGE", "a request, or a frame, is at most 256 KiB"),
        Refused::Unhealable => (Code::DataLoss, "HOLE_IN_STORE", "the store lacks a message of the chat"),
        Refused::Panicked => (Code::Internal, "INTERNAL", "internal error"),
        Refused::RateLimited(_) => (Code::ResourceExhausted, "RATE_LIMITED", "too many requests; try again after the stated time"),
        Refused::SendStalled => (Code::DeadlineExceeded, "SEND_STALLED", "the client took nothing for too long; read on another stream"),
        Refused::RequestLate => (Code::DeadlineExceeded, "REQUEST_LATE", "the request did not arrive, or was not done, in time"),
        Refused::ReflectionSpent => (
            Code::ResourceExhausted,
            "REFLECTION_LIMIT",
            "a reflection stream answers 128 requests at most, within 60 seconds; ask on another stream",
        ),
        Refused::BodyTooLarge => (Code::OutOfRange, "BODY_TOO_LARGE", "the request's body is larger than 256 KiB"),
        Refused::BodyBroken => (Code::InvalidArgument, "BODY_BROKEN", "the request's body broke off or is badly framed"),
        Refused::ContentType => (
            Code::InvalidArgument,
            "CONTENT_TYPE",
            "this path takes another kind of body: /v1/… application/json in UTF-8, an RPC's own path gRPC",
        ),
        Refused::MethodNotAllowed => {
            (Code::Unimplemented, "METHOD_NOT_ALLOWED", "this path has other methods; the header Allow names them")
        }
        Refused::PathUnknown => (Code::NotFound, "PATH_UNKNOWN", "there is nothing at this path"),
    };
    let retry = match refused {
        Refused::RateLimited(wait) => Some(wait),
        Refused::AuthUnavailable | Refused::AuthOverloaded => Some(RETRY_AFTER),
        // On another stream it works at once.
        Refused::TooManyChats | Refused::ReflectionSpent => Some(RETRY_AFTER),
        _ => None,
    };
    status(code, message, reason, retry)
}

/// What takes the place of a status that the gRPC library made by itself, of a request that it couldn't read: its text is the library's,
/// its code for bytes that are no message is INTERNAL, and it has no reason that a client could act on.
pub fn in_own_words(headers: &http::HeaderMap) -> Option<Status> {
    if headers.contains_key("grpc-status-details-bin") {
        return None;
    }
    match Code::from_bytes(headers.get("grpc-status")?.as_bytes()) {
        Code::Internal => Some(refused(Refused::MalformedRequest)),
        Code::OutOfRange => Some(refused(Refused::RequestTooLarge)),
        _ => None,
    }
}

/// INVALID_ARGUMENT with the fields that break a rule.
pub fn invalid(violations: &[Violation]) -> Status {
    let mut details = ErrorDetails::new();
    for violation in violations.iter().take(VIOLATIONS_MAX) {
        details.add_bad_request_violation(&violation.field, &violation.description);
    }
    details.set_error_info("INVALID_FIELDS", DOMAIN, std::collections::HashMap::new());
    let first = violations.first().map(|v| format!("{}: {}", v.field, v.description)).unwrap_or_default();
    Status::with_error_details(Code::InvalidArgument, first, details)
}

fn status(code: Code, message: &str, reason: &str, retry_after: Option<Duration>) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, std::collections::HashMap::new());
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    Status::with_error_details(code, message, details)
}

/// A status as the last frame of an answer.
pub fn trailers(status: &Status) -> http::HeaderMap {
    let mut trailers = http::HeaderMap::new();
    // Statuses are made here, of texts that fit a header.
    if status.add_header(&mut trailers).is_err() {
        trailers.insert("grpc-status", http::HeaderValue::from_static("13"));
    }
    trailers
}

/// The same as a message, for `rejected`.
pub fn to_message(status: &Status) -> tonic_types::Status {
    use prost::Message;
    // The details of a status made here are the encoded message itself.
    tonic_types::Status::decode(status.details()).unwrap_or_else(|_| tonic_types::Status {
        code: i32::from(status.code()),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_its_reason_and_when_to_try_again() {
        let status = of_error(&Error::Overloaded);
        assert_eq!(status.code(), Code::ResourceExhausted);
        let details = status.get_error_details();
        assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some("OVERLOADED"));
        assert!(details.retry_info().is_some());
    }

    #[test]
    fn a_rate_limit_says_how_long_to_wait() {
        let wait = Duration::from_millis(30);
        let details = refused(Refused::RateLimited(wait)).get_error_details();
        assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some("RATE_LIMITED"));
        assert_eq!(details.retry_info().and_then(|retry| retry.retry_delay), Some(wait));
    }

    #[test]
    fn whatever_is_exhausted_or_unavailable_says_when_to_try_again() {
        let errors = [Error::Overloaded, Error::GoingAway, Error::Unavailable].map(|error| of_error(&error));
        let wait = Duration::from_millis(1);
        let refusals = [
            Refused::AuthUnavailable,
            Refused::AuthOverloaded,
            Refused::TooManyChats,
            Refused::ReflectionSpent,
            Refused::RateLimited(wait),
        ]
        .map(refused);
        for status in errors.into_iter().chain(refusals) {
            assert!(matches!(status.code(), Code::ResourceExhausted | Code::Unavailable), "{status:?}");
            assert!(status.get_error_details().retry_info().is_some_and(|retry| retry.retry_delay.is_some()), "{status:?}");
        }
    }

    #[test]
    fn the_librarys_own_statuses_get_reasons_and_others_stay() {
        let told = |status: Status| in_own_words(status.into_http::<()>().headers());
        assert_eq!(told(Status::internal("failed to decode Protobuf message")).unwrap().code(), Code::InvalidArgument);
        assert_eq!(told(Status::out_of_range("too long")).unwrap().code(), Code::OutOfRange);
        assert!(told(Status::unimplemented("no such method")).is_none());
        assert!(told(of_error(&Error::Internal)).is_none() && told(of_error(&Error::SequenceAhead { last_sequence: 1 })).is_none());
    }

    #[test]
    fn a_rejected_event_carries_the_whole_status() {
        let violation = Violation { field: "send.text".into(), description: "must not be blank".into() };
        let message = to_message(&invalid(&[violation]));
        assert_eq!(message.code, i32::from(Code::InvalidArgument));
        assert_eq!(message.details.len(), 2);
    }
}
