//! Turns checked-in CodeGeneratorRequests into Rust, so that building needs no `capnp` executable:
//! that of `schema/vatwerk/*.capnp`, and those of the tests' own classes, where there are tests. The
//! tests `schema::*_is_current` hold requests and schemas together.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    generate(&root.join("schema/vatwerk.cgr"));
    for of_tests in ["probe", "puppet"] {
        let request = root
            .join("tests/support")
            .join(of_tests)
            .with_extension("cgr");
        if request.exists() {
            generate(&request);
        }
    }
}

fn generate(request: &Path) {
    println!("cargo::rerun-if-changed={}", request.display());
    let bytes = fs::read(request)
        .unwrap_or_else(|e| panic!("{} is part of the package: {e}", request.display()));
    capnpc::codegen::CodeGenerationCommand::new()
        .output_directory(env::var_os("OUT_DIR").expect("cargo sets it"))
        .run(&bytes[..])
        .unwrap_or_else(|e| panic!("{} is no CodeGeneratorRequest: {e}", request.display()));
}
