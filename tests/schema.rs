//! The schema: it is the one that is compiled in, and every language's generator can take it.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use capnp::{
    message::ReaderOptions,
    schema_capnp::{code_generator_request, field, node, type_, value},
    serialize,
};
use vatwerk::{CODE_GENERATOR_REQUEST, Code, Delivery, SCHEMA_FILES};

use crate::text::{compile, export};

type Request = capnp::message::TypedReader<serialize::OwnedSegments, code_generator_request::Owned>;

fn request() -> Request {
    serialize::read_message(CODE_GENERATOR_REQUEST, ReaderOptions::new())
        .unwrap()
        .into_typed()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Compiles `files` and compares with `checked_in`, or, when asked to, replaces it.
fn check_request(prefix: &Path, files: &[PathBuf], checked_in: &Path) {
    let mut compiler = capnpc_embedded::CompileCommand::new();
    compiler
        .src_prefix(prefix)
        .import_path(root().join("schema"))
        .no_standard_import();
    for file in files {
        compiler.file(file);
    }
    let compiled = compiler.compile().expect("the schema compiles");
    if env::var_os("VATWERK_REGENERATE").is_some_and(|it| it == "1") {
        fs::write(checked_in, compiled).unwrap();
        return;
    }
    assert!(
        fs::read(checked_in).is_ok_and(|bytes| bytes == compiled),
        "{} is not what its schema compiles to: run \
         `VATWERK_REGENERATE=1 cargo test --test vatwerk is_current`",
        checked_in.display()
    );
}

#[test]
fn the_request_of_each_class_of_the_tests_is_current() {
    let support = root().join("tests/support");
    for name in ["changed", "door", "probe", "puppet"] {
        let schema = support.join(name).with_extension("capnp");
        let request = schema.with_extension("cgr");
        check_request(&support, &[schema], &request);
    }
}

#[test]
fn the_request_of_the_example_is_current() {
    let example = root().join("server/examples/promises");
    let request = example.join("promises.cgr");
    check_request(&example, &[example.join("promises.capnp")], &request);
}

#[test]
fn checked_in_request_is_current() {
    let schema = root().join("schema");
    let mut files: Vec<_> = fs::read_dir(schema.join("vatwerk"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "capnp"))
        .collect();
    files.sort();
    check_request(&schema, &files, &schema.join("vatwerk.cgr"));

    let names = files.iter().map(|it| it.strip_prefix(&schema).unwrap());
    let embedded = SCHEMA_FILES.iter().map(|(path, _)| Path::new(path));
    let embedded = embedded.filter(|it| it.starts_with("vatwerk"));
    assert!(
        names.eq(embedded),
        "SCHEMA_FILES does not have every file of the schema"
    );
}

#[test]
fn the_request_of_a_schema_with_annotations_for_json_is_current() {
    let data = root().join("schema/json/testdata");
    let request = data.join("annotated.cgr");
    check_request(&data, &[data.join("annotated.capnp")], &request);
}

#[test]
fn the_request_of_the_annotations_for_json_is_current() {
    let schema = root().join("schema");
    let request = schema.join("capnp/compat/json.cgr");
    check_request(&schema, &[schema.join("capnp/compat/json.capnp")], &request);
}

#[test]
fn the_request_of_kj_is_current() {
    let schema = root().join("schema");
    let request = schema.join("kj/http.cgr");
    check_request(&schema, &[schema.join("kj/http.capnp")], &request);
}

/// What no name may be, by where it stands, and whose generator or runtime it breaks.
const METHOD: &[(&str, &[&str])] = &[
    ("Python", &["schema", "upcast"]),
    ("Rust", &["async", "await", "dyn", "try", "clone"]),
    ("C++", &["context", "errno", "linux", "unix", "typeof"]),
    (
        "TypeScript",
        &["call", "dispose", "constructor", "client", "new"],
    ),
    (
        "Go",
        &[
            "release",
            "addRef",
            "isValid",
            "isSame",
            "resolve",
            "string",
            "waitStreaming",
            "encodeAsPtr",
            "decodeFromPtr",
            "setFlowLimiter",
            "getFlowLimiter",
        ],
    ),
];
const PARAMETER: &[(&str, &[&str])] = &[("Python", &["name", "schema", "self", "which"])];
const RESULT: &[(&str, &[&str])] = &[("Python", &["cancel", "schema", "which"])];
const FIELD: &[(&str, &[&str])] = &[
    (
        "Python",
        &[
            "copy", "init", "schema", "self", "which", "write", "adopt", "disown",
        ],
    ),
    (
        "TypeScript",
        &[
            "segment",
            "byteOffset",
            "toString",
            "toJSON",
            "get",
            "set",
            "constructor",
            "which",
        ],
    ),
];
const UNION_MEMBER: &[(&str, &[&str])] = &[
    ("Rust", &["which", "pipeline", "self"]),
    ("C++", &["eof", "infinity", "nan"]),
];
const ENUMERANT: &[(&str, &[&str])] = &[("C++", &["eof", "infinity", "nan"]), ("Rust", &["self"])];
const TYPE: &[(&str, &[&str])] = &[
    ("TypeScript", &["Object", "Symbol", "Promise"]),
    (
        "C++",
        &["Client", "Server", "Reader", "Builder", "Pipeline"],
    ),
];

/// Complaints about a schema, gathered so that one run shows them all.
#[derive(Default)]
struct Complaints(Vec<String>);

impl Complaints {
    fn name(&mut self, place: &str, name: &str, tables: &[&[(&str, &[&str])]]) {
        for (victim, names) in tables.iter().flat_map(|table| *table) {
            if names.contains(&name) {
                self.0.push(format!("{place} `{name}` breaks {victim}"));
            }
        }
    }

    fn expect_none(self) {
        assert!(self.0.is_empty(), "\n{}\n", self.0.join("\n"));
    }
}

fn text(it: capnp::Result<capnp::text::Reader<'_>>) -> String {
    it.unwrap().to_str().unwrap().to_owned()
}

fn short_name(node: node::Reader<'_>) -> String {
    text(node.get_display_name())[node.get_display_name_prefix_length() as usize..].to_owned()
}

/// The ids of the structs that stand for parameters, and of those that stand for results.
fn call_structs(request: code_generator_request::Reader<'_>) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let (mut params, mut results) = (BTreeSet::new(), BTreeSet::new());
    for node in request.get_nodes().unwrap() {
        if let Ok(node::Interface(it)) = node.which() {
            for method in it.get_methods().unwrap() {
                params.insert(method.get_param_struct_type());
                results.insert(method.get_result_struct_type());
            }
        }
    }
    (params, results)
}

/// The nodes of our own files, without those of imports.
fn own_nodes(request: code_generator_request::Reader<'_>) -> Vec<node::Reader<'_>> {
    let nodes = request.get_nodes().unwrap();
    let own = |node: &node::Reader<'_>| text(node.get_display_name()).starts_with("vatwerk/");
    nodes.iter().filter(own).collect()
}

#[test]
fn no_name_breaks_a_generator() {
    let message = request();
    let request = message.get().unwrap();
    let (params, results) = call_structs(request);
    let mut complaints = Complaints::default();
    for node in own_nodes(request) {
        let place = text(node.get_display_name());
        match node.which().unwrap() {
            node::Struct(it) => {
                if node.get_scope_id() != 0 && !it.get_is_group() {
                    complaints.name("type", &short_name(node), &[TYPE]);
                }
                for field in it.get_fields().unwrap() {
                    let name = text(field.get_name());
                    let mut tables = vec![FIELD];
                    if params.contains(&node.get_id()) {
                        tables.push(PARAMETER);
                    }
                    if results.contains(&node.get_id()) {
                        tables.push(RESULT);
                    }
                    let group = matches!(field.which(), Ok(field::Group(_)));
                    if group || field.get_discriminant_value() != field::NO_DISCRIMINANT {
                        tables.push(UNION_MEMBER);
                        if name.eq_ignore_ascii_case(&short_name(node)) {
                            complaints
                                .0
                                .push(format!("{place}.{name} breaks C++ and Rust"));
                        }
                    }
                    complaints.name(&place, &name, &tables);
                }
            }
            node::Enum(it) => {
                complaints.name("type", &short_name(node), &[TYPE]);
                for enumerant in it.get_enumerants().unwrap() {
                    complaints.name(&place, &text(enumerant.get_name()), &[ENUMERANT]);
                }
            }
            node::Interface(it) => {
                complaints.name("type", &short_name(node), &[TYPE]);
                for method in it.get_methods().unwrap() {
                    complaints.name(&place, &text(method.get_name()), &[METHOD]);
                }
            }
            node::File(()) => {
                let stem = place
                    .trim_start_matches("vatwerk/")
                    .trim_end_matches(".capnp");
                if !stem.chars().all(|c| c.is_ascii_lowercase()) {
                    complaints
                        .0
                        .push(format!("{place} is not one lower-case word"));
                }
            }
            node::Const(_) | node::Annotation(_) => {}
        }
        let mut siblings = BTreeSet::new();
        for nested in node.get_nested_nodes().unwrap() {
            let name = text(nested.get_name());
            if !siblings.insert(name.to_ascii_lowercase()) {
                complaints.0.push(format!(
                    "{place}: two names are `{name}`, case apart: breaks Rust, Go"
                ));
            }
        }
    }
    complaints.expect_none();
}

#[test]
fn every_type_has_an_explicit_id() {
    let mut complaints = Complaints::default();
    for (path, text) in SCHEMA_FILES {
        if !text.starts_with("@0x") {
            complaints.0.push(format!("{path} has no id"));
        }
        for line in text.lines().map(str::trim) {
            let declares = ["interface ", "struct ", "enum "]
                .iter()
                .any(|it| line.starts_with(it));
            if declares && !line.contains(" @0x") {
                complaints.0.push(format!("{path}: no id: {line}"));
            }
        }
    }
    complaints.expect_none();
}

/// Structs whose members say all there is to say by name and type.
const SELF_EXPLANATORY: &[&str] = &[
    "vatwerk/storage.capnp:Entry",
    "vatwerk/storage.capnp:SqlValue",
];

#[test]
fn everything_has_a_doc_comment() {
    let message = request();
    let request = message.get().unwrap();
    let mut complaints = Complaints::default();
    for node in own_nodes(request) {
        let place = text(node.get_display_name());
        let group = matches!(node.which(), Ok(node::Struct(it)) if it.get_is_group());
        if node.get_scope_id() == 0 && matches!(node.which(), Ok(node::Struct(_))) {
            // Parameters or results: their method describes them.
            continue;
        }
        let infos = request.get_source_info().unwrap();
        let Some(info) = infos.iter().find(|it| it.get_id() == node.get_id()) else {
            complaints.0.push(format!("{place} has no source info"));
            continue;
        };
        if !group && text(info.get_doc_comment()).is_empty() {
            complaints.0.push(format!("{place} has no doc comment"));
        }
        // Each member's name, and whether it needs a comment. A group is described by its members.
        let members: Vec<(String, bool)> = match node.which().unwrap() {
            node::Struct(it) => {
                let fields = it.get_fields().unwrap();
                let slot = |it: &field::Reader<'_>| matches!(it.which(), Ok(field::Slot(_)));
                let named = fields.iter().map(|it| (text(it.get_name()), slot(&it)));
                named.collect()
            }
            node::Enum(it) => {
                let all = it.get_enumerants().unwrap();
                all.iter().map(|it| (text(it.get_name()), true)).collect()
            }
            node::Interface(it) => {
                let all = it.get_methods().unwrap();
                all.iter().map(|it| (text(it.get_name()), true)).collect()
            }
            _ => Vec::new(),
        };
        let docs = info.get_members().unwrap();
        for (i, (name, needed)) in members.iter().enumerate() {
            let documented = docs
                .try_get(i as u32)
                .is_some_and(|it| !text(it.get_doc_comment()).is_empty());
            if *needed && !documented && !SELF_EXPLANATORY.contains(&place.as_str()) {
                complaints
                    .0
                    .push(format!("{place}.{name} has no doc comment"));
            }
        }
    }
    complaints.expect_none();
}

fn is_any_pointer(ty: type_::Reader<'_>) -> bool {
    match ty.which().unwrap() {
        type_::List(it) => is_any_pointer(it.get_element_type().unwrap()),
        type_::AnyPointer(it) => !matches!(
            it.which(),
            Ok(type_::any_pointer::Unconstrained(it))
                if matches!(it.which(), Ok(type_::any_pointer::unconstrained::Capability(())))
        ),
        _ => false,
    }
}

#[test]
fn nothing_is_generic_or_of_no_type() {
    let message = request();
    let request = message.get().unwrap();
    let (params, _) = call_structs(request);
    let mut complaints = Complaints::default();
    for node in own_nodes(request) {
        let place = text(node.get_display_name());
        if node.get_is_generic() {
            complaints.0.push(format!("{place} is generic"));
        }
        match node.which().unwrap() {
            node::Struct(it) if !params.contains(&node.get_id()) => {
                for field in it.get_fields().unwrap() {
                    if let Ok(field::Slot(slot)) = field.which()
                        && is_any_pointer(slot.get_type().unwrap())
                    {
                        let name = text(field.get_name());
                        complaints
                            .0
                            .push(format!("{place}.{name} is an AnyPointer"));
                    }
                }
            }
            node::Interface(it) => {
                for method in it.get_methods().unwrap() {
                    if !method.get_implicit_parameters().unwrap().is_empty() {
                        let name = text(method.get_name());
                        complaints.0.push(format!("{place}.{name} is generic"));
                    }
                }
            }
            _ => {}
        }
    }
    complaints.expect_none();
}

/// The annotations that a file needs in some language, by the file and the name that their ids follow
/// from, and those ids: generators look for these.
const ASKED_FOR: &[(&str, u64)] = &[
    ("capnp/c++.capnp:namespace", 0xb9c6_f99e_bf80_5f2c),
    ("go.capnp:package", 0xbea9_7f10_2379_2be0),
    ("go.capnp:import", 0xe130_b601_260e_44b5),
    ("java.capnp:package", 0x9ee4_c8f8_03b3_b596),
    ("java.capnp:outerClassname", 0x9b06_6bb4_881f_7cd3),
];

/// The annotations that say how a schema looks in JSON. The original declares their ids.
const FOR_JSON: &[(&str, u64)] = &[
    ("capnp/compat/json.capnp:name", 0xfa5b_1fd6_1c2e_7c3d),
    ("capnp/compat/json.capnp:flatten", 0x82d3_e852_af03_36bf),
    (
        "capnp/compat/json.capnp:discriminator",
        0xcfa7_94e8_d19a_0162,
    ),
    ("capnp/compat/json.capnp:base64", 0xd7d8_7945_0a25_3e4b),
    ("capnp/compat/json.capnp:hex", 0xf061_e22f_0ae5_c7b5),
    (
        "capnp/compat/json.capnp:notification",
        0xa0a0_54de_a32f_d98c,
    ),
    // These follow from their names.
    (
        "capnp/compat/json.capnp:FlattenOptions",
        0xc4df_1325_7bc2_ea61,
    ),
    (
        "capnp/compat/json.capnp:DiscriminatorOptions",
        0xc2f8_c20c_293e_5319,
    ),
];

/// The text that an annotation of that id has as its value, if a file has such.
fn annotated(file: node::Reader<'_>, id: u64) -> Option<String> {
    let all = file.get_annotations().unwrap();
    let found = all.iter().find(|it| it.get_id() == id)?;
    match found.get_value().unwrap().which().unwrap() {
        value::Text(it) => Some(text(it)),
        _ => None,
    }
}

#[test]
fn the_export_alone_compiles_and_says_what_every_generator_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    export(folder.path());
    let paths: Vec<_> = SCHEMA_FILES.iter().map(|(path, _)| *path).collect();
    let message =
        serialize::read_message(&compile(folder.path(), &paths)[..], ReaderOptions::new());
    let message = message.unwrap();
    let request: code_generator_request::Reader = message.get_root().unwrap();
    let nodes: Vec<_> = request.get_nodes().unwrap().iter().collect();
    let named = |name: &str| nodes.iter().find(|it| text(it.get_display_name()) == name);
    for (name, id) in ASKED_FOR.iter().chain(FOR_JSON) {
        assert_eq!(named(name).unwrap().get_id(), *id, "{name}");
    }

    let mut complaints = Complaints::default();
    let mut outer_classes = BTreeSet::new();
    let files = request.get_requested_files().unwrap();
    assert_eq!(files.len() as usize, SCHEMA_FILES.len());
    for file in files {
        let place = text(file.get_filename());
        for import in file.get_imports().unwrap() {
            let import = text(import.get_name());
            let there = match import.strip_prefix('/') {
                Some(path) => paths.contains(&path),
                None => paths.contains(&format!("vatwerk/{import}").as_str()),
            };
            if !there {
                complaints.0.push(format!("{place} imports {import}"));
            }
        }
        let node = named(&place).unwrap();
        for (name, id) in ASKED_FOR {
            if annotated(*node, *id).is_none_or(|it| it.is_empty()) {
                complaints.0.push(format!("{place} has no ${name}"));
            }
        }
        let outer = annotated(*node, ASKED_FOR[4].1).unwrap_or_default();
        for nested in node.get_nested_nodes().unwrap() {
            if text(nested.get_name()) == outer {
                complaints
                    .0
                    .push(format!("{place}: {outer} breaks Java: it is a type"));
            }
        }
        // All have one package.
        if !outer_classes.insert(outer.clone()) {
            complaints.0.push(format!("{place}: {outer} is taken"));
        }
    }
    complaints.expect_none();
}

#[test]
fn ids_of_standard_annotations_are_those_that_follow_from_their_names() {
    // Without the ids that our copies declare, the compiler computes those of the files they stand for.
    let folder = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (path, text) in SCHEMA_FILES {
        if path.starts_with("vatwerk/") || path.contains("json") || *path == "java.capnp" {
            continue;
        }
        let bare = |line: &str| match line.split_once(" @0x") {
            Some((name, rest)) if !name.is_empty() && name.starts_with("annotation ") => {
                format!("{name} {}\n", rest.split_once(' ').unwrap().1)
            }
            _ => format!("{line}\n"),
        };
        let text: String = text.lines().map(bare).collect();
        let text = text.replace("using Java = import \"/java.capnp\";\n", "");
        let text: String = text
            .lines()
            .filter(|it| !it.starts_with("$Java"))
            .map(|it| format!("{it}\n"))
            .collect();
        let file = folder.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
        paths.push(*path);
    }
    let bytes = compile(folder.path(), &paths);
    let message = serialize::read_message(&bytes[..], ReaderOptions::new()).unwrap();
    let request: code_generator_request::Reader = message.get_root().unwrap();
    let mut computed = 0;
    for node in request.get_nodes().unwrap() {
        if let Ok(node::Annotation(_)) = node.which() {
            let (place, id) = (text(node.get_display_name()), node.get_id());
            let (path, name) = place.split_once(':').unwrap();
            let ours = SCHEMA_FILES.iter().find(|(it, _)| *it == path).unwrap().1;
            let declared = format!("annotation {name} @0x{id:016x} ");
            assert!(ours.contains(&declared), "{place} is @0x{id:016x}");
            computed += 1;
        }
    }
    assert_eq!(computed, 10);
}

#[test]
fn schemas_of_users_compile_beside_the_export() {
    let folder = tempfile::tempdir().unwrap();
    export(folder.path());
    let languages = [
        (
            "go",
            "using Go = import \"/go.capnp\"; $Go.package(\"a\"); $Go.import(\"a\");",
        ),
        (
            "java",
            "using Java = import \"/java.capnp\"; $Java.package(\"a\"); $Java.outerClassname(\"A\");",
        ),
        (
            "cpp",
            "using Cxx = import \"/capnp/c++.capnp\"; $Cxx.namespace(\"a\"); $Cxx.allowCancellation;",
        ),
    ];
    for (name, annotations) in languages {
        let schema = format!(
            "@0xe8a3c3f1d2b40301; {annotations} using Object = import \"/vatwerk/object.capnp\";\n\
             interface Mine {{ go @0 (it :Object.Stub) -> stream; }}"
        );
        fs::write(folder.path().join(format!("mine_{name}.capnp")), &schema).unwrap();
        compile(folder.path(), &[&format!("mine_{name}.capnp")]);
        // From a folder of its own, by paths that lead to the export.
        let schema = schema.replace("\"/", "\"../");
        fs::create_dir_all(folder.path().join("own")).unwrap();
        let path = format!("own/mine_{name}.capnp");
        fs::write(folder.path().join(&path), schema).unwrap();
        compile(folder.path(), &[&path]);
    }
}

#[test]
fn codes_are_those_of_the_schema() {
    let message = request();
    let request = message.get().unwrap();
    let nodes = own_nodes(request);
    let limits = nodes
        .iter()
        .find(|it| text(it.get_display_name()) == "vatwerk/limit.capnp")
        .unwrap();
    let mut words = Vec::new();
    for nested in limits.get_nested_nodes().unwrap() {
        let node = nodes
            .iter()
            .find(|it| it.get_id() == nested.get_id())
            .unwrap();
        if let Ok(node::Const(it)) = node.which()
            && let Ok(value::Text(word)) = it.get_value().unwrap().which()
        {
            words.push(text(word));
        }
    }
    let codes = Code::ALL.map(Code::as_str);
    let deliveries = Delivery::ALL.map(Delivery::as_str);
    assert_eq!(words, [&codes[..], &deliveries[..]].concat());
}
