//! How this program's own clients reach a server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

/// How long a connection may take.
const CONNECT_DUE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("--ca: can't read {path}: {source}; `make gen-cert` makes certs/ca.pem")]
    Ca { path: PathBuf, source: std::io::Error },
    #[error("--addr {0} is not an address like https://localhost:50051")]
    Address(String),
    #[error("the token can't stand in a header; paste it whole, without line breaks")]
    Token,
}

/// An address to connect to; over https:// the server must show a certificate of this CA.
pub fn endpoint(addr: &str, ca: &Path) -> Result<Endpoint, DialError> {
    let address = || DialError::Address(addr.to_owned());
    let mut endpoint = Channel::from_shared(addr.to_owned()).map_err(|_| address())?;
    if addr.starts_with("https://") {
        let ca = std::fs::read(ca).map_err(|source| DialError::Ca { path: ca.to_owned(), source })?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
        endpoint = endpoint.tls_config(tls).map_err(|_| address())?;
    }
    Ok(endpoint.connect_timeout(CONNECT_DUE))
}

/// The value of `authorization` for a token.
pub fn bearer(token: &str) -> Result<MetadataValue<Ascii>, DialError> {
    let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.trim()).parse().map_err(|_| DialError::Token)?;
    // So that no library prints it.
    value.set_sensitive(true);
    Ok(value)
}
