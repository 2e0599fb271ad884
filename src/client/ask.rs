//! One request over HTTP/1.1, on a connection of its own: for what is asked every few seconds or minutes, a pool, redirects and HTTP/2
//! would be a further crate. Whoever asks bounds the time.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Request, Response, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::trust::Trust;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("can't connect: {0}")]
    Connect(#[source] std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("the answer can't be read, or is larger than {limit} bytes: {source}")]
    Body { limit: usize, source: Box<dyn std::error::Error + Send + Sync> },
}

/// Whom to ask, and for what.
pub struct Address {
    host: String,
    port: u16,
    path: String,
    authority: HeaderValue,
    /// `None`: plaintext.
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Address {
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

    /// Sends a request here, whatever address it has, and reads the whole answer.
    pub async fn ask<B>(&self, request: Request<B>, answer_bytes_max: usize) -> Result<Response<Bytes>, AskError>
    where
        B: Body + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(AskError::Connect)?;
        match &self.tls {
            None => self.exchange(stream, request, answer_bytes_max).await,
            Some((config, name)) => {
                let connecting = TlsConnector::from(Arc::clone(config)).connect(name.clone(), stream);
                self.exchange(connecting.await.map_err(AskError::Connect)?, request, answer_bytes_max).await
            }
        }
    }

    async fn exchange<I, B>(&self, io: I, mut request: Request<B>, answer_bytes_max: usize) -> Result<Response<Bytes>, AskError>
    where
        I: AsyncRead + AsyncWrite + Unpin,
        B: Body + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        *request.uri_mut() = self.path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(HOST, self.authority.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("chat-service/", env!("CARGO_PKG_VERSION"))));
        let mut answer = pin!(async move {
            let (parts, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, answer_bytes_max).collect().await;
            let body = body.map_err(|source| AskError::Body { limit: answer_bytes_max, source })?;
            Ok::<_, AskError>(Response::from_parts(parts, body.to_bytes()))
        });
        tokio::select! {
            biased;
            answer = answer.as_mut() => answer,
            // What it has brought is still to be read.
            _ = connection => answer.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_asked_where_they_point() {
        let source = |address: &str| Address::new(&address.parse().unwrap(), None);
        let keys = source("http://127.0.0.1:8080/realms/a/certs?x=1").unwrap();
        assert_eq!((keys.host.as_str(), keys.port, keys.path.as_str()), ("127.0.0.1", 8080, "/realms/a/certs?x=1"));
        let bare = source("http://[::1]").unwrap();
        assert_eq!((bare.host.as_str(), bare.port, bare.path.as_str()), ("::1", 80, "/"));
        assert!(source("/keys").is_none());
        assert!(source("https://localhost/keys").is_none(), "never in plaintext");
    }
}
