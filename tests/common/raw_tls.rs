//! TLS to a server, below any HTTP: for clients that do what no library lets them do.

use std::io;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{Ground, within};

/// A handshake over a connection, which believes the ground's CA and offers one protocol.
pub async fn over(ground: &Ground, tcp: TcpStream, alpn: &str) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ground.path("certs/ca.pem")).unwrap()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    within(TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), tcp)).await
}

/// The same to a port of this machine.
pub async fn to(ground: &Ground, port: u16, alpn: &str) -> TlsStream<TcpStream> {
    over(ground, TcpStream::connect(("127.0.0.1", port)).await.unwrap(), alpn).await.unwrap()
}
