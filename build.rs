//! Turns the checked-in CodeGeneratorRequest of `schema/vatwerk/*.capnp` into Rust, so that building
//! needs no `capnp` executable. The test `schema::checked_in_request_is_current` holds the two
//! together.

use std::{env, fs, path::PathBuf};

fn main() {
    let request = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("schema/vatwerk.cgr");
    println!("cargo::rerun-if-changed={}", request.display());
    let bytes = fs::read(&request).expect("schema/vatwerk.cgr is part of the package");
    capnpc::codegen::CodeGenerationCommand::new()
        .output_directory(env::var_os("OUT_DIR").expect("cargo sets it"))
        .run(&bytes[..])
        .expect("schema/vatwerk.cgr is a CodeGeneratorRequest");
}
