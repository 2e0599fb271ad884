//! Generates the API's code from `proto/` without a system protoc: messages, server and client by prost and tonic,
//! request validation by `build/validation.rs`, and the descriptor set that reflection serves.

use std::path::PathBuf;
use std::{env, fs};

use prost_reflect::DescriptorPool;

#[path = "build/validation.rs"]
mod validation;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=migrations");
    println!("cargo:rerun-if-changed=build");

    let out_dir = PathBuf::from(env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new(["proto", "proto/third_party"])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(["chat/v1/chat.proto"])?;

    // This form keeps custom options (google.api.http, buf.validate), which reflection shows.
    let descriptors = compiler.encode_file_descriptor_set();
    fs::write(out_dir.join("descriptors.bin"), &descriptors)?;

    let pool = DescriptorPool::decode(descriptors.as_slice())?;
    fs::write(out_dir.join("chat.v1.validation.rs"), validation::generate(&pool, "chat.v1")?)?;

    tonic_prost_build::configure()
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .codec_path("crate::pb::codec::SmallCodec")
        .compile_fds(compiler.file_descriptor_set())?;

    // The macro benchmark's ceiling: the same, with the library's own codec.
    let bare = out_dir.join("bare");
    fs::create_dir_all(&bare)?;
    tonic_prost_build::configure()
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .build_client(false)
        .out_dir(bare)
        .compile_fds(compiler.file_descriptor_set())?;

    // Apart from the API: reflection lists what this server answers, and the Auth Service is another one.
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(["auth/v1/auth.proto"])?;
    tonic_prost_build::configure()
        // It holds a token: `pb` shows it redacted.
        .skip_debug([".auth.v1.CheckRequest"])
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
