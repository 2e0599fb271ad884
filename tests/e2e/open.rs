//! Health and reflection, which need no token.

use futures_util::StreamExt;
use futures_util::stream::{iter, pending};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use tonic_reflection::pb::{v1, v1alpha};
use tonic_types::StatusExt;

use crate::common::*;

/// What ARCHITECTURE.md's bounds say.
const REFLECTION_REQUESTS_MAX: usize = 128;

/// A reflection stream on which so much is asked, and which isn't closed.
async fn reflection(channel: &Channel, requests: usize) -> Streaming<ServerReflectionResponse> {
    let file = MessageRequest::FileContainingSymbol("chat.v1.ChatService".into());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(file) };
    let requests = iter(std::iter::repeat_n(request, requests)).chain(pending());
    within(ServerReflectionClient::new(channel.clone()).server_reflection_info(requests)).await.unwrap().into_inner()
}

/// How many answers come, and what the stream ends with.
async fn rest(mut answers: Streaming<ServerReflectionResponse>) -> (usize, Status) {
    let mut count = 0;
    loop {
        match within(answers.message()).await {
            Ok(Some(_)) => count += 1,
            Ok(None) => return (count, Status::ok("")),
            Err(status) => return (count, status),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reflection_stream_answers_so_much_and_another_one_goes_on() {
    let server = TestServer::start(On::Sqlite).await;
    let channel = server.channel().await;
    for asked in [REFLECTION_REQUESTS_MAX + 1, 3 * REFLECTION_REQUESTS_MAX] {
        let (answered, end) = rest(reflection(&channel, asked).await).await;
        assert_eq!(answered, REFLECTION_REQUESTS_MAX, "of {asked}");
        assert_eq!((end.code(), reason(&end)), (Code::ResourceExhausted, "REFLECTION_LIMIT".into()));
        assert!(end.message().contains("another stream"), "{}", end.message());
    }
    assert!(within(reflection(&channel, 1).await.message()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_of_a_reflection_stream_counts_at_its_address() {
    let server = started(&["--rate-limit-address", "1/s burst 5"]).await;
    let (answered, end) = rest(reflection(&server.channel().await, 100).await).await;
    assert!((5..100).contains(&answered), "the burst, the stream itself being its first: {answered}");
    assert_eq!((end.code(), reason(&end)), (Code::ResourceExhausted, "RATE_LIMITED".into()));
    assert!(end.get_error_details().retry_info().is_some_and(|retry| retry.retry_delay.is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_and_health_answer_without_a_token() {
    let server = TestServer::start(On::Sqlite).await;
    let channel = server.channel().await;
    let mut names = Vec::new();
    {
        use v1::server_reflection_response::MessageResponse;
        let list = ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
        let mut client = ServerReflectionClient::new(channel.clone());
        let mut answers = client.server_reflection_info(futures_util::stream::iter([list])).await.unwrap().into_inner();
        if let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response {
            names.push(list.service.into_iter().map(|service| service.name).collect::<Vec<_>>());
        }
    }
    {
        use v1alpha::server_reflection_request::MessageRequest;
        use v1alpha::server_reflection_response::MessageResponse;
        let list =
            v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
        let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel.clone());
        let mut answers = client.server_reflection_info(futures_util::stream::iter([list])).await.unwrap().into_inner();
        if let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response {
            names.push(list.service.into_iter().map(|service| service.name).collect::<Vec<_>>());
        }
    }
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|names| names.iter().any(|name| name == "chat.v1.ChatService")), "{names:?}");

    let watch = HealthCheckRequest { service: "chat.v1.ChatService".into() };
    let mut statuses = HealthClient::new(channel).watch(watch).await.unwrap().into_inner();
    assert_eq!(within(statuses.message()).await.unwrap().unwrap().status(), ServingStatus::Serving);
    server.begin_stop();
    assert_eq!(within(statuses.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    let end = within(statuses.message()).await.unwrap_err();
    assert_eq!((end.code(), reason(&end)), (Code::Unavailable, "GOING_AWAY".into()));
}
