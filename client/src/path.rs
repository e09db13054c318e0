//! What a capability is called, so that it can be asked for again on the next connection.

use std::sync::Arc;

use vatwerk::{ObjectId, vat_capnp::class_key};

/// A class by either of its names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ClassKey {
    Name(Arc<str>),
    Interface(u64),
}

/// A namespace: a class, and the prefixes that it was narrowed to, outermost first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Space {
    pub class: ClassKey,
    pub prefixes: Arc<[Arc<str>]>,
}

/// An object in its namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Name(Arc<str>),
    Id(ObjectId),
    ExistingId(ObjectId),
}

/// The way from a session to a capability.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Path {
    Session,
    Restored(Arc<[u8]>),
    Namespace(Space),
    Object(Space, Key),
}

impl ClassKey {
    pub(crate) fn write(&self, mut key: class_key::Builder<'_>) {
        match self {
            ClassKey::Name(name) => key.set_class_name(&**name),
            ClassKey::Interface(id) => key.set_interface_id(*id),
        }
    }
}

impl Space {
    pub(crate) fn new(class: ClassKey) -> Self {
        Space {
            class,
            prefixes: Arc::new([]),
        }
    }

    /// The same class, narrowed once more.
    pub(crate) fn restrict(&self, prefix: &str) -> Self {
        let narrower = self.prefixes.iter().cloned().chain([prefix.into()]);
        Space {
            class: self.class.clone(),
            prefixes: narrower.collect(),
        }
    }
}
