//! Requests that nobody means well with. A test passes when nothing panics, overflows the stack or
//! takes for ever.

use capnp::{
    any_pointer,
    message::{self, ReaderOptions},
    schema_capnp::{code_generator_request, field, node, type_},
    serialize,
};
use serde_json::{Value, json};

use super::{EVERYTHING, TARGET, everything, target, trip};
use crate::json::{Int64, Problem, SchemaError, Schemas, merge};

/// splitmix64: the same mutations in every run.
pub(super) struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Damages some bytes, more often than not in a way that keeps the rest readable.
    pub(super) fn mutate(&mut self, bytes: &mut [u8]) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(4) {
                0 => bytes[at] = self.next() as u8,
                1 => bytes[at] ^= 1 << self.below(8),
                2 => {
                    // The same field of another object, or a pointer to elsewhere.
                    let words = bytes.len() / 8;
                    let (from, to) = (self.below(words) * 8, self.below(words) * 8);
                    bytes.copy_within(from..from + 8, to);
                }
                _ => {
                    let at = at & !1;
                    let few = [0, 1, 2, 0x7fff, 0xffff][self.below(5)] as u16;
                    if let Some(bytes) = bytes.get_mut(at..at + 2) {
                        bytes.copy_from_slice(&few.to_le_bytes());
                    }
                }
            }
        }
    }
}

/// Messages are small here, and a list of nothing must not make them large.
pub(super) fn limited() -> ReaderOptions {
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(Some(20_000));
    options
}

/// Parameters for every method of [`TARGET`], as JSON and as a message of the schema as it was.
fn samples() -> Vec<(&'static str, Value, Vec<u8>)> {
    let schemas = everything();
    [
        ("scalars", json!({ "int64": 1, "text": "t", "data": "AA==", "color": "blue", "bool": true })),
        ("defaults", json!({ "bool": false, "numbers": [1], "points": [{ "x": 1 }], "color": "red" })),
        ("shape", json!({ "rectangle": { "width": 1 }, "fill": { "pattern": "p" } })),
        ("lists", json!({
            "voids": [null], "bools": [true, false], "int64s": [1, 2], "texts": ["a"], "datas": [""],
            "points": [{}, { "label": "l" }], "shapes": [{ "circle": 1 }], "matrix": [[1], [2]],
            "words": [[["w"]]], "grid": [[{ "y": 1 }]], "empties": [{}, {}], "colors": ["red"],
        })),
        ("chain", json!({ "value": 1, "next": { "next": { "value": 3 } } })),
        ("caps", json!({ "inner": { "point": {} } })),
        ("mixed", json!({ "shape": { "corner": {} }, "points": [{ "x": 1 }], "n": 1 })),
        ("second", json!({ "point": { "label": "" }, "numbers": [3] })),
    ]
    .into_iter()
    .map(|(name, params)| {
        let mut message = message::Builder::new_default();
        schemas
            .write_params(&target(&schemas, name), &params, message.init_root())
            .unwrap();
        (name, params, serialize::write_message_to_words(&message))
    })
    .collect()
}

/// Does with a schema what a gateway would.
fn exercise(schemas: &Schemas, samples: &[(&str, Value, Vec<u8>)]) {
    for interface in schemas.interfaces() {
        schemas.answers(interface.id());
        for method in interface.methods() {
            schemas.signature(&method);
            for (name, params, message) in samples {
                if method.name == *name || method.name.len() != name.len() {
                    let mut written = message::Builder::new_default();
                    let _ = schemas.write_params(&method, params, written.init_root());
                    let message = serialize::read_message(&message[..], limited()).unwrap();
                    let root = message.get_root::<any_pointer::Reader>().unwrap();
                    if let Ok(read) = schemas.read_results(&method, root, Int64::Number) {
                        let mut written = message::Builder::new_default();
                        let _ = schemas.write_params(&method, &read, written.init_root());
                    }
                }
            }
        }
    }
    for constant in schemas.constants() {
        let _ = constant;
    }
}

#[test]
fn damaged_requests_do_no_harm() {
    let samples = samples();
    let mut loaded = 0;
    for seed in 0..4000 {
        let mut random = Random(seed);
        let mut cgr = EVERYTHING.to_vec();
        random.mutate(&mut cgr[8..]);
        let _ = merge(&[&cgr, EVERYTHING]);
        if let Ok(schemas) = Schemas::load(&cgr) {
            loaded += 1;
            exercise(&schemas, &samples);
        }
    }
    assert!(
        loaded > 1000,
        "only {loaded} were readable: this tested little"
    );
}

#[test]
fn truncated_requests_are_refused() {
    for end in (0..EVERYTHING.len()).step_by(7) {
        assert!(Schemas::load(&EVERYTHING[..end]).is_err());
    }
}

#[test]
fn damaged_results_do_no_harm() {
    let schemas = everything();
    let samples = samples();
    let mut read = 0;
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let (name, _, bytes) = &samples[random.below(samples.len())];
        let mut bytes = bytes.clone();
        random.mutate(&mut bytes[8..]);
        let Ok(message) = serialize::read_message(&bytes[..], limited()) else {
            continue;
        };
        let root = message.get_root::<any_pointer::Reader>().unwrap();
        read += usize::from(
            schemas
                .read_results(&target(&schemas, name), root, Int64::Number)
                .is_ok(),
        );
    }
    assert!(read > 5000, "only {read} were readable: this tested little");
}

/// The request with one thing changed in every node.
fn altered(mut alter: impl FnMut(node::Builder<'_>)) -> Schemas {
    let original = serialize::read_message(EVERYTHING, ReaderOptions::new()).unwrap();
    let mut copy = message::Builder::new_default();
    copy.set_root::<code_generator_request::Owned>(
        original
            .get_root::<code_generator_request::Reader>()
            .unwrap(),
    )
    .unwrap();
    let request: code_generator_request::Builder = copy.get_root().unwrap();
    let mut nodes = request.get_nodes().unwrap();
    for i in 0..nodes.len() {
        alter(nodes.reborrow().get(i));
    }
    Schemas::load(&serialize::write_message_to_words(&copy)).unwrap()
}

fn fields(node: node::Builder<'_>, mut alter: impl FnMut(field::Builder<'_>)) {
    if let Ok(node::Struct(it)) = node.which() {
        let mut fields = it.get_fields().unwrap();
        for i in 0..fields.len() {
            alter(fields.reborrow().get(i));
        }
    }
}

#[test]
fn offsets_outside_of_a_struct_are_refused() {
    for offset in [3, 1000, 1 << 16, 1 << 29, u32::MAX] {
        let schemas = altered(|node| {
            fields(node, |field| {
                if let Ok(field::Slot(mut slot)) = field.which() {
                    slot.set_offset(offset);
                }
            });
        });
        exercise(&schemas, &samples());
        if offset > 3 {
            let method = target(&schemas, "scalars");
            for params in [
                json!({ "bool": true }),
                json!({ "int64": 1 }),
                json!({ "text": "t" }),
            ] {
                let error = trip(&schemas, &method, &params).unwrap_err();
                assert!(matches!(error.problem(), Problem::Schema(_)), "{error}");
            }
        }
        let schemas = altered(|node| {
            if let Ok(node::Struct(mut it)) = node.which() {
                it.set_discriminant_offset(offset);
            }
        });
        exercise(&schemas, &samples());
        let schemas = altered(|node| {
            if let Ok(node::Struct(mut it)) = node.which() {
                it.set_data_word_count(0);
                it.set_pointer_count(0);
            }
        });
        exercise(&schemas, &samples());
    }
}

#[test]
fn huge_structs_meet_a_limit() {
    let schemas = altered(|node| {
        if let Ok(node::Struct(mut it)) = node.which() {
            it.set_data_word_count(u16::MAX);
            it.set_pointer_count(u16::MAX);
        }
    });
    let points = vec![json!({}); 100];
    let error = trip(
        &schemas,
        &target(&schemas, "lists"),
        &json!({ "points": points }),
    );
    assert!(matches!(
        error.unwrap_err().problem(),
        Problem::LimitExceeded("MAX_PARAMS_BYTES")
    ));
}

#[test]
fn cycles_end() {
    // Every interface extends all interfaces, and every group is a group of itself.
    let interfaces: Vec<u64> = everything().interfaces().map(|it| it.id()).collect();
    let mut groups = 0;
    let schemas = altered(|mut node| {
        let id = node.reborrow().get_id();
        if let Ok(node::Interface(it)) = node.reborrow().which() {
            let mut supers = it.init_superclasses(interfaces.len() as u32);
            for (i, id) in interfaces.iter().enumerate() {
                supers.reborrow().get(i as u32).set_id(*id);
            }
            return;
        }
        fields(node, |field| {
            if let Ok(field::Group(mut group)) = field.which() {
                group.set_type_id(id);
                groups += 1;
            }
        });
    });
    assert!(groups > 0);
    assert_eq!(schemas.answers(TARGET).len(), interfaces.len());
    exercise(&schemas, &samples());
    let error = trip(&schemas, &target(&schemas, "shape"), &json!({})).unwrap_err();
    assert!(
        matches!(error.problem(), Problem::LimitExceeded(_)),
        "{error}"
    );
}

#[test]
fn deep_types_are_refused() {
    let mut message = message::Builder::new_default();
    let request: code_generator_request::Builder = message.init_root();
    let it = request.init_nodes(1).get(0).init_const();
    let mut ty: type_::Builder = it.init_type();
    for _ in 0..100_000 {
        ty = ty.init_list().init_element_type();
    }
    let bytes = serialize::write_message_to_words(&message);
    assert!(matches!(
        Schemas::load(&bytes),
        Err(SchemaError::Message(_))
    ));
}

#[test]
fn lists_of_nothing_are_not_free() {
    // A message of four words that claims 2^29 - 1 elements.
    let schemas = everything();
    let mut message = message::Builder::new_default();
    schemas
        .write_params(
            &target(&schemas, "lists"),
            &json!({ "voids": [null] }),
            message.init_root(),
        )
        .unwrap();
    let mut bytes = serialize::write_message_to_words(&message);
    // The list pointer: the only word with 1 in its low bits, and one element.
    let at = bytes
        .chunks(8)
        .position(|word| word[0] & 3 == 1 && word[4] == 8)
        .unwrap()
        * 8;
    bytes[at + 4..at + 8].copy_from_slice(&0xffff_fff8_u32.to_le_bytes());
    let message = serialize::read_message(&bytes[..], ReaderOptions::new()).unwrap();
    let error = schemas
        .read_results(
            &target(&schemas, "lists"),
            message.get_root().unwrap(),
            Int64::Number,
        )
        .unwrap_err();
    assert!(matches!(
        error.problem(),
        Problem::LimitExceeded("MAX_JSON_BYTES") | Problem::Message(_)
    ));
}
