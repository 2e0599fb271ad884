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

/// The codec of the generated code: Protobuf by prost, with room for a usual message. The library's own takes 8 KiB for each answer, and for
/// each stream's requests as long as it lives; both grow where a message is larger.
pub mod codec {
    use std::any::TypeId;
    use std::marker::PhantomData;

    use prost::Message;
    use tonic::codec::{BufferSettings, Codec};
    use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

    use crate::pb::chat::v1::ConnectChatRequest;

    /// A small message fits; a larger one makes room for itself.
    const RECEIVED_BYTES: usize = 256;
    /// Of a stream, which has it as long as it lives: its first frame fits.
    const STREAMED_BYTES: usize = 64;
    const SENT_BYTES: usize = 1024;
    /// How much of a stream's answers is gathered.
    const GATHERED_BYTES: usize = 32 * 1024;

    pub struct SmallCodec<E, D>(PhantomData<(E, D)>);

    impl<E, D> Default for SmallCodec<E, D> {
        fn default() -> Self {
            Self(PhantomData)
        }
    }

    impl<E: Message + Send + 'static, D: Message + Default + Send + 'static> Codec for SmallCodec<E, D> {
        type Encode = E;
        type Decode = D;
        type Encoder = ProstEncoder<E>;
        type Decoder = ProstDecoder<D>;

        fn encoder(&mut self) -> ProstEncoder<E> {
            ProstCodec::<E, D>::raw_encoder(BufferSettings::new(SENT_BYTES, GATHERED_BYTES))
        }

        fn decoder(&mut self) -> ProstDecoder<D> {
            let is_streamed = TypeId::of::<D>() == TypeId::of::<ConnectChatRequest>();
            let room = if is_streamed { STREAMED_BYTES } else { RECEIVED_BYTES };
            ProstCodec::<E, D>::raw_decoder(BufferSettings::new(room, GATHERED_BYTES))
        }
    }
}

/// All descriptors of the API, with custom options: what reflection serves.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
