use std::collections::HashMap;

use capnp::{
    message::{self, ReaderOptions},
    schema_capnp::{code_generator_request, field, node},
    serialize,
};

use super::{Incompatible, Version, check_replaceable};

const EVERYTHING: &[u8] = include_bytes!("../json/testdata/everything.cgr");
const TARGET: u64 = 0xe1b2_c3d4_e5f6_0713;

/// What a row changes, the declarations before and after, and the message that it is refused with,
/// or nothing. The interface is called `Chat`.
type Row = (&'static str, &'static str, &'static str, &'static str);

const REFUSED: &[Row] = &[
    (
        "a method is removed",
        "interface Chat { post @0 (text :Text); }",
        "interface Chat {}",
        "Chat.post (@0) was removed",
    ),
    (
        "a method is removed and its number given to the next",
        "interface Chat { open @0 (); post @1 (); close @2 (); }",
        "interface Chat { open @0 (); close @1 (); }",
        "Chat.post (@1) was removed",
    ),
    (
        "methods change places",
        "interface Chat { open @0 (); close @1 (); }",
        "interface Chat { open @1 (); close @0 (); }",
        "Chat.open was @0 and is @1",
    ),
    (
        "a method begins to stream",
        "interface Chat { post @0 (text :Text) -> (); }",
        "interface Chat { post @0 (text :Text) -> stream; }",
        "Chat.post was not streaming and is",
    ),
    (
        "a method no longer streams",
        "interface Chat { post @0 (text :Text) -> stream; }",
        "interface Chat { post @0 (text :Text) -> (); }",
        "Chat.post was streaming and is not",
    ),
    (
        "a superclass is lost",
        "interface Room { leave @0 (); } interface Chat extends(Room) {}",
        "interface Room { leave @0 (); } interface Chat {}",
        "Chat extended Room and does not any more",
    ),
    (
        "a method of a superclass is removed",
        "interface Room { leave @0 (); } interface Chat extends(Room) {}",
        "interface Room {} interface Chat extends(Room) {}",
        "Room.leave (@0) was removed",
    ),
    (
        "a parameter of a superclass's superclass changes",
        "interface Base { ping @0 (n :Int8); } interface Room extends(Base) {} \
         interface Chat extends(Room) {}",
        "interface Base { ping @0 (n :Int16); } interface Room extends(Base) {} \
         interface Chat extends(Room) {}",
        "Base.ping: parameter `n` was Int8 and is Int16",
    ),
    (
        "a parameter is of another type",
        "interface Chat { post @0 (amount :Int64); }",
        "interface Chat { post @0 (amount :Text); }",
        "Chat.post: parameter `amount` was Int64 and is Text",
    ),
    (
        "a signed integer becomes unsigned",
        "interface Chat { post @0 (amount :Int64); }",
        "interface Chat { post @0 (amount :UInt64); }",
        "Chat.post: parameter `amount` was Int64 and is UInt64",
    ),
    (
        "a result is of another type",
        "interface Chat { last @0 () -> (text :Text); }",
        "interface Chat { last @0 () -> (text :List(Text)); }",
        "Chat.last: result `text` was Text and is List(Text)",
    ),
    (
        "text becomes data",
        "interface Chat { last @0 () -> (text :Text); }",
        "interface Chat { last @0 () -> (text :Data); }",
        "Chat.last: result `text` was Text and is Data",
    ),
    (
        "a capability becomes an interface",
        "interface Chat { last @0 () -> (it :Capability); }",
        "interface Chat { last @0 () -> (it :Chat); }",
        "Chat.last: result `it` was Capability and is Chat",
    ),
    (
        "a struct becomes a pointer to anything",
        "struct Line {} interface Chat { last @0 () -> (it :Line); }",
        "struct Line {} interface Chat { last @0 () -> (it :AnyPointer); }",
        "Chat.last: result `it` was Line and is AnyPointer",
    ),
    (
        "a parameter is removed",
        "interface Chat { post @0 (text :Text, color :UInt8); }",
        "interface Chat { post @0 (text :Text); }",
        "Chat.post: parameter `color` was removed",
    ),
    (
        "a parameter is added before others",
        "interface Chat { post @0 (from :Text, to :Text); }",
        "interface Chat { post @0 (via :Text, from :Text, to :Text); }",
        "Chat.post: parameter `from` has the number of another",
    ),
    (
        "parameters change places",
        "interface Chat { post @0 (from :Text, to :Text); }",
        "interface Chat { post @0 (to :Text, from :Text); }",
        "Chat.post: parameter `from` has the number of another",
    ),
    (
        "a default",
        "interface Chat { post @0 (times :Int32 = 1); }",
        "interface Chat { post @0 (times :Int32 = 2); }",
        "Chat.post: parameter `times` has another default",
    ),
    (
        "a default of text",
        "interface Chat { post @0 (text :Text = \"hi\"); }",
        "interface Chat { post @0 (text :Text); }",
        "Chat.post: parameter `text` has another default",
    ),
    (
        "a default of a struct",
        "struct Line { a @0 :Int32; b @1 :Int32; } \
         interface Chat { post @0 (line :Line = (a = 1)); }",
        "struct Line { a @0 :Int32; b @1 :Int32; } \
         interface Chat { post @0 (line :Line = (b = 1)); }",
        "Chat.post: parameter `line` has another default",
    ),
    (
        "a field of a struct in a list in a struct",
        "struct Line { words @0 :List(Word); } struct Word { text @0 :Text; } \
         interface Chat { post @0 (line :Line); }",
        "struct Line { words @0 :List(Word); } struct Word { text @0 :Data; } \
         interface Chat { post @0 (line :Line); }",
        "Chat.post: field `text` of Word was Text and is Data",
    ),
    (
        "a field of a struct that contains itself",
        "struct Line { next @0 :Line; n @1 :Int8; } interface Chat { last @0 () -> Line; }",
        "struct Line { next @0 :Line; n @1 :Bool; } interface Chat { last @0 () -> Line; }",
        "Chat.last: result `n` was Int8 and is Bool",
    ),
    (
        "a method of an interface that is returned",
        "interface Chat { join @0 () -> (it :Session); } interface Session { leave @0 (); }",
        "interface Chat { join @0 () -> (it :Session); } interface Session {}",
        "Session.leave (@0) was removed",
    ),
    (
        "another struct of the same structure",
        "struct Line { n @0 :Int8; } interface Chat { post @0 (line :Line); }",
        "struct Row { n @0 :Int8; } interface Chat { post @0 (line :Row); }",
        "Chat.post: parameter `line` was Line and is Row",
    ),
    (
        "another interface",
        "interface A {} interface B {} interface Chat { post @0 (to :A); }",
        "interface A {} interface B {} interface Chat { post @0 (to :B); }",
        "Chat.post: parameter `to` was A and is B",
    ),
    (
        "a field enters a union that there was",
        "struct Line { union { a @0 :Int8; b @1 :Int8; } c @2 :Int8; } \
         interface Chat { post @0 Line; }",
        "struct Line { union { a @0 :Int8; b @1 :Int8; c @2 :Int8; } } \
         interface Chat { post @0 Line; }",
        "Chat.post: parameter `c` was in no union and is in one",
    ),
    (
        "a field enters a new union",
        "struct Line { a @0 :Int8; } interface Chat { post @0 Line; }",
        "struct Line { union { a @0 :Int8; b @1 :Int8; } } interface Chat { post @0 Line; }",
        "Chat.post: parameter `a` was in no union and is in one",
    ),
    (
        "a field enters a new union with a name",
        "struct Line { a @0 :Int8; } interface Chat { post @0 Line; }",
        "struct Line { u :union { a @0 :Int8; b @1 :Int8; } } interface Chat { post @0 Line; }",
        "Chat.post: parameter `a` was in no union and is in one",
    ),
    (
        "a field leaves a union",
        "struct Line { union { a @0 :Int8; b @1 :Int8; c @2 :Int8; } } \
         interface Chat { post @0 Line; }",
        "struct Line { union { a @0 :Int8; b @1 :Int8; } c @2 :Int8; } \
         interface Chat { post @0 Line; }",
        "Chat.post: parameter `c` was in a union and is in none",
    ),
    (
        "members of a union become others",
        "struct Line { union { a @0 :Int8; b @1 :Int8; } x @2 :Int8; } \
         interface Chat { post @0 Line; }",
        "struct Line { x @0 :Int8; union { a @1 :Int8; b @2 :Int8; } } \
         interface Chat { post @0 Line; }",
        "Chat.post: parameter `a` has the number of another",
    ),
    (
        "a field of a group",
        "struct Shape { box :group { w @0 :Int8; h @1 :Int8; } } \
         interface Chat { draw @0 (shape :Shape); }",
        "struct Shape { box :group { w @0 :Int8; h @1 :UInt8; } } \
         interface Chat { draw @0 (shape :Shape); }",
        "Chat.draw: field `h` of box was Int8 and is UInt8",
    ),
    (
        "a group becomes a field",
        "struct Shape { box :group { w @0 :Int8; } } interface Chat { draw @0 (shape :Shape); }",
        "struct Shape { box @0 :Int8; } interface Chat { draw @0 (shape :Shape); }",
        "Chat.draw: field `box` of Shape was a group and is Int8",
    ),
    (
        "an enumerant is removed",
        "enum Color { red @0; blue @1; } interface Chat { paint @0 (color :Color); }",
        "enum Color { red @0; } interface Chat { paint @0 (color :Color); }",
        "Chat.paint: enumerant `blue` of Color was removed",
    ),
    (
        "an enumerant is put before others",
        "enum Color { red @0; blue @1; } interface Chat { paint @0 () -> (all :List(Color)); }",
        "enum Color { none @0; red @1; blue @2; } \
         interface Chat { paint @0 () -> (all :List(Color)); }",
        "Chat.paint: enumerant `red` of Color has the number of another",
    ),
    (
        "an enum becomes a number",
        "enum Color { red @0; } interface Chat { paint @0 (color :Color); }",
        "enum Color { red @0; } interface Chat { paint @0 (color :UInt16); }",
        "Chat.paint: parameter `color` was Color and is UInt16",
    ),
    (
        "the elements of a list",
        "interface Chat { post @0 (all :List(Int8)); }",
        "interface Chat { post @0 (all :List(Int16)); }",
        "Chat.post: parameter `all` was List(Int8) and is List(Int16)",
    ),
    (
        "a list of bits becomes one of structs",
        "interface Chat { post @0 (all :List(Bool)); }",
        "struct One { it @0 :Bool; } interface Chat { post @0 (all :List(One)); }",
        "Chat.post: parameter `all` was List(Bool) and is List(One)",
    ),
    (
        "a list becomes one of structs that begin with something else",
        "interface Chat { post @0 (all :List(Text)); }",
        "struct One { n @0 :Int8; it @1 :Text; } interface Chat { post @0 (all :List(One)); }",
        "Chat.post: parameter `all` was List(Text) and is List(One)",
    ),
    (
        "a list of structs becomes one of their fields",
        "struct One { it @0 :Text; } interface Chat { post @0 (all :List(One)); }",
        "struct One { it @0 :Text; } interface Chat { post @0 (all :List(Text)); }",
        "Chat.post: parameter `all` was List(One) and is List(Text)",
    ),
    (
        "a type argument",
        "struct Box(T) { it @0 :T; } interface Chat { post @0 (it :Box(Text)); }",
        "struct Box(T) { it @0 :T; } interface Chat { post @0 (it :Box(Data)); }",
        "Chat.post: parameter `it` was Box(Text) and is Box(Data)",
    ),
    (
        "a struct that is only a type argument",
        "struct Box(T) { it @0 :T; } struct Line { n @0 :Int8; } \
         interface Chat { post @0 (it :Box(Line)); }",
        "struct Box(T) { it @0 :T; } struct Line { n @0 :Int16; } \
         interface Chat { post @0 (it :Box(Line)); }",
        "Chat.post: field `n` of Line was Int8 and is Int16",
    ),
    (
        "a type argument of all parameters",
        "struct Box(T) { it @0 :T; } interface Chat { post @0 Box(Text); }",
        "struct Box(T) { it @0 :T; } interface Chat { post @0 Box(Data); }",
        "Chat.post: its parameters or results have other type arguments",
    ),
];

const FINE: &[Row] = &[
    (
        "more of everything",
        "interface Chat { post @0 (text :Text, line :Line, color :Color, shape :Shape); } \
         struct Line { n @0 :Int8; } enum Color { red @0; } \
         struct Shape { union { a @0 :Int8; b @1 :Void; } g :group { x @2 :Int8; } }",
        "interface Room { leave @0 (); } interface Chat extends(Room) { \
         post @0 (text :Text, line :Line, color :Color, shape :Shape, times :Int8 = 1) \
         -> (n :Int64); read @1 (); } \
         struct Line { n @0 :Int8; more @1 :Text; union { p @2 :Void; q @3 :Void; } } \
         enum Color { red @0; blue @1; } \
         struct Shape { union { a @0 :Int8; b @1 :Void; c @3 :Text; } \
         g :group { x @2 :Int8; y @4 :Int8; } }",
        "",
    ),
    (
        "other names for everything",
        "interface Chat { post @0 (text :Text, line :Line, color :Color) -> (n :Int8); } \
         struct Line @0xa1a2a3a4a5a6a7a8 { n @0 :Int8; g :group { x @1 :Void; } } \
         enum Color @0xa1a2a3a4a5a6a7a9 { red @0; blue @1; }",
        "interface Chat { send @0 (words :Text, row :Row, hue :Hue) -> (count :Int8); } \
         struct Row @0xa1a2a3a4a5a6a7a8 { m @0 :Int8; h :group { y @1 :Void; } } \
         enum Hue @0xa1a2a3a4a5a6a7a9 { rouge @0; bleu @1; }",
        "",
    ),
    (
        "a method is renamed and another gets its name",
        "interface Chat { post @0 (text :Text); }",
        "interface Chat { postText @0 (text :Text); post @1 (line :Data); }",
        "",
    ),
    (
        "another order of declaration",
        "struct Line { a @0 :Int8; b @1 :Text; } interface Chat { post @0 Line; read @1 (); }",
        "interface Chat { read @1 (); post @0 Line; } struct Line { b @1 :Text; a @0 :Int8; }",
        "",
    ),
    (
        "a list of parameters becomes a struct",
        "interface Chat { post @0 (text :Text, n :Int8 = 3) -> (n :Int8); }",
        "struct Line { text @0 :Text; n @1 :Int8 = 3; color @2 :Int8; } \
         interface Chat { post @0 Line -> (n :Int8); }",
        "",
    ),
    (
        "a superclass is reached in another way",
        "interface A { a @0 (); } interface Chat extends(A) {}",
        "interface A { a @0 (); } interface B extends(A) {} interface Chat extends(B) {}",
        "",
    ),
    (
        "a field becomes the first of a new group",
        "struct Line { a @0 :Int8; b @1 :Int8; } interface Chat { post @0 Line; }",
        "struct Line { g :group { a @0 :Int8; c @2 :Text; } b @1 :Int8; } \
         interface Chat { post @0 Line; }",
        "",
    ),
    (
        "lists become lists of structs",
        "interface Chat { post @0 (a :List(Text), b :List(Int16), c :List(List(Int8))); }",
        "struct A { it @0 :Text; more @1 :Int8; } struct B { it @0 :Int16; more @1 :Text; } \
         struct C { it @0 :List(Int8); } \
         interface Chat { post @0 (a :List(A), b :List(B), c :List(List(D))); } \
         struct D { it @0 :Int8; }",
        "",
    ),
    (
        "the default of a struct that has got more fields",
        "struct Line { n @0 :Int8; all @1 :List(Line); } \
         interface Chat { post @0 (line :Line = (n = 1, all = [(n = 2)])); }",
        "struct Line { n @0 :Int8; all @1 :List(Line); m @2 :Int64; t @3 :Text = \"t\"; } \
         interface Chat { post @0 (line :Line = (n = 1, all = [(n = 2)])); }",
        "",
    ),
    (
        "types that contain themselves and each other",
        "struct A { a @0 :A; b @1 :List(B); } struct B { a @0 :A; chat @1 :Chat; } \
         interface Chat { post @0 A -> (chat :Chat); }",
        "struct A { a @0 :A; b @1 :List(B); } struct B { a @0 :A; chat @1 :Chat; } \
         interface Chat { post @0 A -> (chat :Chat); more @1 (b :B); }",
        "",
    ),
    (
        "what no caller comes upon",
        "struct Line { n @0 :Int8; } const n :Int8 = 1; interface Chat { post @0 (); }",
        "struct Line { n @0 :Text; } const n :Text = \"\"; interface Chat { post @0 (); }",
        "",
    ),
];

/// One schema of all rows, each in a scope of its own.
fn compile(rows: &[Row], text: impl Fn(&Row) -> &'static str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.capnp");
    let mut schema = "@0xd1d2d3d4d5d6d7d8;\n".to_owned();
    for (i, row) in rows.iter().enumerate() {
        schema.push_str(&format!("struct Row{i} {{ {} }}\n", text(row)));
    }
    std::fs::write(&file, schema).unwrap();
    let mut compiler = capnpc_embedded::CompileCommand::new();
    compiler.src_prefix(folder.path()).file(&file);
    compiler.compile().unwrap()
}

/// The ids and names of all interfaces.
fn interfaces(cgr: &[u8]) -> HashMap<String, u64> {
    let message = serialize::read_message(cgr, ReaderOptions::new()).unwrap();
    let request: code_generator_request::Reader = message.get_root().unwrap();
    let nodes = request.get_nodes().unwrap().iter();
    nodes
        .filter(|it| matches!(it.which(), Ok(node::Interface(_))))
        .map(|it| {
            let name = it.get_display_name().unwrap().to_string().unwrap();
            (name, it.get_id())
        })
        .collect()
}

/// What is said about each row; nothing if it is fine.
fn expect(rows: &[Row]) {
    let (old, new) = (compile(rows, |row| row.1), compile(rows, |row| row.2));
    let ids = interfaces(&old);
    let mut wrong = Vec::new();
    for (i, (what, _, _, expected)) in rows.iter().enumerate() {
        let id = ids[&format!("rows.capnp:Row{i}.Chat")];
        let said = check_replaceable(&old, &new, id).map_or_else(|e| e.to_string(), |()| "".into());
        if said != *expected {
            wrong.push(format!("{what}: `{said}`, not `{expected}`"));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn what_callers_would_not_survive_is_refused_in_words() {
    expect(REFUSED);
}

#[test]
fn what_callers_do_not_notice_is_fine() {
    expect(FINE);
}

#[test]
fn every_interface_may_replace_itself() {
    let rows = [
        compile(REFUSED, |row| row.1),
        compile(REFUSED, |row| row.2),
        compile(FINE, |row| row.2),
    ];
    let ours = [crate::CODE_GENERATOR_REQUEST.to_vec(), EVERYTHING.to_vec()];
    for cgr in rows.iter().chain(&ours) {
        let interfaces = interfaces(cgr);
        assert!(!interfaces.is_empty());
        for (name, id) in interfaces {
            check_replaceable(cgr, cgr, id).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}

/// [`EVERYTHING`] with something changed in every node.
fn altered(mut alter: impl FnMut(node::Builder<'_>)) -> Vec<u8> {
    let original = serialize::read_message(EVERYTHING, ReaderOptions::new()).unwrap();
    let original: code_generator_request::Reader = original.get_root().unwrap();
    let mut copy = message::Builder::new_default();
    copy.set_root::<code_generator_request::Owned>(original)
        .unwrap();
    let request: code_generator_request::Builder = copy.get_root().unwrap();
    let mut nodes = request.get_nodes().unwrap();
    for i in 0..nodes.len() {
        alter(nodes.reborrow().get(i));
    }
    serialize::write_message_to_words(&copy)
}

/// The same, for the fields of every struct.
fn altered_fields(mut alter: impl FnMut(field::Builder<'_>)) -> Vec<u8> {
    altered(|node| {
        if let Ok(node::Struct(it)) = node.which() {
            let mut fields = it.get_fields().unwrap();
            for i in 0..fields.len() {
                alter(fields.reborrow().get(i));
            }
        }
    })
}

#[test]
fn what_no_compiler_would_change_alone_is_refused_too() {
    let moved = altered_fields(|mut field| {
        if field.reborrow().get_name().unwrap() == "label"
            && let Ok(field::Slot(mut slot)) = field.which()
        {
            slot.set_offset(7);
        }
    });
    let renumbered = altered_fields(|mut field| {
        if field.reborrow().get_name().unwrap() == "circle" {
            field.set_discriminant_value(9);
        }
    });
    let retagged = altered(|node| {
        if let Ok(node::Struct(mut it)) = node.which() {
            it.set_discriminant_offset(77);
        }
    });
    for (new, expected) in [
        (
            moved,
            "Left.left: result `label` is elsewhere in the message",
        ),
        (
            renumbered,
            "Target.shape: parameter `circle` has another number in its union",
        ),
        (
            retagged,
            "Target.shape: parameter `empty` is in a union whose tag is elsewhere in the message",
        ),
    ] {
        let error = check_replaceable(EVERYTHING, &new, TARGET).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn what_is_missing_is_told_with_the_schema_that_lacks_it() {
    let ours = crate::CODE_GENERATOR_REQUEST;
    for (old, new, expected) in [
        (
            ours,
            EVERYTHING,
            "the old schema has no interface @0xe1b2c3d4e5f60713",
        ),
        (
            EVERYTHING,
            ours,
            "the new schema has no interface @0xe1b2c3d4e5f60713",
        ),
    ] {
        let error = check_replaceable(old, new, TARGET).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    // Every struct under another id.
    let lost = altered(|mut node| {
        let id = node.reborrow().get_id();
        if let Ok(node::Struct(_)) = node.reborrow().which() {
            node.set_id(!id);
        }
    });
    let error = check_replaceable(EVERYTHING, &lost, TARGET).unwrap_err();
    assert!(matches!(
        error,
        Incompatible::Missing {
            version: Version::New,
            kind: "struct",
            ..
        }
    ));
}

#[test]
fn truncated_requests_are_refused() {
    for end in (0..EVERYTHING.len()).step_by(97) {
        let part = &EVERYTHING[..end];
        for (old, new, whose) in [
            (part, EVERYTHING, Version::Old),
            (EVERYTHING, part, Version::New),
        ] {
            assert!(matches!(
                check_replaceable(old, new, TARGET),
                Err(Incompatible::Unreadable { version, .. }) if version == whose
            ));
        }
    }
}

#[test]
fn damaged_requests_do_no_harm() {
    // splitmix64: the same damage in every run.
    let mut state = 0_u64;
    let mut below = |end: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    };
    let mut compared = 0;
    for _ in 0..1500 {
        let mut cgr = EVERYTHING.to_vec();
        let words = cgr.len() / 8;
        for _ in 0..=below(4) {
            if below(2) == 0 {
                cgr[8 + below(words * 8 - 8)] = below(256) as u8;
            } else {
                // The same field of another object, or a pointer to elsewhere.
                let (from, to) = (8 * below(words), 8 + 8 * below(words - 1));
                cgr.copy_within(from..from + 8, to);
            }
        }
        for (old, new) in [(&cgr[..], EVERYTHING), (EVERYTHING, &cgr), (&cgr, &cgr)] {
            let result = check_replaceable(old, new, TARGET);
            compared += usize::from(!matches!(result, Err(Incompatible::Unreadable { .. })));
        }
    }
    assert!(
        compared > 1500,
        "only {compared} were readable: this tested little"
    );
}

#[test]
fn circles_and_depths_end() {
    // Every interface extends all, and every group is a group of itself.
    let ids = interfaces(EVERYTHING);
    let circular = altered(|mut node| {
        let id = node.reborrow().get_id();
        match node.which() {
            Ok(node::Interface(it)) => {
                let mut superclasses = it.init_superclasses(ids.len() as u32);
                for (i, id) in ids.values().enumerate() {
                    superclasses.reborrow().get(i as u32).set_id(*id);
                }
            }
            Ok(node::Struct(it)) => {
                let mut fields = it.get_fields().unwrap();
                for i in 0..fields.len() {
                    if let Ok(field::Group(mut group)) = fields.reborrow().get(i).which() {
                        group.set_type_id(id);
                    }
                }
            }
            _ => {}
        }
    });
    check_replaceable(&circular, &circular, TARGET).unwrap();
    let _ = check_replaceable(EVERYTHING, &circular, TARGET);
    let _ = check_replaceable(&circular, EVERYTHING, TARGET);

    // A struct in a struct in a struct, and so on.
    const DEPTH: u32 = 20_000;
    let mut message = message::Builder::new_default();
    let request: code_generator_request::Builder = message.init_root();
    let mut nodes = request.init_nodes(DEPTH);
    for i in 0..DEPTH {
        let mut node = nodes.reborrow().get(i);
        node.set_id(i.into());
        if i == 0 {
            let mut method = node.init_interface().init_methods(1).get(0);
            method.set_param_struct_type(1);
            method.set_result_struct_type(1);
        } else {
            let mut slot = node.init_struct().init_fields(1).get(0).init_slot();
            let ty = slot.reborrow().init_type();
            ty.init_struct().set_type_id((i % (DEPTH - 1) + 1).into());
            slot.init_default_value().init_struct();
        }
    }
    let deep = serialize::write_message_to_words(&message);
    check_replaceable(&deep, &deep, 0).unwrap();
}
