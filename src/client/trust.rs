//! Which certificates are believed of the servers that this one asks.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tonic::transport::ClientTlsConfig;

#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("{setting}: can't use {path}: {reason}; set it to a PEM file of CA certificates")]
    File { setting: &'static str, path: PathBuf, reason: String },
    #[error("the system has no CA certificates; install them (the package is often called ca-certificates), or set {setting}")]
    NoSystemRoots { setting: &'static str },
}

/// The authorities that are believed.
pub struct Trust(RootCertStore);

impl Trust {
    /// Those of a PEM file alone, for private authorities; without one, the system's. `setting` names the file.
    pub fn load(setting: &'static str, file: Option<&Path>) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        match file {
            Some(path) => {
                let wrong = |reason: String| TrustError::File { setting, path: path.to_owned(), reason };
                let certs = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
                for cert in certs {
                    let cert = cert.map_err(|error| wrong(error.to_string()))?;
                    roots.add(cert).map_err(|error| wrong(error.to_string()))?;
                }
                if roots.is_empty() {
                    return Err(wrong("it holds no certificate".into()));
                }
            }
            None => {
                // Systems carry certificates that are old beyond parsing: what can't be read is left out.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err(TrustError::NoSystemRoots { setting });
                }
            }
        }
        Ok(Self(roots))
    }

    /// For HTTP/1.1 over TLS 1.2 or newer.
    pub fn https(&self) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder().with_root_certificates(self.0.clone()).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// For gRPC.
    pub fn grpc(&self) -> ClientTlsConfig {
        ClientTlsConfig::new().trust_anchors(self.0.roots.clone())
    }
}
