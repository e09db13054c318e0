//! What the tests share: vats that can be stopped, crashed and started again, connections that show
//! the wire, and a class that does what it is told.

pub mod cell;
pub mod clockwork;
mod controls;
pub mod disk;
mod harness;
pub mod log;
mod probe;
pub mod puppet;
mod script;
mod wire;

pub use controls::{Controls, Hook, Mood};
pub use harness::{TestVat, run, run_paused, settle};
pub use probe::{Probe, SCHEMA};
pub use script::{Do, Ear, cap_of, run as tell, said, send};
pub use wire::{Proxy, Wire};

use capnp::traits::HasTypeId;
use send_wrapper::SendWrapper;
use vatwerk::Code;
use vatwerk_client::ObjectStatus;

/// Makes clones of a value that lives on the thread of its test, for a vat on the same thread.
pub fn on_this_thread<T: Clone + 'static>(
    value: T,
) -> impl Fn() -> T + Clone + Send + Sync + 'static {
    let value = SendWrapper::new(value);
    move || T::clone(&value)
}

/// The status of an object, as an operator sees it.
pub async fn show<C: HasTypeId>(
    vat: &vatwerk_server::testing::TestVat,
    name: &str,
) -> ObjectStatus {
    let mut request = vat.session().namespace_request();
    request.get().init_key().set_interface_id(C::TYPE_ID);
    let mut request = request.send().pipeline.get_namespace().show_request();
    request.get().init_key().set_object_name(name);
    let answer = request.send().promise.await.unwrap();
    ObjectStatus::read(answer.get().unwrap().get_status().unwrap()).unwrap()
}

/// The code of an error that came over the wire, and its kind.
#[track_caller]
pub fn code<T>(result: capnp::Result<T>) -> Code {
    match result {
        Ok(_) => panic!("the call should have failed"),
        Err(error) => {
            let (code, _) = Code::split(&error.extra);
            let code = code.unwrap_or_else(|| panic!("no code in `{}`", error.extra));
            assert_eq!(
                error.kind,
                code.kind(),
                "the kind follows the code: {error}"
            );
            code
        }
    }
}
