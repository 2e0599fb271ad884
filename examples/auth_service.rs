//! A small Auth Service, for development and as a model: it joins the chat service to users that are known elsewhere.
//!
//! This one verifies JWTs that are signed with a secret file (HS256), and lets their bearers call everything. One of your own would
//! look up a session or an API key instead; what it must answer is told in `proto/auth/v1/auth.proto` and `docs/auth.md`.
//!
//! ```text
//! cargo run --example auth_service -- --secret certs/dev.secret --cert certs/server.pem --key certs/server.key
//! CHAT_AUTH_SERVICE_URL=https://localhost:50061 CHAT_AUTH_CA=certs/ca.pem chat-service serve
//! ```

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;

use chat_service::pb::auth::v1::access_service_server::{AccessService, AccessServiceServer};
use chat_service::pb::auth::v1::{CheckRequest, CheckResponse};
use clap::Parser;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "127.0.0.1:50061")]
    listen: SocketAddr,
    /// File with the secret that signs tokens
    #[arg(long)]
    secret: PathBuf,
    /// Certificate chain, PEM; without it plaintext, on loopback alone
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
}

pub struct AuthService {
    key: DecodingKey,
    validation: Validation,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: i64,
    #[serde(default)]
    roles: Vec<String>,
}

impl AuthService {
    pub fn new(secret: &[u8]) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        validation.validate_nbf = true;
        validation.validate_aud = false;
        Self { key: DecodingKey::from_secret(secret), validation }
    }
}

#[tonic::async_trait]
impl AccessService for AuthService {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let CheckRequest { token, endpoint: _ } = request.into_inner();
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|_| Status::unauthenticated("the token is not valid"))?
            .claims;
        let expires_at = prost_types::Timestamp { seconds: claims.exp, nanos: 0 };
        Ok(Response::new(CheckResponse { user_id: claims.sub, roles: claims.roles, expires_at: Some(expires_at) }))
    }
}

/// Serves until `stop`.
pub async fn serve(
    service: AuthService,
    listener: TcpListener,
    tls: Option<Identity>,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let mut server = Server::builder();
    if let Some(identity) = tls {
        server = server.tls_config(ServerTlsConfig::new().identity(identity))?;
    }
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    server.add_service(AccessServiceServer::new(service)).serve_with_incoming_shutdown(incoming, stop).await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    chat_service::transport::tls::install_provider();
    let mut secret = std::fs::read(&args.secret)?;
    if secret.last() == Some(&b'\n') {
        secret.pop();
    }
    let tls = match (args.cert, args.key) {
        (Some(cert), Some(key)) => Some(Identity::from_pem(std::fs::read(cert)?, std::fs::read(key)?)),
        _ if args.listen.ip().is_loopback() => None,
        _ => return Err("tokens are not sent in plaintext beyond loopback: set --cert and --key".into()),
    };
    let listener = TcpListener::bind(args.listen).await?;
    eprintln!("serving on {}", listener.local_addr()?);
    let stop = async { drop(tokio::signal::ctrl_c().await) };
    Ok(serve(AuthService::new(&secret), listener, tls, stop).await?)
}
