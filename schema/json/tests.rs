use capnp::{any_pointer, message, serialize};
use serde_json::Value;

use super::{JsonError, Method, Schemas};

mod hostile;
mod reflect;
mod values;
mod wire;

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
    schemas.write_params(method, params, sent.init_root())?;
    let bytes = serialize::write_message_to_words(&sent);
    let received = serialize::read_message(&bytes[..], message::ReaderOptions::new()).unwrap();
    schemas.read_results(method, received.get_root::<any_pointer::Reader>().unwrap())
}
