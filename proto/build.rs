//! Compiles our own .proto files with protox, so that no `protoc` is needed to build.

use std::error::Error;
use std::path::PathBuf;

/// The root that imports are resolved against.
const ROOT: &str = ".";
/// Every file of ours that is compiled, below [`ROOT`].
const FILES: &[&str] =
    &["portolan/demo/v1/echo.proto", "portolan/v1/endpoints.proto", "portolan/v1/generation.proto"];
/// Under this name `src/lib.rs` includes the encoded descriptors.
const DESCRIPTORS: &str = "portolan_descriptors.bin";

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let mut compiler = protox::Compiler::new([ROOT])?;
    // Comments of the .proto files become the docs of the generated types.
    compiler.include_source_info(true).include_imports(true).open_files(FILES)?;
    let descriptors = compiler.file_descriptor_set();
    tonic_prost_build::configure().compile_fds(descriptors)?;

    // What reflection serves carries no comments, as with protoc.
    compiler.include_source_info(false);
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join(DESCRIPTORS);
    std::fs::write(out, compiler.encode_file_descriptor_set())?;
    Ok(())
}
