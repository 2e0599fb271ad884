//! One GET over HTTPS, for a document that is asked for every few minutes, bounded in time and size. Redirects aren't followed: keys come
//! from the address that was configured and from nowhere else.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use http_body_util::Empty;

use super::ask::{Address, AskError};
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
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("the answer is {0}; redirects aren't followed")]
    Status(StatusCode),
    #[error("no answer within 5 seconds")]
    Late,
    #[error(transparent)]
    Document(#[from] KeySetError),
}

/// A document's address.
pub struct HttpSource(Address);

impl HttpSource {
    /// `None`: the address has no host that could be asked, or is https and there is nobody to trust.
    pub fn new(address: &Uri, trust: Option<&Trust>) -> Option<Self> {
        Address::new(address, trust).map(Self)
    }

    async fn get(&self) -> Result<Fetched, FetchError> {
        let mut request = Request::new(Empty::<Bytes>::new());
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        let response = self.0.ask(request, DOCUMENT_BYTES_MAX).await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let max_age = max_age(response.headers());
        Ok(Fetched { body: response.into_body(), max_age })
    }
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
}
