//! TLS: 1.2 and up, HTTP/2 and HTTP/1.1 by ALPN; certificates that are replaced while the server runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

/// Why certificate and key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("can't read {path}: {reason}; run `chat-service gen-cert`, or set {setting} to a PEM file")]
    Unreadable { setting: &'static str, path: PathBuf, reason: String },
    #[error("certificate and key don't fit together (CHAT_TLS_CERT, CHAT_TLS_KEY): {0}")]
    Unfit(#[source] rustls::Error),
    #[error("CHAT_TLS_CLIENT_CA: {path} can't be used: {reason}; set it to a PEM file with the CA of the clients' certificates")]
    ClientCa { path: PathBuf, reason: String },
}

/// Makes rustls use its one crypto provider; the first call counts.
pub fn install_provider() {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

/// Where the keys are.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Set: clients must show a certificate of this CA.
    pub client_ca: Option<PathBuf>,
}

/// What the files hold.
struct Pem {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl TlsFiles {
    fn read(&self) -> Result<Pem, TlsError> {
        let read = |setting, path: &Path| {
            std::fs::read(path).map_err(|error| TlsError::Unreadable { setting, path: path.to_owned(), reason: error.to_string() })
        };
        Ok(Pem {
            cert: read("CHAT_TLS_CERT", &self.cert)?,
            key: read("CHAT_TLS_KEY", &self.key)?,
            client_ca: self.client_ca.as_deref().map(|path| read("CHAT_TLS_CLIENT_CA", path)).transpose()?,
        })
    }

    fn config(&self, pem: &Pem) -> Result<Arc<ServerConfig>, TlsError> {
        let unreadable = |setting, path: &Path, reason: String| TlsError::Unreadable { setting, path: path.to_owned(), reason };
        let certs = CertificateDer::pem_slice_iter(&pem.cert)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unreadable("CHAT_TLS_CERT", &self.cert, error.to_string()))?;
        if certs.is_empty() {
            return Err(unreadable("CHAT_TLS_CERT", &self.cert, "it holds no certificate".into()));
        }
        let key = PrivateKeyDer::from_pem_slice(&pem.key).map_err(|error| unreadable("CHAT_TLS_KEY", &self.key, error.to_string()))?;
        let builder = match (&self.client_ca, &pem.client_ca) {
            (Some(path), Some(pem)) => {
                let unfit = |reason: String| TlsError::ClientCa { path: path.clone(), reason };
                let mut roots = RootCertStore::empty();
                for ca in CertificateDer::pem_slice_iter(pem) {
                    roots.add(ca.map_err(|error| unfit(error.to_string()))?).map_err(|error| unfit(error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().map_err(|error| unfit(error.to_string()))?;
                ServerConfig::builder().with_client_cert_verifier(verifier)
            }
            _ => ServerConfig::builder().with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(certs, key).map_err(TlsError::Unfit)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl Pem {
    /// Tells contents apart, without keeping the key.
    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()] {
            hash.update((part.map_or(0, Vec::len) as u64).to_be_bytes());
            hash.update(part.map_or(&[][..], Vec::as_slice));
        }
        hash.finalize().into()
    }
}

/// The server's certificate, key and client CA, as they were when they were last fit. Each handshake takes them as they are then; open
/// connections go on with what they began with.
pub struct Certificates {
    files: TlsFiles,
    current: ArcSwap<ServerConfig>,
    /// What was tried last, fit or not: it isn't tried again. `None`: it couldn't be read.
    tried: Mutex<Option<[u8; 32]>>,
}

impl Certificates {
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let pem = files.read()?;
        let current = ArcSwap::new(files.config(&pem)?);
        Ok(Arc::new(Self { files, current, tried: Mutex::new(Some(pem.digest())) }))
    }

    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Takes what the files hold, changed or not. What isn't fit changes nothing.
    pub fn reload(&self) -> Result<(), TlsError> {
        let read = self.files.read();
        self.set_tried(read.as_ref().ok().map(Pem::digest));
        self.current.store(self.files.config(&read?)?);
        Ok(())
    }

    /// [`Self::reload`], with its outcome in the log.
    pub fn reload_and_tell(&self) {
        match self.reload() {
            Ok(()) => tracing::info!("certificate and key were read anew"),
            Err(error) => tracing::error!(error = %error, "the new certificate and key can't be used; the old ones are kept"),
        }
    }

    /// Looks at the files' contents every `interval` and takes them anew when they have changed. Certificate and key are replaced one
    /// after the other: they count when they were the same twice.
    pub async fn watch(self: Arc<Self>, interval: Duration, stop: CancellationToken) {
        let mut seen = self.tried();
        while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            let this = Arc::clone(&self);
            // A file may lie on a slow disk.
            let Ok(now) = tokio::task::spawn_blocking(move || this.files.read().ok().map(|pem| pem.digest())).await else { continue };
            if now == seen && now != self.tried() {
                self.reload_and_tell();
            }
            seen = now;
        }
    }

    fn tried(&self) -> Option<[u8; 32]> {
        *self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_tried(&self, digest: Option<[u8; 32]>) {
        *self.tried.lock().unwrap_or_else(PoisonError::into_inner) = digest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn write_pair(files: &TlsFiles) {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(&files.cert, cert.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
    }

    fn pair() -> (tempfile::TempDir, TlsFiles, Arc<Certificates>) {
        install_provider();
        let folder = tempfile::tempdir().unwrap();
        let files = TlsFiles { cert: folder.path().join("cert.pem"), key: folder.path().join("key.pem"), client_ca: None };
        write_pair(&files);
        let certificates = Certificates::load(files.clone()).unwrap();
        (folder, files, certificates)
    }

    #[test]
    fn a_broken_new_pair_keeps_the_old_one() {
        let (_folder, files, certificates) = pair();
        let before = certificates.current();
        let key = std::fs::read(&files.key).unwrap();
        write_pair(&files);
        std::fs::write(&files.key, key).unwrap();
        assert!(matches!(certificates.reload(), Err(TlsError::Unfit(_))), "the old key with the new certificate");
        std::fs::write(&files.key, "no key").unwrap();
        assert!(matches!(certificates.reload(), Err(TlsError::Unreadable { setting: "CHAT_TLS_KEY", .. })));
        std::fs::remove_file(&files.cert).unwrap();
        assert!(matches!(certificates.reload(), Err(TlsError::Unreadable { setting: "CHAT_TLS_CERT", .. })));
        assert!(Arc::ptr_eq(&before, &certificates.current()));
        write_pair(&files);
        certificates.reload().unwrap();
        assert!(!Arc::ptr_eq(&before, &certificates.current()));
    }

    #[tokio::test(start_paused = true)]
    async fn changed_files_are_taken_without_being_asked_and_tried_once() {
        let (_folder, files, certificates) = pair();
        let stop = CancellationToken::new();
        let watching = tokio::spawn(Arc::clone(&certificates).watch(Duration::from_secs(1), stop.clone()));
        let before = certificates.current();
        write_pair(&files);
        while Arc::ptr_eq(&before, &certificates.current()) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let good = certificates.current();
        std::fs::write(&files.cert, "no certificate").unwrap();
        let broken = files.read().unwrap().digest();
        while certificates.tried() != Some(broken) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(Arc::ptr_eq(&good, &certificates.current()));
        stop.cancel();
        watching.await.unwrap();
    }

    #[test]
    fn a_client_ca_must_hold_a_certificate() {
        let (folder, mut files, _) = pair();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, "").unwrap();
        files.client_ca = Some(ca.clone());
        assert!(matches!(Certificates::load(files.clone()), Err(TlsError::ClientCa { .. })));
        std::fs::copy(&files.cert, &ca).unwrap();
        Certificates::load(files).unwrap();
    }
}
