//! TLS: 1.2 and up, HTTP/2 and HTTP/1.1 by ALPN.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why certificate and key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("can't read {path}: {reason}; run `chat-service gen-cert`, or set {setting} to a PEM file")]
    Unreadable { setting: &'static str, path: PathBuf, reason: String },
    #[error("certificate and key don't fit together (CHAT_TLS_CERT, CHAT_TLS_KEY): {0}")]
    Unfit(#[source] rustls::Error),
}

/// Makes rustls use its one crypto provider; the first call counts.
pub fn install_provider() {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

pub fn server_config(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let unreadable = |setting, path: &Path, reason: String| TlsError::Unreadable { setting, path: path.to_owned(), reason };
    let certs = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable("CHAT_TLS_CERT", cert, error.to_string()))?;
    if certs.is_empty() {
        return Err(unreadable("CHAT_TLS_CERT", cert, "it holds no certificate".into()));
    }
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable("CHAT_TLS_KEY", key, error.to_string()))?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(certs, key_der).map_err(TlsError::Unfit)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
