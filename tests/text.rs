//! Schemas as text: what is written compiles to what it was written from.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use capnp::{
    any_pointer,
    message::{self, ReaderOptions},
    schema_capnp::{code_generator_request, field, node, value},
    serialize,
};
use vatwerk::{SCHEMA_FILES, text};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Writes the files that have no Cap'n Proto around them, and only those.
pub fn export(folder: &Path) {
    for (path, text) in SCHEMA_FILES {
        write(folder, path, text);
    }
}

fn write(folder: &Path, path: &str, text: &str) {
    let path = folder.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Compiles files of a folder, with nothing else on the import path.
pub fn compile(folder: &Path, files: &[&str]) -> Vec<u8> {
    let mut compiler = capnpc_embedded::CompileCommand::new();
    compiler
        .src_prefix(folder)
        .import_path(folder)
        .no_standard_import();
    for file in files {
        compiler.file(folder.join(file));
    }
    compiler.compile().unwrap_or_else(|e| panic!("{e}"))
}

/// What the values of a node and of its members point to: `Debug` does not show it. A node is not
/// compared byte by byte, because it says where in its file it stands.
fn pointers(node: node::Reader<'_>) -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    let mut annotations = Vec::new();
    annotations.extend(node.get_annotations().unwrap());
    match node.which().unwrap() {
        node::Struct(it) => {
            for field in it.get_fields().unwrap() {
                annotations.extend(field.get_annotations().unwrap());
                if let Ok(field::Slot(slot)) = field.which() {
                    values.push(slot.get_default_value().unwrap());
                }
            }
        }
        node::Enum(it) => {
            for enumerant in it.get_enumerants().unwrap() {
                annotations.extend(enumerant.get_annotations().unwrap());
            }
        }
        node::Interface(it) => {
            for method in it.get_methods().unwrap() {
                annotations.extend(method.get_annotations().unwrap());
            }
        }
        node::Const(it) => values.push(it.get_value().unwrap()),
        node::File(()) => annotations.clear(),
        node::Annotation(_) => {}
    }
    values.extend(annotations.iter().map(|it| it.get_value().unwrap()));
    let bytes = |it: any_pointer::Reader<'_>| {
        let mut message = message::Builder::new_default();
        message.set_root_canonical(it).unwrap();
        serialize::write_message_to_words(&message)
    };
    let pointer = |it: value::Reader<'_>| match it.which().unwrap() {
        value::List(it) | value::Struct(it) | value::AnyPointer(it) => bytes(it),
        _ => Vec::new(),
    };
    values.into_iter().map(pointer).collect()
}

/// What a request says, in a form that can be compared: each node without the path of its file, and
/// the doc comments of it and its members.
#[derive(Default)]
struct Contents {
    nodes: BTreeMap<u64, (String, Vec<Vec<u8>>)>,
    docs: BTreeMap<u64, Vec<String>>,
    annotations_of_files: BTreeMap<u64, BTreeSet<u64>>,
    files: BTreeSet<u64>,
}

fn contents(request: &[u8]) -> Contents {
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(None);
    let message = serialize::read_message(request, options).unwrap();
    let request: code_generator_request::Reader = message.get_root().unwrap();
    let mut contents = Contents::default();
    let (mut names, mut own) = (BTreeSet::new(), BTreeSet::new());
    for file in request.get_requested_files().unwrap() {
        contents.files.insert(file.get_id());
        names.insert(file.get_filename().unwrap().to_str().unwrap());
    }
    for node in request.get_nodes().unwrap() {
        let id = node.get_id();
        let full = node.get_display_name().unwrap().to_str().unwrap();
        if names.contains(full.split(':').next().unwrap()) {
            own.insert(id);
        }
        let mut copy = message::Builder::new_default();
        copy.set_root(node).unwrap();
        let mut plain: node::Builder = copy.get_root().unwrap();
        let name = full.split(':').nth(1).unwrap_or_default().to_owned();
        plain.set_display_name(&name);
        plain.set_display_name_prefix_length(0);
        if matches!(node.which(), Ok(node::File(()))) {
            let all = node.get_annotations().unwrap();
            let ids = all.iter().map(|it| it.get_id()).collect();
            contents.annotations_of_files.insert(id, ids);
            plain.init_annotations(0);
        }
        let plain: node::Reader = copy.get_root_as_reader().unwrap();
        let shown = format!("{plain:?}");
        contents.nodes.insert(id, (shown, pointers(node)));
    }
    for info in request.get_source_info().unwrap() {
        // Of standard files there are copies with other comments.
        if !own.contains(&info.get_id()) {
            continue;
        }
        let comment = |it: capnp::text::Reader<'_>| it.to_str().unwrap().trim_end().to_owned();
        let mut docs = vec![comment(info.get_doc_comment().unwrap())];
        for member in info.get_members().unwrap() {
            docs.push(comment(member.get_doc_comment().unwrap()));
        }
        contents.docs.insert(info.get_id(), docs);
    }
    contents
}

/// Prints a request, compiles that, and expects the same schema.
fn round_trip(name: &str, request: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    export(folder.path());
    let before = contents(request);
    let printed = text::every_file(request).unwrap();
    let id = |file: &text::File| {
        let digits = file.text[3..].split(';').next().unwrap();
        u64::from_str_radix(digits, 16).unwrap()
    };
    let mut requested = Vec::new();
    for file in &printed {
        if before.files.contains(&id(file)) {
            write(folder.path(), &file.path, &file.text);
            requested.push(file.path.as_str());
        }
    }
    assert_eq!(requested.len(), before.files.len(), "{name}");
    let after = contents(&compile(folder.path(), &requested));
    for (id, (node, pointers)) in &before.nodes {
        let requested = before.annotations_of_files.contains_key(id);
        if requested && !before.files.contains(id) {
            continue;
        }
        let Some((now, values)) = after.nodes.get(id) else {
            panic!("{name}: lost: {node}");
        };
        assert_eq!(now, node, "{name}");
        assert!(values == pointers, "{name}: another value in {node}");
    }
    for (file, annotations) in &before.annotations_of_files {
        if before.files.contains(file) {
            let now = &after.annotations_of_files[file];
            assert!(now.is_superset(annotations), "{name}: @0x{file:016x}");
        }
    }
    for (id, docs) in &before.docs {
        let now = after.docs.get(id);
        assert_eq!(now, Some(docs), "{name}: the comments of @0x{id:016x}");
    }
    // Printing is settled: what was printed prints the same.
    let again = text::every_file(&compile(folder.path(), &requested)).unwrap();
    for file in printed
        .iter()
        .filter(|it| requested.contains(&it.path.as_str()))
    {
        let again = again.iter().find(|it| id(it) == id(file)).unwrap();
        let body = |it: &text::File| it.text.replace("classes/classes/", "classes/");
        let annotations = |it: &text::File| {
            let lines = body(it);
            let lines = lines.lines().filter(|it| !it.starts_with('$'));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(annotations(again), annotations(file), "{name}");
    }
}

#[test]
fn every_schema_of_the_repository_survives_being_text() {
    for request in [
        "schema/vatwerk.cgr",
        "schema/kj/http.cgr",
        "schema/json/testdata/annotated.cgr",
        "schema/json/testdata/everything.cgr",
        "server/examples/promises/promises.cgr",
        "tests/support/changed.cgr",
        "tests/support/probe.cgr",
        "tests/support/puppet.cgr",
    ] {
        round_trip(request, &fs::read(root().join(request)).unwrap());
    }
}

fn everything() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    export(folder.path());
    for file in ["text.capnp", "textjson.capnp"] {
        fs::copy(
            root().join("tests/support").join(file),
            folder.path().join(file),
        )
        .unwrap();
    }
    compile(folder.path(), &["text.capnp", "textjson.capnp"])
}

#[test]
fn everything_that_a_schema_can_say_survives_being_text() {
    round_trip("text.capnp", &everything());
}

#[test]
fn a_file_gets_what_every_generator_asks_for() {
    let files = text::files(&everything()).unwrap();
    let paths: Vec<_> = files.iter().map(|it| it.path.as_str()).collect();
    assert_eq!(paths, ["classes/text.capnp", "classes/textjson.capnp"]);
    for (file, outer) in files.iter().zip(["TextFile", "TextjsonFile"]) {
        for line in [
            "$Go.package(\"classes\");".to_owned(),
            "$Go.import(\"classes\");".to_owned(),
            "$Java.package(\"classes\");".to_owned(),
            format!("$Java.outerClassname(\"{outer}\");"),
        ] {
            let has = file.text.lines().filter(|it| **it == line).count();
            assert_eq!(has, 1, "{}: {line}", file.path);
        }
    }
    // And our own, which have them, are not written again.
    assert!(
        text::files(vatwerk::CODE_GENERATOR_REQUEST)
            .unwrap()
            .is_empty()
    );
}

/// The request above, with one byte string in place of another of the same length.
fn forged(what: &[u8], with: &[u8]) -> Vec<u8> {
    assert_eq!(what.len(), with.len());
    let mut request = everything();
    let mut found = 0;
    for i in 0..request.len() - what.len() {
        if &request[i..i + what.len()] == what {
            request[i..i + what.len()].copy_from_slice(with);
            found += 1;
        }
    }
    assert!(found > 0);
    request
}

#[test]
fn no_name_from_elsewhere_leaves_its_place() {
    for path in text::files(&forged(b"textjson.capnp", b"../../../../ab"))
        .unwrap()
        .iter()
        .map(|it| it.path.as_str())
    {
        assert!(
            path.starts_with("classes/") && !path.contains(".."),
            "{path}"
        );
    }
    // A name that would end its declaration and begin another.
    for with in ["a;embed", "imp rt\"", "\u{e9}tudes", "1234567", "......."] {
        let error = text::files(&forged(b"pattern", with.as_bytes())).unwrap_err();
        assert!(error.to_string().contains("is no name"), "{error}");
    }
}

#[test]
fn damaged_requests_are_errors() {
    let request = everything();
    for cut in (0..request.len()).step_by(request.len() / 50) {
        assert!(text::files(&request[..cut]).is_err(), "{cut}");
    }
    // Not all damage is an error, but none of it is a panic, and none goes on for ever.
    for at in (0..request.len()).step_by(37) {
        let mut damaged = request.clone();
        damaged[at] ^= 0x5a;
        let _ = text::files(&damaged);
    }
}
