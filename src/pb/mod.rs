//! Generated code: `build.rs` makes it from `proto/`.

#![allow(clippy::all, clippy::pedantic, reason = "generated")]

pub mod chat {
    pub mod v1 {
        tonic::include_proto!("chat.v1");
    }
}

/// The Auth Service: this server calls it, others implement it.
pub mod auth {
    pub mod v1 {
        tonic::include_proto!("auth.v1");

        impl std::fmt::Debug for CheckRequest {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct("CheckRequest").field("token", &"[redacted]").field("endpoint", &self.endpoint).finish()
            }
        }
    }
}

/// All descriptors of the API, with custom options: what reflection serves.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
