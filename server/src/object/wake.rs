//! From a database to an object that can take calls: `create`, migrations, `activate`.

use std::{future::poll_fn, pin::pin, rc::Rc, task::Poll};

use vatwerk::Code;

use super::{Context, class::Dispatch, flow::Flow, instance::Instance};
use crate::{Error, Result, fault, health::Runs, storage::Schema};

/// Runs `create`, if the object has not come into being, and `activate`.
pub(super) async fn wake(instance: &Rc<Instance>) -> Result<Rc<dyn Dispatch>> {
    let class = &instance.slot.class;
    if let Some(limit) = class.statement_limit {
        instance.storage.limit_statements(limit);
    }
    instance.storage.register_functions(class.sql_functions);
    let context = || Context::new(instance.clone());
    if !instance.storage.meta().created()? {
        instance.storage.begin_creation();
        let created = alone(instance, async {
            migrate(instance, None)?;
            class.create(context()).await.map_err(activation_failed)?;
            mark_created(instance)
        });
        if let Err(error) = created.await {
            unmake(instance)?;
            return Err(error);
        }
    }
    learn_name(instance)?;
    if let Some(due_ms) = instance.storage.alarms().next_due()? {
        // It knows, unless it was lost, or put back.
        instance
            .host
            .expect_alarm(instance.slot.database(), due_ms)?;
    }
    let activated = alone(instance, async {
        migrate(instance, Some(&context()))?;
        class.activate(context()).await.map_err(activation_failed)
    });
    let object = activated.await?;
    instance.storage.end_waking();
    Ok(Rc::from(object))
}

/// Runs code of the object by itself, in turns. If it fails, its last turn is undone.
async fn alone<T>(instance: &Instance, code: impl Future<Output = Result<T>>) -> Result<T> {
    let flow = Flow::begun(None, instance.host.chains.begin(), Runs::Waking);
    let _waking = instance.host.waking.enter(&instance.slot, flow.chain);
    let mut code = pin!(code);
    poll_fn(|cx| {
        instance.poll_turn(&flow, cx, |cx| {
            let polled = code.as_mut().poll(cx);
            if let Poll::Ready(Err(_)) = &polled {
                instance.undo_turn();
            }
            polled
        })
    })
    .await?
}

/// Undoes what a failed `create` has left: turns before its last have been committed.
pub(super) fn unmake(instance: &Instance) -> Result<()> {
    instance.undo_turn();
    let storage = &instance.storage;
    if storage.is_held_back() {
        return Ok(());
    }
    // One commit: tables that are gone must not count as migrated.
    storage.enter_turn();
    let forgotten = storage
        .delete_all()
        .and_then(|()| storage.meta().set_schema(Schema::default()));
    instance.end_turn().and(forgotten)
}

/// Marks the object as created, in the turn in which `create` ended: whatever exists has the mark.
fn mark_created(instance: &Instance) -> Result<()> {
    let (slot, storage) = (&instance.slot, &instance.storage);
    let now_ms = instance.host.clock.now_ms();
    storage
        .meta()
        .mark_created(slot.name().as_deref(), now_ms)?;
    storage.end_creation();
    Ok(())
}

/// Brings what the object has stored up to date; of a new object, for which there is no `old`, only its
/// tables.
fn migrate(instance: &Instance, old: Option<&Context>) -> Result<()> {
    let (class, storage) = (&instance.slot.class, &instance.storage);
    let current = Schema {
        migrations: class.migrations.len() as u32,
        state_version: class.state_version,
    };
    let found = storage.meta().schema()?;
    if found == current {
        return Ok(());
    }
    if found.migrations > current.migrations || found.state_version > current.state_version {
        return Err(Error::ActivationFailed(format!(
            "the object was written by a later version of class {}: it has had {} migrations and \
             state version {}, and this one knows {} and {}",
            class.name,
            found.migrations,
            found.state_version,
            current.migrations,
            current.state_version,
        )));
    }
    let limit = instance.host.limits.migration;
    let _deadline = storage.migrate_until(limit);
    let behind = class.migrations.iter().enumerate();
    for (number, sql) in behind.skip(found.migrations as usize) {
        storage.sql().exec(sql, ()).map_err(|error| {
            let (class, number) = (class.name, number + 1);
            Error::ActivationFailed(format!("migration {number} of class {class}: {error}"))
        })?;
    }
    if let Some(old) = old
        && found.state_version < current.state_version
    {
        (class.migrate)(old, found.state_version).map_err(activation_failed)?;
    }
    storage.meta().set_schema(current)
}

/// Brings together what the caller, the object and the catalog know of the object's name.
fn learn_name(instance: &Instance) -> Result<()> {
    let (slot, host, meta) = (&instance.slot, &instance.host, instance.storage.meta());
    match (slot.name(), meta.name()?) {
        (Some(_), Some(_)) => {}
        (Some(name), None) => {
            // A turn, so that the object does not keep a name that the catalog may never have had.
            instance.storage.enter_turn();
            let named = host
                .catalog
                .record(slot.class.interface_id, slot.id, Some(&name))
                .and_then(|()| meta.set_name(&name));
            instance.end_turn().and(named)?;
        }
        (None, Some(name)) => _ = slot.learn_name(&name.into()),
        (None, None) => {
            let listed = host.catalog.find(slot.class.interface_id, slot.id)?;
            if let Some(name) = listed.and_then(|listed| listed.name) {
                slot.learn_name(&name.into());
            }
        }
    }
    Ok(())
}

/// The error of an activation: an error with a code of the vat's list as it is, so that its kind survives, and
/// others, those of the class's SQL among them, as `activation-failed`.
fn activation_failed(error: capnp::Error) -> Error {
    let text = fault::coded(error).extra;
    match Code::split(&text) {
        (Some(Code::ApplicationFailed), text) => Error::ActivationFailed(text.to_owned()),
        (Some(Code::SqlRefused | Code::SqlFailed), _) => Error::ActivationFailed(text.clone()),
        (Some(code), text) => Error::Raised {
            code,
            text: text.to_owned(),
        },
        (None, text) => Error::ActivationFailed(text.to_owned()),
    }
}
