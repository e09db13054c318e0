//! A facet: one more capability of an object that names the object, as its stub does.

use std::rc::Rc;

use capnp::private::capability::ClientHook;

use super::{event::EventTarget, stub::Stub};
use crate::call::{Call, Hook, Target};

/// Names an object and one of its facets, not an instance. A call is an event of the object: it wakes the
/// object, and the instance that is there then serves it, by [`Class::facet`](super::Class::facet).
/// Holding a facet does not keep the object awake.
pub(super) struct Facet {
    object: Stub,
    name: Rc<str>,
}

impl Facet {
    /// The facet of that name as a capability. No I/O.
    pub fn capability(object: Stub, name: &str) -> Box<dyn ClientHook> {
        let name = name.into();
        Box::new(Hook(Rc::new(Facet { object, name })))
    }
}

impl Target for Facet {
    fn deliver(&self, call: Call) {
        self.object
            .deliver_to(EventTarget::Facet(self.name.clone()), call);
    }
}
