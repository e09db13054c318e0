use capnp::{any_pointer, message, serialize};
use serde_json::Value;

use super::{Int64, JsonError, Method, Schemas};

mod annotations;
mod hostile;
mod reflect;
mod values;
mod wire;

use hostile::Random;

const EVERYTHING: &[u8] = include_bytes!("testdata/everything.cgr");
const TARGET: u64 = 0xe1b2_c3d4_e5f6_0713;

fn everything() -> Schemas {
    Schemas::load(EVERYTHING).unwrap()
}

fn ours() -> Schemas {
    Schemas::load(crate::CODE_GENERATOR_REQUEST).unwrap()
}

fn target(schemas: &Schemas, method: &str) -> Method {
    schemas.method(TARGET, method).unwrap()
}

/// Writes parameters, sends them through bytes, and reads them as results.
fn trip(schemas: &Schemas, method: &Method, params: &Value) -> Result<Value, JsonError> {
    let mut sent = message::Builder::new_default();
    let written = schemas.write_params(method, params, sent.init_root());
    if params.is_object() {
        same_as_text(schemas, method, params, &written, &sent);
    }
    written?;
    let bytes = serialize::write_message_to_words(&sent);
    let received = serialize::read_message(&bytes[..], message::ReaderOptions::new()).unwrap();
    let results = || received.get_root::<any_pointer::Reader>().unwrap();
    let read = schemas.read_results(method, results(), Int64::Number);
    // As text it is the same.
    match (
        &read,
        schemas.results_text(method, results(), Int64::Number, usize::MAX),
    ) {
        (Ok(value), Ok(text)) => {
            assert_eq!(text, value.to_string());
            let exactly = schemas.results_text(method, results(), Int64::Number, text.len());
            assert_eq!(exactly.unwrap(), text);
            let shorter = schemas.results_text(method, results(), Int64::Number, text.len() - 1);
            let problem = shorter.unwrap_err().problem().clone();
            assert!(matches!(problem, super::Problem::LongText(_)), "{problem}");
        }
        (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string()),
        (one, other) => panic!("{one:?}, {other:?}"),
    }
    read
}

/// Sees to it that text is written, or refused, as a tree of its values is.
fn same_as_text(
    schemas: &Schemas,
    method: &Method,
    params: &Value,
    written: &Result<(), JsonError>,
    sent: &message::Builder<message::HeapAllocator>,
) {
    let mut of_text = message::Builder::new_default();
    let text = params.to_string();
    let done = schemas.write_text(method.params, &text, of_text.init_root());
    match (written, done) {
        (Ok(()), Ok(())) => assert!(
            serialize::write_message_to_words(sent) == serialize::write_message_to_words(&of_text),
            "{text}"
        ),
        (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string()),
        (one, other) => panic!("{text}: {one:?}, {other:?}"),
    }
}
