//! A transaction as a capability.

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
};

use tokio_util::task::AbortOnDropHandle;
use vatwerk::storage_capnp::{sql, transaction};

use super::{
    cell::{Scope, Service},
    sql::SqlService,
};
use crate::{
    Context, Error, Result,
    object::{KeepAwake, Section},
    storage::{HeldTransaction, Kv, Sql},
};

/// A transaction that a caller holds. Dropped, it rolls back.
pub(super) struct Open {
    ctx: Context,
    held: HeldTransaction,
    /// While it is there, other events of the object wait, and the object stays awake. A nested one is in
    /// its parent's.
    section: RefCell<Option<(Section, KeepAwake)>>,
    _deadline: Option<AbortOnDropHandle<()>>,
}

/// Opens a transaction on the object's storage. Everything else on the object waits until it ends,
/// or has been open for too long.
pub(super) fn open(ctx: &Context) -> Result<transaction::Client> {
    let section = ctx
        .open_section()
        .ok_or_else(|| Error::InvalidArgument("the caller is in a transaction already".into()))?;
    let held = ctx.storage().begin_held()?;
    let limit = ctx.transaction_limit();
    let service = Rc::new_cyclic(|this: &Weak<Service<Open>>| {
        let this = this.clone();
        let deadline = tokio::task::spawn_local(async move {
            tokio::time::sleep(limit).await;
            expire(&this);
        });
        let deadline = Some(AbortOnDropHandle::new(deadline));
        Service(Open {
            ctx: ctx.clone(),
            held,
            section: RefCell::new(Some((section, ctx.keep_awake()))),
            _deadline: deadline,
        })
    });
    Ok(ctx.lend(capnp_rpc::new_client_from_rc(service)))
}

/// Rolls back a transaction whose time is over.
fn expire(service: &Weak<Service<Open>>) {
    if let Some(service) = service.upgrade() {
        // If it has ended already, so much the better.
        let _ = service.0.end(HeldTransaction::rollback);
    }
}

impl Open {
    fn end(&self, how: impl FnOnce(&HeldTransaction) -> Result<()>) -> Result<()> {
        let outcome = how(&self.held);
        if !self.held.is_open() {
            self.section.take();
        }
        outcome
    }
}

impl Scope for Open {
    fn kv(&self) -> Kv {
        self.held.kv()
    }

    fn sql(&self) -> Sql {
        self.held.sql()
    }

    fn transaction(&self) -> Result<transaction::Client> {
        let held = self.held.begin_nested()?;
        let nested: transaction::Client = capnp_rpc::new_client(Service(Open {
            ctx: self.ctx.clone(),
            held,
            section: RefCell::default(),
            _deadline: None,
        }));
        Ok(self.ctx.lend(nested))
    }

    fn context(&self) -> &Context {
        &self.ctx
    }

    fn sql_of(service: Rc<Service<Open>>) -> sql::Client {
        let ctx = service.0.ctx.clone();
        ctx.lend(capnp_rpc::new_client(SqlService(service)))
    }
}

impl transaction::Server for Service<Open> {
    async fn commit(
        self: Rc<Self>,
        _: transaction::CommitParams,
        _: transaction::CommitResults,
    ) -> capnp::Result<()> {
        Ok(self.0.end(HeldTransaction::commit)?)
    }

    async fn rollback(
        self: Rc<Self>,
        _: transaction::RollbackParams,
        _: transaction::RollbackResults,
    ) -> capnp::Result<()> {
        Ok(self.0.end(HeldTransaction::rollback)?)
    }
}
