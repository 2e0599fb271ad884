//! Generated code: `build.rs` makes it from `proto/`.

#![allow(clippy::all, clippy::pedantic, reason = "generated")]

pub mod chat {
    pub mod v1 {
        tonic::include_proto!("chat.v1");
    }
}

/// All descriptors, with custom options: what reflection serves.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
