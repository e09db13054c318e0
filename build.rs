//! Turns checked-in CodeGeneratorRequests into Rust, so that building needs no `capnp` executable:
//! that of `schema/vatwerk/*.capnp`, that of `schema/kj/http.capnp`, that of the annotations for JSON, and those of
//! the tests' own classes, where there are tests. The tests `schema::*_is_current` hold requests and schemas together.

use std::{
    collections::HashMap,
    env, fs,
    path::{Path, PathBuf},
};

/// The id of `/capnp/compat/json.capnp`, whose code this crate has for all others.
const JSON: u64 = 0x8ef9_9297_a43a_5e34;

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    generate(&root.join("schema/vatwerk.cgr"), &[]);
    generate(&root.join("schema/kj/http.cgr"), &["kj"]);
    generate(&root.join("schema/capnp/compat/json.cgr"), &[]);
    for of_tests in ["door", "probe", "puppet"] {
        let request = root
            .join("tests/support")
            .join(of_tests)
            .with_extension("cgr");
        if request.exists() {
            generate(&request, &[]);
        }
    }
}

/// Writes the code of the files of a request, for modules that stand in the module `parent`.
fn generate(request: &Path, parent: &[&str]) {
    println!("cargo::rerun-if-changed={}", request.display());
    let bytes = fs::read(request)
        .unwrap_or_else(|e| panic!("{} is part of the package: {e}", request.display()));
    capnpc::codegen::CodeGenerationCommand::new()
        .output_directory(env::var_os("OUT_DIR").expect("cargo sets it"))
        .crates_provide_map(HashMap::from([(JSON, "vatwerk".to_owned())]))
        .default_parent_module(parent.iter().map(|it| it.to_string()).collect())
        .run(&bytes[..])
        .unwrap_or_else(|e| panic!("{} is no CodeGeneratorRequest: {e}", request.display()));
}
