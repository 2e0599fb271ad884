//! An identity provider: keys that sign tokens, and an HTTP server that publishes them.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey, Header, encode};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::common::Ground;

/// A key pair that signs tokens.
pub struct SigningKey {
    pub kid: &'static str,
    pub algorithm: Algorithm,
    pub private: EncodingKey,
    pub public_pem: String,
}

impl SigningKey {
    pub fn new(kid: &'static str, algorithm: Algorithm) -> Self {
        let pair = match algorithm.family() {
            AlgorithmFamily::Rsa => rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048),
            AlgorithmFamily::Ec => rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            AlgorithmFamily::Ed => rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519),
            AlgorithmFamily::Hmac => panic!("a provider publishes no secrets"),
        }
        .unwrap();
        let pem = pair.serialize_pem();
        let private = match algorithm.family() {
            AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(pem.as_bytes()),
            AlgorithmFamily::Ec => EncodingKey::from_ec_pem(pem.as_bytes()),
            _ => EncodingKey::from_ed_pem(pem.as_bytes()),
        }
        .unwrap();
        Self { kid, algorithm, private, public_pem: pair.public_key_pem() }
    }

    /// A token that names this key.
    pub fn token(&self, sub: &str) -> String {
        self.token_as(self.algorithm, self.kid, sub)
    }

    /// A token that this key signs, whatever it says of that.
    pub fn token_as(&self, algorithm: Algorithm, kid: &str, sub: &str) -> String {
        encode(&header(algorithm, kid), &claims(sub), &self.private).unwrap()
    }

    /// What is published of this key.
    pub fn jwk(&self) -> Value {
        let pem = self.public_pem.as_bytes();
        let key = match self.algorithm.family() {
            AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(pem),
            AlgorithmFamily::Ec => DecodingKey::from_ec_pem(pem),
            _ => DecodingKey::from_ed_pem(pem),
        };
        let mut jwk = serde_json::to_value(Jwk::from_decoding_key(&key.unwrap(), None).unwrap()).unwrap();
        jwk["kid"] = json!(self.kid);
        jwk["use"] = json!("sig");
        jwk
    }
}

pub fn header(algorithm: Algorithm, kid: &str) -> Header {
    Header { kid: Some(kid.into()), ..Header::new(algorithm) }
}

pub fn claims(sub: &str) -> Value {
    json!({ "sub": sub, "exp": chrono::Utc::now().timestamp() + 3600 })
}

/// What the provider answers.
enum Published {
    Keys(Vec<Value>),
    Text(&'static str),
    Status(StatusCode),
}

struct Shared {
    published: Mutex<Published>,
    fetches: AtomicUsize,
}

/// Publishes keys until it is dropped.
pub struct Provider {
    pub url: String,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Provider {
    pub async fn start(keys: &[&SigningKey]) -> Self {
        Self::start_with(keys, None).await
    }

    /// With the certificate of this ground.
    pub async fn start_tls(keys: &[&SigningKey], ground: &Ground) -> Self {
        let certs = CertificateDer::pem_file_iter(ground.path("certs/server.pem")).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(ground.path("certs/server.key")).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(certs, key).unwrap();
        Self::start_with(keys, Some(Arc::new(config))).await
    }

    async fn start_with(keys: &[&SigningKey], tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://localhost:{}/keys", listener.local_addr().unwrap().port());
        let published = Mutex::new(Published::Keys(Vec::new()));
        let shared = Arc::new(Shared { published, fetches: AtomicUsize::new(0) });
        let provider = Self { url, shared: Arc::clone(&shared), task: tokio::spawn(accept(listener, tls, shared)) };
        provider.publish(keys);
        provider
    }

    pub fn publish(&self, keys: &[&SigningKey]) {
        self.publish_raw(keys.iter().map(|key| key.jwk()).collect());
    }

    pub fn publish_raw(&self, keys: Vec<Value>) {
        *self.shared.published.lock().unwrap() = Published::Keys(keys);
    }

    pub fn publish_text(&self, text: &'static str) {
        *self.shared.published.lock().unwrap() = Published::Text(text);
    }

    pub fn fail(&self, status: StatusCode) {
        *self.shared.published.lock().unwrap() = Published::Status(status);
    }

    pub fn fetches(&self) -> usize {
        self.shared.fetches.load(Ordering::SeqCst)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, tls: Option<Arc<ServerConfig>>, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            match tls {
                None => answer(stream, shared).await,
                Some(config) => {
                    if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                        answer(stream, shared).await;
                    }
                }
            }
        });
    }
}

async fn answer<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: I, shared: Arc<Shared>) {
    let service = service_fn(move |request: Request<Incoming>| {
        assert_eq!(request.uri().path(), "/keys");
        shared.fetches.fetch_add(1, Ordering::SeqCst);
        let (status, body) = match &*shared.published.lock().unwrap() {
            Published::Keys(keys) => (StatusCode::OK, json!({ "keys": keys }).to_string()),
            Published::Text(text) => (StatusCode::OK, (*text).to_owned()),
            Published::Status(status) => (*status, String::new()),
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        async move {
            // Long enough for calls to meet while it runs.
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok::<_, Infallible>(response)
        }
    });
    drop(http1::Builder::new().serve_connection(TokioIo::new(io), service).await);
}
