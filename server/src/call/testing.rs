//! For tests: a capability that remembers how it was called.

use std::cell::RefCell;

use super::{Call, Target};

/// The methods that were called, in order.
#[derive(Default)]
pub struct Recorder(pub RefCell<Vec<u16>>);

impl Target for Recorder {
    fn deliver(&self, call: Call) {
        self.0.borrow_mut().push(call.method_id);
        call.reply.finish(Ok(None));
    }
}
