//! Health and reflection, which need no token.

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};

use crate::common::*;

#[tokio::test(flavor = "multi_thread")]
async fn reflection_and_health_answer_without_a_token() {
    let server = TestServer::start(On::Sqlite).await;
    let channel = endpoint(&server.ground.path("certs/ca.pem"), server.port).connect().await.unwrap();
    let mut names = Vec::new();
    {
        use v1::server_reflection_request::MessageRequest;
        use v1::server_reflection_response::MessageResponse;
        let list = v1::ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
        let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
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
}
