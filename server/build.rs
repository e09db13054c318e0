//! Turns the checked-in CodeGeneratorRequest of the example `promises` into Rust, where there are examples:
//! building needs no `capnp` executable.

use std::{env, path::Path};

use capnpc::codegen::CodeGenerationCommand;

fn main() {
    let request = Path::new("examples/promises/promises.cgr");
    println!("cargo::rerun-if-changed={}", request.display());
    if !request.exists() {
        return;
    }
    CodeGenerationCommand::new()
        .output_directory(env::var_os("OUT_DIR").expect("cargo sets it"))
        .run(std::fs::File::open(request).expect("it was there"))
        .unwrap_or_else(|e| panic!("{} is no CodeGeneratorRequest: {e}", request.display()));
}
