//! Generates Rust from `proto/dbstreamd/v1/dbstreamd.proto`, without protoc.
//!
//! Two generations from one file: messages and client as usual, and a server whose `Subscribe` answers with
//! `grpc::wire::WireResponse`, which carries events already encoded (see there).

use std::path::PathBuf;

const PROTO: &str = "../../proto/dbstreamd/v1/dbstreamd.proto";
const INCLUDE: &str = "../../proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new([INCLUDE])?;
    // Comments are kept for the generated documentation; reflection needs no source positions.
    compiler.include_source_info(true).include_imports(true).open_file(PROTO)?;
    let described = compiler.file_descriptor_set();
    compiler.include_source_info(false);
    std::fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".")
        .emit_rerun_if_changed(false)
        .compile_fds(described.clone())?;

    let server = out.join("server");
    std::fs::create_dir_all(&server)?;
    tonic_prost_build::configure()
        .build_client(false)
        .extern_path(".dbstreamd.v1", "crate::proto")
        .extern_path(".dbstreamd.v1.SubscribeResponse", "crate::grpc::wire::WireResponse")
        .out_dir(server)
        .emit_rerun_if_changed(false)
        .compile_fds(described)?;
    Ok(())
}
