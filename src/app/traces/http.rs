//! OTLP over HTTP: a POST for each batch of spans.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::Uri;
use http_body_util::Full;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::runtime::Handle;

use crate::client::ask::Address;
use crate::client::trust::Trust;

/// The largest answer: it says how many spans were refused, and why.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

pub struct Client {
    address: Arc<Address>,
    due: Duration,
    /// Exports are asked for on a thread that has no runtime.
    runtime: Handle,
}

impl Client {
    /// `None`: the address has no host that could be asked.
    pub fn new(address: &Uri, trust: Option<&Trust>, due: Duration) -> Option<Self> {
        Some(Self { address: Arc::new(Address::new(address, trust)?), due, runtime: Handle::current() })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address's path may hold a key.
        f.write_str("Client")
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (address, due) = (Arc::clone(&self.address), self.due);
        let asked = self.runtime.spawn(async move {
            let ask = address.ask(request.map(Full::new), ANSWER_BYTES_MAX);
            tokio::time::timeout(due, ask).await
        });
        Ok(asked.await???)
    }
}
