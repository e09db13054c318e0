//! For the build script of a crate that has a schema, and classes, of its own.
//!
//! ```no_run
//! // build.rs, with `vatwerk = { features = ["build"] }` among the build dependencies
//! vatwerk::build::compile("schema/chat.capnp");
//! ```
//! and in the crate, for the interfaces of that file and its schema as bytes:
//! ```ignore
//! vatwerk::schema!(pub mod chat_capnp);
//! ```
//! Both dependencies, for the build script and for the crate, must be called `vatwerk`.
//!
//! The schema may `import "/vatwerk/object.capnp"` and its neighbours. The `capnp` executable is
//! used where there is one; the feature `embedded-compiler` brings a compiler along and uses that
//! instead.

use std::{
    collections::HashMap,
    env, fs,
    path::{Path, PathBuf},
};

use capnpc::codegen::CodeGenerationCommand;

use crate::SCHEMA_FILES;

/// Compiles one schema file, whose path is relative to the crate's root, and everything of its own
/// that the crate needs to include it with [`schema!`](crate::schema).
///
/// # Panics
///
/// When the schema has an error, or no compiler is to be found: a build script has no better way to
/// stop the build. The message says which.
pub fn compile(file: impl AsRef<Path>) {
    let file = file.as_ref();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("called from a build script"));
    println!("cargo::rerun-if-changed={}", file.display());
    let imports = out.join("vatwerk-import");
    for (path, text) in SCHEMA_FILES {
        let path = imports.join(path);
        fs::create_dir_all(path.parent().expect("a file has a folder"))
            .and_then(|()| fs::write(&path, text))
            .unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
    }
    let stem = file
        .file_stem()
        .and_then(|stem| stem.to_str())
        .expect("a file name in UTF-8");
    let prefix = file
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let request = request(file, prefix, &imports);
    CodeGenerationCommand::new()
        .output_directory(&out)
        .crates_provide_map(provided())
        .run(&request[..])
        .unwrap_or_else(|e| panic!("cannot generate code for {}: {e}", file.display()));
    fs::write(out.join(format!("{stem}_capnp.cgr")), request)
        .unwrap_or_else(|e| panic!("cannot write {stem}_capnp.cgr: {e}"));
}

/// The id of `/capnp/compat/json.capnp`.
const JSON: u64 = 0x8ef9_9297_a43a_5e34;

/// The files whose generated code is in this crate.
fn provided() -> HashMap<u64, String> {
    let request = capnp::serialize::read_message(
        crate::CODE_GENERATOR_REQUEST,
        capnp::message::ReaderOptions::new(),
    )
    .expect("our own request is a message");
    let request = request
        .get_root::<capnp::schema_capnp::code_generator_request::Reader>()
        .expect("our own request is a CodeGeneratorRequest");
    let files = request
        .get_requested_files()
        .expect("our own request has files");
    files
        .iter()
        .map(|file| file.get_id())
        .chain([JSON])
        .map(|id| (id, "vatwerk".to_owned()))
        .collect()
}

/// Compiles with the embedded compiler.
#[cfg(feature = "embedded-compiler")]
fn request(file: &Path, prefix: &Path, imports: &Path) -> Vec<u8> {
    capnpc_embedded::CompileCommand::new()
        .src_prefix(prefix)
        .import_path(imports)
        .file(file)
        .compile()
        .unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// Compiles with the `capnp` on the PATH.
#[cfg(not(feature = "embedded-compiler"))]
fn request(file: &Path, prefix: &Path, imports: &Path) -> Vec<u8> {
    use std::process::{Command, Stdio};

    let output = Command::new("capnp")
        .arg("compile")
        .arg("-o-")
        .arg(format!("--src-prefix={}", prefix.display()))
        .arg(format!("--import-path={}", imports.display()))
        .arg(file)
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|e| {
            panic!(
                "cannot run `capnp`: {e}. Install Cap'n Proto, or enable the feature \
                 `embedded-compiler` of `vatwerk` among the build dependencies"
            )
        });
    assert!(
        output.status.success(),
        "capnp compile {} failed",
        file.display()
    );
    output.stdout
}
