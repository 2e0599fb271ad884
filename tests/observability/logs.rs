//! The line that each call leaves, as docs/logging.md says.

use serde_json::Value;
use tonic::Request;

use crate::common::process::Overheard;
use crate::common::*;
use chat_service::pb::chat::v1::ListChatsRequest;
use chat_service::pb::chat::v1::chat_service_client::ChatServiceClient;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_call_leaves_one_line_with_its_ids_and_streams_are_given_theirs_too() {
    let ground = Ground::new(On::Sqlite).await;
    let server = Overheard::serve(&ground, &ground.database_url).await;
    let channel = within(endpoint(&ground.path("certs/ca.pem"), server.port).connect()).await.unwrap();
    let mut alice = with_token(channel.clone(), &mint("alice", &["user"]));
    let chat = new_chat(&mut alice, &[]).await;

    let mut request = Request::new(send_request(&chat, "1", "hello"));
    request.metadata_mut().insert("x-request-id", "of-the-client".parse().unwrap());
    let answer = alice.send_message(request).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "of-the-client");

    let frames = futures_util::stream::iter([chat_service::pb::chat::v1::ConnectChatRequest { frame: Some(join(&chat, Some(0))) }]);
    let mut request = Request::new(frames);
    request.metadata_mut().insert("x-request-id", "of-the-stream".parse().unwrap());
    let answer = within(alice.connect_chat(request)).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "of-the-stream", "known before the stream has ended");
    let mut events = answer.into_inner();
    while within(events.message()).await.unwrap().is_some() {}

    let refused = ChatServiceClient::new(channel).list_chats(ListChatsRequest::default()).await.unwrap_err();
    let made = refused.metadata().get("x-request-id").unwrap().to_str().unwrap().to_owned();
    assert_eq!(made.len(), 36, "refused calls have an id as well");

    let said = server.stop().await;
    let lines: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |id: &str| -> Value {
        let found: Vec<&Value> = lines.iter().filter(|line| line["request_id"] == id).collect();
        assert_eq!(found.len(), 1, "one line a call: {id}");
        found[0].clone()
    };
    for (id, method, code, user, level) in [
        ("of-the-client", "SendMessage", "Ok", "alice", "INFO"),
        ("of-the-stream", "ConnectChat", "Ok", "alice", "INFO"),
        (made.as_str(), "ListChats", "Unauthenticated", "", "INFO"),
    ] {
        let line = of(id);
        assert_eq!(line["target"], "chat_service::rpc");
        assert_eq!(line["method"], format!("/chat.v1.ChatService/{method}"));
        for (field, value) in [("code", code), ("user_id", user), ("level", level)] {
            assert_eq!(line[field], value, "{field} of {id}");
        }
        assert!(line["duration_ms"].as_f64().unwrap() > 0.0);
        assert_eq!(line["trace_id"].as_str().unwrap().len(), 32);
        assert!(line["span_id"].is_string() && line["timestamp"].is_string());
    }
    let documented = std::fs::read_to_string("docs/logging.md").unwrap();
    for (field, _) in of("of-the-client").as_object().unwrap() {
        assert!(documented.contains(&format!("`{field}`")), "docs/logging.md lacks {field}");
    }
}
