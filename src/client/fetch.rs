//! One GET over HTTPS, for a document that is asked for every few minutes: each on a connection of its own, and bounded in time
//! and size. Redirects aren't followed: keys come from the address that was configured and from nowhere else.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::jwks::{Fetched, Source};
use super::keys::KeySetError;
use super::trust::Trust;

/// How long a fetch may take, from the name's look-up to the last byte.
const FETCH_DUE: Duration = Duration::from_secs(5);
/// The largest document: far above any key set.
const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

/// Why there is no document. For logs and for the start's error; no user sees it.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("can't connect: {0}")]
    Connect(#[source] std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("the answer is {0}; redirects aren't followed")]
    Status(StatusCode),
    #[error("the document can't be read, or is larger than 256 KiB: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer within 5 seconds")]
    Late,
    #[error(transparent)]
    Document(#[from] KeySetError),
}

/// A document's address.
pub struct HttpSource {
    host: String,
    port: u16,
    path: String,
    authority: HeaderValue,
    /// `None`: plaintext.
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl HttpSource {
    /// `None`: the address has no host that could be asked, or is https and there is nobody to trust.
    pub fn new(address: &Uri, trust: Option<&Trust>) -> Option<Self> {
        let https = address.scheme_str() == Some("https");
        let host = address.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = if https { Some((trust?.https(), ServerName::try_from(host.clone()).ok()?)) } else { None };
        Some(Self {
            port: address.port_u16().unwrap_or(if https { 443 } else { 80 }),
            path: address.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            authority: HeaderValue::from_str(address.authority()?.as_str()).ok()?,
            host,
            tls,
        })
    }

    async fn get(&self) -> Result<Fetched, FetchError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(FetchError::Connect)?;
        match &self.tls {
            None => self.exchange(stream).await,
            Some((config, name)) => {
                let connecting = TlsConnector::from(Arc::clone(config)).connect(name.clone(), stream);
                self.exchange(connecting.await.map_err(FetchError::Connect)?).await
            }
        }
    }

    async fn exchange<I: AsyncRead + AsyncWrite + Unpin>(&self, io: I) -> Result<Fetched, FetchError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = self.path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(HOST, self.authority.clone());
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("chat-service/", env!("CARGO_PKG_VERSION"))));
        let mut answer = pin!(async move { read(sender.send_request(request).await?).await });
        tokio::select! {
            biased;
            answer = answer.as_mut() => answer,
            // What it has brought is still to be read.
            _ = connection => answer.await,
        }
    }
}

async fn read(response: Response<Incoming>) -> Result<Fetched, FetchError> {
    let (parts, body) = response.into_parts();
    if parts.status != StatusCode::OK {
        return Err(FetchError::Status(parts.status));
    }
    let body = Limited::new(body, DOCUMENT_BYTES_MAX).collect().await.map_err(FetchError::Body)?.to_bytes();
    Ok(Fetched { body, max_age: max_age(&parts.headers) })
}

#[async_trait]
impl Source for HttpSource {
    async fn fetch(&self) -> Result<Fetched, FetchError> {
        tokio::time::timeout(FETCH_DUE, self.get()).await.unwrap_or(Err(FetchError::Late))
    }
}

/// How long the answer says that it is good. Zero where it says that it isn't to be kept.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let directives = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let ages = directives.filter_map(|directive| {
        let directive = directive.trim().to_ascii_lowercase();
        match directive.as_str() {
            "no-store" | "no-cache" => Some(Duration::ZERO),
            other => other.strip_prefix("max-age=")?.trim_matches('"').parse().ok().map(Duration::from_secs),
        }
    });
    ages.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(value: &str) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, value.parse().unwrap());
        max_age(&headers).map(|age| age.as_secs())
    }

    #[test]
    fn the_answer_says_how_long_it_is_good() {
        assert_eq!(age("public, max-age=600, must-revalidate"), Some(600));
        assert_eq!(age("Max-Age=1"), Some(1));
        assert_eq!(age("max-age=600, no-store"), Some(0));
        assert_eq!(age("public"), None);
        assert_eq!(age("max-age=soon"), None);
    }

    #[test]
    fn addresses_are_asked_where_they_point() {
        let source = |address: &str| HttpSource::new(&address.parse().unwrap(), None);
        let keys = source("http://127.0.0.1:8080/realms/a/certs?x=1").unwrap();
        assert_eq!((keys.host.as_str(), keys.port, keys.path.as_str()), ("127.0.0.1", 8080, "/realms/a/certs?x=1"));
        let bare = source("http://[::1]").unwrap();
        assert_eq!((bare.host.as_str(), bare.port, bare.path.as_str()), ("::1", 80, "/"));
        assert!(source("/keys").is_none());
        assert!(source("https://localhost/keys").is_none(), "never in plaintext");
    }
}
