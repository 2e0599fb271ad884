//! How a socket ends: what its client is told. docs/websocket.md has the table.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::converter::status::{self, Refused};

/// How long the closing may take: to tell the client, and to hear it agree.
const CLOSE_DUE: Duration = Duration::from_secs(5);

/// Why a socket ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The client has closed it.
    Closed,
    /// The client is gone: there is nobody to tell.
    Gone,
    /// The client is told this.
    Told { code: u16, reason: String },
}

impl End {
    pub fn told(code: u16, reason: &str) -> Self {
        Self::Told { code, reason: reason.to_owned() }
    }

    pub fn refused(refused: Refused) -> Self {
        Self::of_status(&status::refused(refused))
    }

    /// The status that the stream behind the socket has ended with.
    pub fn of_status(status: &Status) -> Self {
        let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        let code = match (status.code(), reason.as_str()) {
            (Code::Ok, _) => 1000,
            (Code::Unavailable, "GOING_AWAY") => 1001,
            (Code::InvalidArgument, _) => 1007,
            (Code::Unavailable, _) => 1013,
            (Code::Unauthenticated, _) => 4401,
            (Code::PermissionDenied, _) => 4403,
            (Code::DeadlineExceeded, _) => 4408,
            (Code::ResourceExhausted, _) => 4429,
            _ => 1011,
        };
        // Reasons are short: a close frame holds 123 bytes of them.
        Self::told(code, &reason)
    }

    /// What could not be read from the socket.
    pub fn of_error(error: &Error) -> Self {
        match error {
            Error::Capacity(_) => Self::told(1009, "MESSAGE_TOO_BIG"),
            Error::Utf8(_) => Self::told(1007, "MALFORMED_FRAME"),
            // It didn't say goodbye: what is told goes nowhere.
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Gone,
            Error::Protocol(_) => Self::told(1002, "PROTOCOL_ERROR"),
            _ => Self::Gone,
        }
    }
}

/// Tells the client, hears it agree, and closes the connection, all within [`CLOSE_DUE`].
pub async fn close<I: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<I>, end: End) {
    let frame = match end {
        End::Gone => return,
        End::Closed => None,
        End::Told { code, reason } => Some(CloseFrame { code: code.into(), reason: reason.into() }),
    };
    let closing = async {
        if let Some(frame) = frame
            && socket.close(Some(frame)).await.is_err()
        {
            return;
        }
        // To the client's agreement, or to what couldn't be read. This also sends what agrees with the client.
        while let Some(Ok(_)) = socket.next().await {}
        let io = socket.get_mut();
        if io.shutdown().await.is_err() {
            return;
        }
        // What the client has sent meanwhile: were it unread, the kernel would throw away what was told.
        let mut rest = [0; 1024];
        while matches!(io.read(&mut rest).await, Ok(count) if count > 0) {}
    };
    if timeout(CLOSE_DUE, closing).await.is_err() {
        tracing::debug!("a WebSocket's client did not close in time");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Error as ServiceError;

    #[test]
    fn each_end_of_a_stream_has_its_code_and_its_reason() {
        for (refused, code, reason) in [
            (Refused::TokenExpired, 4401, "TOKEN_EXPIRED"),
            (Refused::TokenMissing, 4401, "TOKEN_MISSING"),
            (Refused::AccessDenied, 4403, "ACCESS_DENIED"),
            (Refused::FirstFrameLate, 4408, "FIRST_FRAME_LATE"),
            (Refused::RateLimited(Duration::from_secs(1)), 4429, "RATE_LIMITED"),
            (Refused::MalformedFrame, 1007, "MALFORMED_FRAME"),
            (Refused::AuthUnavailable, 1013, "AUTH_UNAVAILABLE"),
            (Refused::Unhealable, 1011, "HOLE_IN_STORE"),
            (Refused::Panicked, 1011, "INTERNAL"),
        ] {
            assert_eq!(End::refused(refused), End::told(code, reason));
        }
        assert_eq!(End::of_status(&status::of_error(&ServiceError::GoingAway)), End::told(1001, "GOING_AWAY"));
        assert_eq!(End::of_status(&status::of_error(&ServiceError::Unavailable)), End::told(1013, "STORE_UNAVAILABLE"));
        assert_eq!(End::of_status(&Status::ok("")), End::told(1000, ""));
    }
}
