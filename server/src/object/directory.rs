//! The way to all objects of a vat: what sessions, the HTTP listener and other objects know of it.

use std::rc::Rc;

use capnp::{
    any_pointer,
    capability::{FromClientHook, Promise, Response},
};
use vatwerk::ObjectId;

use super::{class::ClassEntry, host::Host, slot::Status, stub::Stub};
use crate::{
    Error, Result,
    call::{Call, Message, Reply, Target},
    catalog::{After, AlarmEntry, Listed, Saved},
    folder::DatabaseId,
    metrics::Metrics,
};

/// Gives stubs of objects, and answers what is asked of objects from outside. What it says of them is
/// durable. Cheap to clone.
///
/// Everything but making a stub is asynchronous, so that objects may live on other threads.
#[derive(Clone)]
pub struct Directory(Rc<Host>);

/// An object as an operator sees it.
pub struct Seen {
    /// What a listing says, if it has come into being.
    pub listed: Option<Listed>,
    /// What it does at the moment.
    pub status: Status,
    /// When its earliest alarm is due, in milliseconds since 1970, if it has any.
    pub alarm_ms: Option<i64>,
    /// How long its file is, in bytes; 0 if there is none.
    pub file_bytes: u64,
}

impl Directory {
    /// The directory of the objects of `host`.
    pub fn new(host: Rc<Host>) -> Directory {
        Directory(host)
    }

    /// The class of that name. `not-found` if the vat does not serve it.
    pub fn class_by_name(&self, name: &str) -> Result<Rc<ClassEntry>> {
        self.0.classes.by_name(name).cloned()
    }

    /// The class whose name is this one in small letters, if the vat serves it.
    pub fn class_by_label(&self, label: &str) -> Option<Rc<ClassEntry>> {
        let is_it = |class: &&Rc<ClassEntry>| class.name.eq_ignore_ascii_case(label);
        self.0.classes.iter().find(is_it).cloned()
    }

    /// The class with that interface. `not-found` if the vat does not serve it.
    pub fn class_by_interface(&self, interface_id: u64) -> Result<Rc<ClassEntry>> {
        self.0.classes.by_interface(interface_id).cloned()
    }

    /// The numbers of the vat.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Whether the log is to be told of a failure of that object, or, with `None`, of the vat: `Some` if the
    /// same was not told within the last minute, with how often it has happened since. `reason` is the error
    /// as it leaves the vat, without the mark of its delivery.
    pub fn is_news(&self, object: Option<ObjectId>, reason: &str) -> Option<u64> {
        self.0.is_news(object, reason)
    }

    /// A stub of an object. No I/O.
    pub fn stub<C: FromClientHook>(
        &self,
        class: &Rc<ClassEntry>,
        id: ObjectId,
        name: Option<&str>,
    ) -> C {
        C::new(Stub::capability(&self.0, class, id, name))
    }

    /// A stub of the object of that name, of 1 to 1,024 bytes.
    pub fn stub_of_name<C: FromClientHook>(&self, class: &Rc<ClassEntry>, name: &str) -> Result<C> {
        let id = class.ids.of_name(name)?;
        Ok(self.stub(class, id, Some(name)))
    }

    /// Calls the object of that name, of 1 to 1,024 bytes. The parameters are handed over, not copied.
    pub fn call(
        &self,
        class: &Rc<ClassEntry>,
        name: &str,
        method: (u64, u16),
        params: Message,
    ) -> Result<Promise<Response<any_pointer::Owned>, capnp::Error>> {
        let id = class.ids.of_name(name)?;
        let stub = Stub::new(&self.0, class, id, Some(name.into()));
        let (reply, sent) = Reply::local();
        let (interface_id, method_id) = method;
        let params = Box::new(params);
        stub.deliver(Call::sending(interface_id, method_id, params, reply));
        Ok(sent.promise)
    }

    /// The classes, ordered by name, and how many objects each has.
    pub async fn classes(&self) -> Result<Vec<(Rc<ClassEntry>, u64)>> {
        let Host {
            classes, catalog, ..
        } = &*self.0;
        let mut counted = Vec::new();
        for class in classes.iter() {
            counted.push((class.clone(), catalog.count(class.interface_id)?));
        }
        counted.sort_unstable_by_key(|(class, _)| class.name);
        self.0.catalog_is_durable().await?;
        Ok(counted)
    }

    /// How many objects are awake.
    pub async fn resident(&self) -> u64 {
        self.0.resident() as u64
    }

    /// What a listing says of an object, if it has come into being.
    pub async fn find(&self, class: &ClassEntry, id: ObjectId) -> Result<Option<Listed>> {
        let listed = self.0.catalog.find(class.interface_id, id)?;
        self.0.catalog_is_durable().await?;
        Ok(listed)
    }

    /// At most `limit` objects whose names start with `prefix`, after that one.
    pub async fn list(
        &self,
        class: &ClassEntry,
        prefix: &str,
        after: &After,
        limit: u32,
    ) -> Result<Vec<Listed>> {
        self.0.write_notes()?;
        let catalog = &self.0.catalog;
        let page = catalog.list(class.interface_id, prefix, after, limit)?;
        self.0.catalog_is_durable().await?;
        Ok(page)
    }

    /// How many objects have names that start with `prefix`.
    pub async fn count(&self, class: &ClassEntry, prefix: &str) -> Result<u64> {
        let count = self.0.catalog.count_prefix(class.interface_id, prefix)?;
        self.0.catalog_is_durable().await?;
        Ok(count)
    }

    /// What an object looks like at the moment. Does not wake it.
    pub async fn look(&self, class: &ClassEntry, id: ObjectId) -> Result<Seen> {
        let object = DatabaseId {
            class: class.interface_id,
            object: id,
        };
        self.0.write_notes()?;
        let file_bytes = self.0.vfs.journal().databases().file_bytes(object);
        let unread = |error| Error::StorageFailed(format!("the file of the object: {error}"));
        let seen = Seen {
            file_bytes: file_bytes.map_err(unread)?,
            listed: self.0.catalog.find(object.class, id)?,
            alarm_ms: self.0.catalog.alarm_of(object)?,
            status: self.0.status(id),
        };
        self.0.catalog_is_durable().await?;
        Ok(seen)
    }

    /// Deletes an object for good; returns whether there was anything.
    pub async fn delete(&self, class: &Rc<ClassEntry>, id: ObjectId) -> Result<bool> {
        self.0.delete(class, id).await
    }

    /// Ends the instance of an object, whatever it is doing; returns whether there was one.
    pub async fn reset(&self, id: ObjectId) -> Result<bool> {
        Ok(self.0.reset(id).await)
    }

    /// At most `limit` objects that have alarms, in the order in which the earliest of each is due.
    pub async fn alarms(
        &self,
        after: Option<(i64, DatabaseId)>,
        limit: u32,
    ) -> Result<Vec<AlarmEntry>> {
        self.0.write_notes()?;
        let page = self.0.catalog.alarms(after, limit)?;
        self.0.catalog_is_durable().await?;
        Ok(page)
    }

    /// What was saved as these bytes, if it has not been forgotten.
    pub async fn saved(&self, reference: &[u8]) -> Result<Option<Saved>> {
        let saved = self.0.catalog.saved(reference)?;
        self.0.catalog_is_durable().await?;
        Ok(saved)
    }

    /// Makes saved bytes worthless; returns whether they were good.
    pub async fn forget(&self, reference: &[u8]) -> Result<bool> {
        let existed = self.0.catalog.forget(reference)?;
        self.0.catalog_is_durable().await?;
        Ok(existed)
    }
}
