//! Whether the classes of this program fit the objects that are in the folder, and what follows.

use std::{rc::Rc, time::Instant};

use vatwerk::compat;

use super::ServeError;
use crate::{
    Result,
    catalog::{Catalog, Change, Served, reconcile},
    journal::Commits,
    object::Registry,
    storage::{Remembered, Vfs},
};

/// Enters the classes into the ledger, or refuses them.
pub(super) fn enter(
    catalog: &Catalog,
    classes: &Registry,
    retire: &[String],
) -> Result<(), ServeError> {
    let served: Vec<_> = classes
        .iter()
        .map(|class| Served {
            name: class.name,
            interface_id: class.interface_id,
            schema: class.schema,
        })
        .collect();
    let changes = reconcile(&catalog.ledger()?, &served, retire, |old, new, id| {
        compat::check_replaceable(old, new, id).map_err(|error| error.to_string())
    })?;
    for change in changes {
        match &change {
            Change::Renamed { from, class } => {
                tracing::info!(class = class.name, from, "a class has another name");
            }
            Change::PutBack(class) => tracing::info!(class = class.name, "a class is put back"),
            Change::Retired { interface_id, name } => {
                let interface = format!("{interface_id:#018x}");
                tracing::info!(class = name, interface, "a class is retired");
            }
            Change::Added(_) | Change::Changed(_) => {}
        }
        catalog.apply(&change)?;
    }
    Ok(())
}

/// Puts those alarms into the index that are not there: all of them if it was lost, and those of
/// classes that are put back.
pub(super) async fn index_alarms(
    catalog: &Catalog,
    commits: &Commits,
    vfs: &Rc<Vfs>,
) -> Result<()> {
    if !catalog.needs_alarms()? {
        return Ok(());
    }
    let started = Instant::now();
    let mut objects = 0;
    let read = |object| Ok(Remembered::of(vfs, object)?.next_alarm);
    let progress = |rebuilt: crate::catalog::Rebuilt| {
        objects = rebuilt.objects;
        tracing::debug!(rebuilt.objects, rebuilt.of, "making the index of alarms");
    };
    catalog.rebuild_alarms(commits, read, progress).await?;
    if objects > 0 {
        let took_ms = started.elapsed().as_millis() as u64;
        tracing::info!(objects, took_ms, "the index of alarms is made");
    }
    Ok(())
}
