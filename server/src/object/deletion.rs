//! The end of an object, for good.

use std::rc::Rc;

use futures::channel::oneshot;
use tokio::time::timeout;

use super::{gate::COMMIT_LIMIT, host::Host, slot::Slot};
use crate::{
    Error, Result,
    journal::Lsn,
    storage::{Backing, Storage},
};

/// Tells who asked for a deletion whether there was anything to delete.
pub(super) type Deleted = oneshot::Sender<Result<bool>>;

/// Deletes the object of a slot that has no instance. Calls that wait in the slot are for the object that
/// comes into being with them.
pub(super) async fn delete(host: &Rc<Host>, slot: &Rc<Slot>, tell: Vec<Deleted>) {
    let reset = Error::ObjectReset("the object was deleted".into());
    host.sockets.reset(slot.id);
    slot.refuse_socket_events(&reset);
    let deleted = timeout(COMMIT_LIMIT, delete_database(host, slot))
        .await
        .unwrap_or_else(|_| {
            Err(Error::OutcomeUnknown(
                "the end of the object is not on disk yet, and may get there".into(),
            ))
        });
    match &deleted {
        Ok(_) => slot.silence(),
        Err(error) => host.tell_failed(slot, "an object is not deleted", error),
    }
    for tell in tell {
        // A client that has hung up does not want to know.
        let _ = tell.send(deleted.clone());
    }
}

/// Deletes the database, the row in the catalog and the alarm: in this order, so that whatever exists
/// is listed.
async fn delete_database(host: &Host, slot: &Slot) -> Result<bool> {
    let object = slot.database();
    let listed = host.catalog.find(object.class, object.object)?.is_some();
    let backing = Backing::open(&host.vfs, object)?;
    let failures = host.catalog.failures();
    let existed = backing.exists();
    host.notes.erase(object);
    let is_there = existed || listed;
    if is_there {
        // Else, after a crash between these, it would be missed.
        host.catalog.forget_written(object)?;
    }
    let end = is_there.then(|| backing.delete(failures)).transpose()?;
    host.catalog.remove(object, failures)?;
    host.catalog_is_durable().await?;
    if let Some(end) = end {
        host.commits.durable(end).await?;
        backing.forget(end)?;
    }
    Ok(listed || existed)
}

/// Deletes what is there of an object, in its last turn, whose writes are undone: as [`delete_database`] does,
/// but for waiting. Returns the commit with which the object is gone.
pub(super) fn end(host: &Host, slot: &Slot, storage: &Storage) -> Result<Lsn> {
    if storage.is_unborn() {
        let newest = storage.newest();
        return storage.close().map(|()| newest);
    }
    let object = slot.database();
    let failures = storage.failures();
    host.catalog.forget_written(object)?;
    storage.close()?;
    let backing = Backing::open(&host.vfs, object)?;
    host.notes.erase(object);
    let end = backing.delete(failures)?;
    host.catalog.remove(object, failures)?;
    Ok(end.max(host.catalog.newest()))
}

/// Removes the file of an object that has deleted itself, when the commit at `end` is durable.
pub(super) async fn carry_out(host: &Host, slot: &Slot, end: Lsn) {
    let removed = async {
        host.commits.durable(end).await?;
        // Whoever opens a database that has ended removes its file.
        Backing::open(&host.vfs, slot.database()).map(drop)
    };
    match timeout(COMMIT_LIMIT, removed).await {
        Ok(Ok(())) => slot.silence(),
        Ok(Err(error)) => {
            host.tell_failed(slot, "an object that deleted itself is not gone", &error)
        }
        // The next instance cannot begin before that.
        Err(_) => {}
    }
}

/// Removes what there is of an object that did not come into being: earlier turns of its `create` may have
/// written to its database, and a crash, or a commit that failed, may have left it listed.
pub(super) async fn discard(host: &Host, slot: &Slot) {
    #[cfg(any(test, feature = "testing"))]
    host.panic_once(super::testing::Sabotage::PanicInDiscard);
    let removed = async {
        let object = slot.database();
        let backing = Backing::open(&host.vfs, object)?;
        let failures = host.catalog.failures();
        if backing.exists() {
            let end = backing.delete(failures)?;
            host.commits.durable(end).await?;
            backing.forget(end)?;
        }
        if host.catalog.find(object.class, object.object)?.is_some() {
            host.catalog.remove(object, failures)?;
        }
        Ok(())
    };
    if let Ok(Err(error)) = timeout(COMMIT_LIMIT, removed).await {
        let what = "what there is of an object that did not come into being is not removed";
        host.tell_failed(slot, what, &error);
    }
}
