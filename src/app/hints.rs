//! What a development server prints: commands that work when pasted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::token;
use crate::config::{AuthKey, Config, unless_empty};
use crate::model::UserId;
use crate::transport::DevToken;

/// A working day.
const TOKEN_TTL: Duration = Duration::from_secs(12 * 3600);

/// Signs tokens of users, where a development secret does.
fn signer(config: &Config) -> Option<impl Fn(&str) -> Option<String> + Send + Sync + 'static> {
    let AuthKey::Secret(secret) = &config.key else { return None };
    if !config.development {
        return None;
    }
    let (secret, auth) = (secret.clone(), &config.args.auth);
    let (issuer, audience) = (unless_empty(&auth.auth_issuer), unless_empty(&auth.auth_audience));
    let roles = ["user".to_owned()];
    Some(move |sub: &str| token::sign(secret.expose(), sub, &roles, TOKEN_TTL, issuer.as_deref(), audience.as_deref()).ok())
}

/// The chat page's tokens. None where a proxy is expected in front.
pub fn minting(config: &Config) -> Option<DevToken> {
    // A proxy in front makes everybody come from this machine.
    if config.args.tls.insecure || !config.args.limits.trusted_proxies.0.is_empty() {
        return None;
    }
    let sign = signer(config)?;
    Some(DevToken { sign: Arc::new(move |user: &UserId| sign(user.as_str())) })
}

/// Prints tokens and commands for two people in one chat.
pub fn print(address: SocketAddr, config: &Config) {
    let Some(sign) = signer(config) else { return };
    let (Some(alice), Some(bob)) = (sign("alice"), sign("bob")) else { return };
    let (insecure, tls_cert) = (config.args.tls.insecure, &config.args.tls.tls_cert);
    let program = std::env::args().next().unwrap_or_else(|| "chat-service".to_owned());
    let ca = tls_cert.with_file_name("ca.pem");
    let ca = ca.display();
    let (port, scheme) = (address.port(), if insecure { "http" } else { "https" });
    let curl = if insecure { "curl".to_owned() } else { format!("curl --cacert {ca}") };
    let tls = if insecure { "-plaintext".to_owned() } else { format!("-cacert {ca}") };
    println!(
        "
Serving on {address}. In other terminals, in this folder:

  # tokens, good for 12 hours: paste them into each terminal
  export ALICE={alice}
  export BOB={bob}

  # alice opens a chat with bob, and talks in it; the chat's id is shown
  CHAT_TOKEN=$ALICE {program} connect --addr {scheme}://localhost:{port} --ca {ca} --create Tea --with bob

  # bob joins with the id that alice sees
  CHAT_TOKEN=$BOB {program} connect --addr {scheme}://localhost:{port} --ca {ca} CHAT_ID

  # the same by grpcurl: what there is, and a new chat
  grpcurl {tls} localhost:{port} list
  grpcurl {tls} -H \"authorization: Bearer $ALICE\" -d '{{\"title\":\"Tea\",\"member_ids\":[\"bob\"]}}' localhost:{port} chat.v1.ChatService/CreateChat

  # in a browser, which has to be told to trust {ca}
  {scheme}://localhost:{port}/

  # and by REST; {scheme}://localhost:{port}/swagger describes it, and takes a pasted token
  {curl} -H \"authorization: Bearer $ALICE\" -d '{{\"title\":\"Tea\",\"memberIds\":[\"bob\"]}}' -H 'content-type: application/json' {scheme}://localhost:{port}/v1/chats
"
    );
}
