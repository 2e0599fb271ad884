//! What a connection may take: time, memory and work. ARCHITECTURE.md's Bounds lists them.

use std::time::Duration;

/// The limits of one connection. Tests shorten them; the server runs with the defaults and what is configured.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// How long a TLS handshake, the first bytes of a protocol, or the header of an HTTP/1 request, may take.
    pub handshake_due: Duration,
    /// How long an HTTP/2 connection may be without a stream.
    pub idle_due: Duration,
    /// How old a connection may get, give or take a tenth; `None`: as old as it likes.
    pub age_max: Option<Duration>,
    /// How long a connection that was told to end may take for it.
    pub drain_due: Duration,
    /// How long a socket may take nothing that waits for it; `None`: as long as it likes.
    pub send_due: Option<Duration>,
    /// A quiet HTTP/2 connection is asked for a sign of life this often, and must give it in this time.
    pub keep_alive_interval: Duration,
    pub keep_alive_due: Duration,
    /// Streams at once; 0: no limit.
    pub streams_max: u32,
    /// What a client may send ahead on a stream and on the connection.
    pub stream_window_bytes: u32,
    pub connection_window_bytes: u32,
    /// Header bytes of a request: the largest token, and room. Four times as much ends the connection.
    pub header_list_bytes_max: u32,
    /// An HTTP/2 frame from the client: the protocol's own minimum.
    pub frame_bytes_max: u32,
    /// What HTTP/2 holds of a stream's answer until the client takes it: the largest piece that is given to it at once.
    pub send_buffer_bytes_max: usize,
    /// Bytes of an HTTP/1 request's header.
    pub http1_buffer_bytes_max: usize,
    /// Streams that were opened and reset before anything was done for them; one more ends the connection (rapid reset).
    pub pending_resets_max: usize,
    /// Streams that this side had to reset in a connection's life: too many at once, or against the protocol; one more ends the connection.
    pub local_resets_max: usize,
    /// Frames that carry nothing, like PING and SETTINGS, in a second; one more ends the connection.
    pub control_frames_per_second_max: u32,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            handshake_due: Duration::from_secs(10),
            idle_due: Duration::from_secs(300),
            age_max: None,
            drain_due: Duration::from_secs(10),
            send_due: Some(Duration::from_secs(60)),
            keep_alive_interval: Duration::from_secs(30),
            keep_alive_due: Duration::from_secs(20),
            streams_max: 128,
            stream_window_bytes: 256 * 1024,
            connection_window_bytes: 1024 * 1024,
            header_list_bytes_max: 32 * 1024,
            frame_bytes_max: 16 * 1024,
            send_buffer_bytes_max: 64 * 1024,
            http1_buffer_bytes_max: 64 * 1024,
            pending_resets_max: 64,
            local_resets_max: 1024,
            control_frames_per_second_max: 10_000,
        }
    }
}
