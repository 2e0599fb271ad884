//! What a development server prints: commands that work when pasted.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::token;

/// A working day.
const TOKEN_TTL: Duration = Duration::from_secs(12 * 3600);

/// Prints tokens and commands for two people in one chat.
pub fn print(address: SocketAddr, insecure: bool, secret: &[u8], tls_cert: &Path) {
    let roles = ["user".to_owned()];
    let mint = |sub| token::sign(secret, sub, &roles, TOKEN_TTL, None, None);
    let (Ok(alice), Ok(bob)) = (mint("alice"), mint("bob")) else { return };
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

  # and by REST; {scheme}://localhost:{port}/swagger describes it, and takes a pasted token
  {curl} -H \"authorization: Bearer $ALICE\" -d '{{\"title\":\"Tea\",\"memberIds\":[\"bob\"]}}' -H 'content-type: application/json' {scheme}://localhost:{port}/v1/chats
"
    );
}
