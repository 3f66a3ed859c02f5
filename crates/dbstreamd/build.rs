//! Generates Rust from the files in `proto/dbstreamd/v1/`, without protoc.
//!
//! Two generations from them: messages and client as usual, and a server whose `Subscribe` answers with
//! `grpc::wire::WireResponse`, which carries events already encoded (see there).

use std::path::PathBuf;

const PROTOS: [&str; 2] = ["../../proto/dbstreamd/v1/dbstreamd.proto", "../../proto/dbstreamd/v1/control.proto"];
const INCLUDE: &str = "../../proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for proto in PROTOS {
        println!("cargo::rerun-if-changed={proto}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new([INCLUDE])?;
    // Comments are kept for the generated documentation; reflection needs no source positions.
    compiler.include_source_info(true).include_imports(true).open_files(PROTOS)?;
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
        .codec_path("crate::grpc::wire::LeanCodec")
        .out_dir(server)
        .emit_rerun_if_changed(false)
        .compile_fds(described)?;
    Ok(())
}
