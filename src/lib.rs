//! A real-time messaging service: gRPC first, durable before acknowledged, one gapless order per chat.
//!
//! # The rooms
//!
//! | room | holds | may use |
//! |---|---|---|
//! | [`model`] | plain types, ids, roles and what they may do, the clock | – |
//! | [`observe`] | what the rooms tell of themselves: metrics, whose work is done, spans; every room may use it | – |
//! | [`config`] | options from flags and environment, validated at once | model |
//! | [`repository`] | the storage contract; PostgreSQL and SQLite | model |
//! | [`broker`] | from a committed message to this process's streams, and between nodes | model, client |
//! | [`client`] | what this server asks of others: an identity provider's keys, the Auth Service, Redis | model, pb |
//! | [`service`] | chats, membership, the append path, catch-up, the sweep | model and the traits above |
//! | [`ratelimiter`] | how often a user or an address may do something | model, client |
//! | [`interceptor`] | the tower layers every request passes | model, client, converter, ratelimiter |
//! | [`converter`] | generated types ↔ model, validation, the one status mapping | model, pb, service |
//! | [`pb`] | generated code | – |
//! | [`transport`] | listener and TLS, the dispatcher, REST, gRPC-web, WebSocket, handlers, the stream's session | service, converter, interceptor, ratelimiter |
//! | [`app`] | the only place where concrete types meet; the commands | everything |
//!
//! # The way of a message
//!
//! `transport::handlers` or `transport::session` takes a send, `converter` turns it into a
//! [`model::NewMessage`], [`service::ChatService`] puts it into the lanes' one queue ([`service::append`]), a lane commits a
//! batch ([`repository::AppendLane`]), answers the callers, and hands the messages to the [`broker`]; each stream's cursor
//! (`transport::session`) delivers them in order and reads from the repository what it missed.

pub mod app;
pub mod broker;
pub mod client;
pub mod config;
pub mod converter;
pub mod interceptor;
pub mod model;
pub mod observe;
pub mod pb;
pub mod ratelimiter;
pub mod repository;
pub mod service;
pub mod transport;
