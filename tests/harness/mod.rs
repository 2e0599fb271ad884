//! What the fault suite and the cluster suite share: the checker at work, a PostgreSQL that may be killed, proxies that bite.

#![allow(dead_code, reason = "each suite uses a part of it")]

pub mod checker;
pub mod postgres;
pub mod proxy;
pub mod resp;
