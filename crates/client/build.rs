//! Generates the client of the public contract, as any program outside this repository would.

const PROTO: &str = "../../proto/dbstreamd/v1/dbstreamd.proto";
const INCLUDE: &str = "../../proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    println!("cargo::rerun-if-changed=build.rs");
    let mut compiler = protox::Compiler::new([INCLUDE])?;
    compiler.include_source_info(false).include_imports(true).open_file(PROTO)?;
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".")
        .emit_rerun_if_changed(false)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
