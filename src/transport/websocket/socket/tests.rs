//! Sockets without a server, in paused time.

use std::convert::Infallible;

use axum::body::Body;
use futures_util::future::ready;
use http::Response;
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;

type Client = WebSocketStream<DuplexStream>;

/// A stream on which nothing happens, and which goes on listening.
fn silent_stream(request: Request<Body>) -> std::future::Ready<Result<Response<Body>, Infallible>> {
    let events = futures_util::stream::unfold(request, async |request| {
        std::future::pending::<()>().await;
        Some((Ok::<_, Status>(Frame::data(Bytes::new())), request))
    });
    std::future::ready(Ok(Response::new(Body::new(StreamBody::new(events)))))
}

async fn opened(authorization: Option<&'static str>, leaving: &CancellationToken) -> (JoinHandle<()>, Client) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let opening = Opening {
        authorization: authorization.map(HeaderValue::from_static),
        headers: HeaderMap::new(),
        leaving: leaving.clone(),
        cut: CancellationToken::new(),
    };
    let server = tokio::spawn(serve(near, opening, tower::service_fn(silent_stream)));
    (server, WebSocketStream::from_raw_socket(far, Role::Client, None).await)
}

async fn told(client: &mut Client) -> (u16, String) {
    match client.next().await {
        Some(Ok(Message::Close(Some(close)))) => (close.code.into(), close.reason.as_str().to_owned()),
        other => panic!("not closed: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_socket_without_a_token_is_closed_after_ten_seconds() {
    let (server, mut client) = opened(None, &CancellationToken::new()).await;
    let began = Instant::now();
    assert_eq!(told(&mut client).await, (4401, "TOKEN_MISSING".into()));
    assert_eq!(began.elapsed().as_secs(), 10);
    // Agrees, and hears that the server has closed.
    assert!(client.next().await.is_none());
    drop(client);
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_but_a_token_is_taken_first() {
    for (frame, code) in [(r#"{"join":{"chatId":"c"}}"#, 4401), ("{}", 4401), ("no json", 1007)] {
        let (_server, mut client) = opened(None, &CancellationToken::new()).await;
        client.send(Message::text(frame)).await.unwrap();
        assert_eq!(told(&mut client).await.0, code, "{frame}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leaving_connection_does_not_wait_for_a_token() {
    let leaving = CancellationToken::new();
    let (_server, mut client) = opened(None, &leaving).await;
    leaving.cancel();
    assert_eq!(told(&mut client).await, (1001, "GOING_AWAY".into()));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_gives_no_sign_of_life_is_closed_and_not_waited_for() {
    let (server, _client) = opened(Some("Bearer t"), &CancellationToken::new()).await;
    let began = Instant::now();
    server.await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 30 + 20 + 5, "the ping's time, the pong's, and the closing's");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_client_that_answers_pings_stays() {
    let (server, mut client) = opened(Some("Bearer t"), &CancellationToken::new()).await;
    let began = Instant::now();
    for _ in 0..5 {
        assert!(matches!(client.next().await, Some(Ok(Message::Ping(_)))));
    }
    assert_eq!(began.elapsed().as_secs(), 5 * 30);
    client.close(None).await.unwrap();
    while client.next().await.is_some() {}
    drop(client);
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_pings_ends_the_socket() {
    let (_server, mut client) = opened(Some("Bearer t"), &CancellationToken::new()).await;
    for _ in 0..=100 {
        client.send(Message::Ping(Bytes::new())).await.unwrap();
    }
    let end = loop {
        match client.next().await {
            Some(Ok(Message::Pong(_))) => {}
            Some(Ok(Message::Close(Some(close)))) => break close,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((u16::from(end.code), end.reason.as_str()), (1008, "TOO_MANY_PINGS"));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_refused_closes_with_its_reason() {
    let (near, far) = tokio::io::duplex(1024);
    let opening = Opening {
        authorization: Some(HeaderValue::from_static("Bearer t")),
        headers: HeaderMap::new(),
        leaving: CancellationToken::new(),
        cut: CancellationToken::new(),
    };
    let refused = |request: Request<Body>| {
        assert_eq!(request.headers()["authorization"], "Bearer t");
        ready(Ok::<Response<Body>, Infallible>(crate::converter::status::refused(Refused::TokenExpired).into_http()))
    };
    tokio::spawn(serve(near, opening, tower::service_fn(refused)));
    let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
    assert_eq!(told(&mut client).await, (4401, "TOKEN_EXPIRED".into()));
}
