//! A stub: one object as its callers see it, for ever.

use std::rc::Rc;

use capnp::{capability::FromClientHook, private::capability::ClientHook, traits::HasTypeId};
use vatwerk::{ObjectId, kj::http_capnp::http_service, limit_capnp, object_capnp::stub};

use super::{class::ClassEntry, event::EventTarget, host::Host};
use crate::{
    Error,
    call::{self, Call, Hook, Target},
    catalog::Saved,
    fetch::{FETCH, kj},
};

/// Names an object, not an instance of it. It answers the interface of the object's class, which
/// wakes the object, and `Stub`, which but for `fetch` does not; and `HttpService`, which is `fetch` as
/// kj calls it.
#[derive(Clone)]
pub struct Stub {
    host: Rc<Host>,
    class: Rc<ClassEntry>,
    id: ObjectId,
    name: Option<Rc<str>>,
}

impl Stub {
    /// The stub of an object, which need not be there. No I/O.
    pub(super) fn new(
        host: &Rc<Host>,
        class: &Rc<ClassEntry>,
        id: ObjectId,
        name: Option<Rc<str>>,
    ) -> Stub {
        Stub {
            host: host.clone(),
            class: class.clone(),
            id,
            name,
        }
    }

    /// A stub as a capability. No I/O.
    pub fn capability(
        host: &Rc<Host>,
        class: &Rc<ClassEntry>,
        id: ObjectId,
        name: Option<&str>,
    ) -> Box<dyn ClientHook> {
        let stub = Stub::new(host, class, id, name.map(Rc::from));
        Box::new(Hook(Rc::new(stub)))
    }

    /// Queues a call for the object, which wakes it.
    pub(super) fn deliver_to(&self, target: EventTarget, call: Call) {
        let name = self.name.as_ref();
        self.host.deliver(&self.class, self.id, name, target, call);
    }
}

impl Target for Stub {
    fn deliver(&self, call: Call) {
        let call = if call.interface_id == http_service::Client::TYPE_ID {
            let Some(call) = kj::as_fetch(call) else {
                return;
            };
            call
        } else {
            call
        };
        if call.interface_id == stub::Client::TYPE_ID {
            if call.method_id == FETCH {
                let name = self.name.as_ref();
                return self.host.fetch(&self.class, self.id, name, call);
            }
            let own: stub::Client = call::serve(self.clone());
            return call.forward_to(own.as_client_hook());
        }
        self.deliver_to(EventTarget::Object, call);
    }
}

/// What the vat itself answers.
impl stub::Server for Stub {
    async fn identify(
        self: Rc<Self>,
        _: stub::IdentifyParams,
        mut results: stub::IdentifyResults,
    ) -> capnp::Result<()> {
        let known = match &self.name {
            Some(name) => Some(name.to_string()),
            None => self
                .host
                .catalog
                .find(self.class.interface_id, self.id)?
                .and_then(|listed| listed.name),
        };
        self.host.catalog_is_durable().await?;
        let mut results = results.get();
        results.set_id(self.id.as_bytes());
        results.set_object_name(known.unwrap_or_default());
        results.set_class_name(self.class.name);
        results.set_interface_id(self.class.interface_id);
        Ok(())
    }

    async fn persist(
        self: Rc<Self>,
        params: stub::PersistParams,
        mut results: stub::PersistResults,
    ) -> capnp::Result<()> {
        let label = params.get()?.get_label()?.to_str()?;
        let limit = limit_capnp::MAX_NAME_BYTES.into();
        Error::check_limit("a label (bytes)", limit, label.len() as u64)?;
        let saved = Saved {
            class: self.class.interface_id,
            id: self.id,
            name: self.name.as_deref().map(str::to_owned),
        };
        let reference = self.host.catalog.save(&saved, label)?;
        self.host.catalog_is_durable().await?;
        results.get().set_sturdy_ref(&reference);
        Ok(())
    }
}
