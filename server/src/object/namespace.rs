//! Other objects, as an object's code reaches them.

use std::{marker::PhantomData, rc::Rc};

use capnp::capability::{self, FromClientHook};
use vatwerk::ObjectId;

use super::{class::ClassEntry, directory::Directory, instance::Instance};
use crate::Result;

/// All objects of one class. Getting one is no I/O, and stubs may be kept for as long as the
/// instance lives.
#[derive(Clone)]
pub struct Namespace<C> {
    instance: Rc<Instance>,
    class: Rc<ClassEntry>,
    client: PhantomData<C>,
}

impl<C: FromClientHook> Namespace<C> {
    pub(super) fn new(instance: Rc<Instance>, class: Rc<ClassEntry>) -> Namespace<C> {
        Namespace {
            instance,
            class,
            client: PhantomData,
        }
    }

    /// The object of that name, of 1 to 1024 bytes.
    pub fn get(&self, name: &str) -> Result<C> {
        Ok(self.stub(self.class.ids.of_name(name)?, Some(name)))
    }

    /// The object of that id. `invalid-argument` for an id of another class.
    pub fn get_by_id(&self, id: ObjectId) -> Result<C> {
        Ok(self.stub(self.class.ids.parse(id.as_bytes())?, None))
    }

    /// The id that a name stands for.
    pub fn id_from_name(&self, name: &str) -> Result<ObjectId> {
        self.class.ids.of_name(name)
    }

    /// Reads an id from its text form. `invalid-argument` for an id of another class.
    pub fn id_from_string(&self, text: &str) -> Result<ObjectId> {
        self.class.ids.parse_text(text)
    }

    /// An id that no name stands for, and nobody can guess.
    pub fn new_unique_id(&self) -> ObjectId {
        self.class.ids.unique()
    }

    fn stub(&self, id: ObjectId, name: Option<&str>) -> C {
        let directory = Directory::new(self.instance.host.clone());
        let stub: capability::Client = directory.stub(&self.class, id, name);
        C::new(self.instance.inward(stub.into_client_hook()))
    }
}
