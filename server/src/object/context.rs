//! What an object's code holds: its storage, its identity, and the way to other objects.

use std::rc::Rc;

use capnp::{capability::FromClientHook, traits::HasTypeId};
use vatwerk::ObjectId;

use super::{gate::SectionId, instance::Instance, namespace::Namespace, stub::Stub};
use crate::{Error, Result, storage::Storage};

/// One object, as its own code sees it. Cheap to clone. It belongs to one instance: when that is
/// gone, everything asked of it fails with `object-reset`.
#[derive(Clone)]
pub struct Context(Rc<Instance>);

impl Context {
    pub(super) fn new(instance: Rc<Instance>) -> Context {
        Context(instance)
    }

    /// The object's id.
    pub fn id(&self) -> ObjectId {
        self.0.slot.id
    }

    /// The object's name, if it was made by name, or has ever been reached by it.
    pub fn name(&self) -> Option<Rc<str>> {
        self.0.slot.name()
    }

    /// The object's storage. Synchronous: nothing else of the object runs meanwhile.
    pub fn storage(&self) -> &Storage {
        &self.0.storage
    }

    /// All objects of the class whose interface is `C`. `not-found` if the vat does not serve it.
    pub fn namespace<C: FromClientHook + HasTypeId>(&self) -> Result<Namespace<C>> {
        let class = self.0.host.classes.by_interface(C::TYPE_ID)?;
        Ok(Namespace::new(self.0.clone(), class.clone()))
    }

    /// All objects of the class of that name, to be cast to the interface that they answer.
    pub fn namespace_named(&self, name: &str) -> Result<Namespace<capnp::capability::Client>> {
        let class = self.0.host.classes.by_name(name)?;
        Ok(Namespace::new(self.0.clone(), class.clone()))
    }

    /// The object's own stub, to be passed to others or called like anybody's.
    pub fn stub<C: FromClientHook>(&self) -> C {
        let slot = &self.0.slot;
        let stub = Stub::capability(&self.0.host, &slot.class, slot.id, slot.name().as_deref());
        C::new(self.0.inward(stub))
    }

    /// A value of that type that the embedding program gave to its classes, with
    /// `Server::binding`.
    pub fn binding<T: 'static>(&self) -> Option<Rc<T>> {
        let binding = self.0.host.bindings.get(&std::any::TypeId::of::<T>())?;
        binding.clone().downcast().ok()
    }

    /// Ends the instance after this turn: calls in flight get `object-reset`, and the next call
    /// wakes the object from what is on disk. The turn itself is undone, and so is what it said.
    pub fn abort(&self, reason: &str) {
        self.0
            .break_off(Error::ObjectReset(format!("the object aborted: {reason}")));
    }

    /// Holds back all other events of the object from now on, until the section is dropped. What
    /// the event at hand hands out may still be called. `None` inside a section.
    pub(crate) fn open_section(&self) -> Option<Section> {
        Some(Section {
            id: self.0.open_section()?,
            instance: self.0.clone(),
        })
    }

    /// How long a transaction capability may stay open.
    pub(crate) fn transaction_limit(&self) -> std::time::Duration {
        self.0.host.limits.transaction
    }
}

/// While it lives, events that are not part of it wait.
pub(crate) struct Section {
    id: SectionId,
    instance: Rc<Instance>,
}

impl Drop for Section {
    fn drop(&mut self) {
        self.instance.sections.close(self.id);
        self.instance.slot.wake();
    }
}
