//! Storage as capabilities, and the class that is nothing else.

use std::rc::Rc;

use capnp::{any_pointer, capability::Request, traits::HasTypeId};
use vatwerk::{
    cell_capnp::cell,
    limit_capnp,
    storage_capnp::{self, entry, entry_sink, operations, range, storage},
};

use super::{sql::SqlService, transaction};
use crate::{
    Class, Context, Error, Result,
    storage::{Entry, Kv, Lower, Range, Sql},
};

/// What key-value pairs and SQL are reached through: the storage itself, or a transaction on it.
pub(super) trait Scope: 'static {
    fn kv(&self) -> Kv;
    fn sql(&self) -> Sql;
    /// Opens a transaction in this scope.
    fn transaction(&self) -> Result<storage_capnp::transaction::Client>;
    /// The object's context.
    fn context(&self) -> &Context;
    /// The capability for SQL in the scope of `service`.
    fn sql_of(service: Rc<Service<Self>>) -> storage_capnp::sql::Client
    where
        Self: Sized;
}

/// A scope, served as `Operations`.
pub struct Service<S>(pub(super) S);

/// The facet of a cell that is its SQL.
const SQL: &str = "sql";

/// The class `Cell`, of `schema/vatwerk/cell.capnp`: its stub is its storage.
pub type Cell = Service<Context>;

impl Class for Cell {
    const NAME: &'static str = "Cell";
    const SCHEMA: &'static [u8] = vatwerk::CODE_GENERATOR_REQUEST;
    type Client = cell::Client;

    async fn activate(ctx: Context) -> capnp::Result<Self> {
        Ok(Service(ctx))
    }

    fn facet(self: Rc<Self>, name: &str) -> capnp::Result<capnp::capability::Client> {
        match name {
            SQL => {
                let sql: storage_capnp::sql::Client = capnp_rpc::new_client(SqlService(self));
                Ok(sql.client)
            }
            _ => Err(Error::Unimplemented(format!("a Cell has no facet `{name}`")).into()),
        }
    }
}

impl Scope for Context {
    fn kv(&self) -> Kv {
        self.storage().kv()
    }

    fn sql(&self) -> Sql {
        self.storage().sql()
    }

    fn transaction(&self) -> Result<storage_capnp::transaction::Client> {
        transaction::open(self)
    }

    fn context(&self) -> &Context {
        self
    }

    fn sql_of(service: Rc<Cell>) -> storage_capnp::sql::Client {
        service.0.facet(SQL)
    }
}

impl cell::Server for Cell {}

impl storage::Server for Cell {
    async fn delete_all(
        self: Rc<Self>,
        _: storage::DeleteAllParams,
        _: storage::DeleteAllResults,
    ) -> capnp::Result<()> {
        Ok(self.0.storage().delete_all()?)
    }

    async fn sync(
        self: Rc<Self>,
        _: storage::SyncParams,
        _: storage::SyncResults,
    ) -> capnp::Result<()> {
        // The answer waits at the output gate for every earlier write: that is all there is to it.
        Ok(())
    }
}

impl<S: Scope> operations::Server for Service<S> {
    async fn get(
        self: Rc<Self>,
        params: operations::GetParams,
        mut results: operations::GetResults,
    ) -> capnp::Result<()> {
        let value = self.0.kv().get_bytes(params.get()?.get_key()?.to_str()?)?;
        let mut found = results.get().init_value();
        match value {
            Some(bytes) => found.set_bytes(&bytes),
            None => found.set_none(()),
        }
        Ok(())
    }

    async fn put(
        self: Rc<Self>,
        params: operations::PutParams,
        _: operations::PutResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        Ok(self
            .0
            .kv()
            .put_bytes(params.get_key()?.to_str()?, params.get_value()?)?)
    }

    async fn delete(
        self: Rc<Self>,
        params: operations::DeleteParams,
        mut results: operations::DeleteResults,
    ) -> capnp::Result<()> {
        let existed = self.0.kv().delete(params.get()?.get_key()?.to_str()?)?;
        results.get().set_existed(existed);
        Ok(())
    }

    async fn get_multiple(
        self: Rc<Self>,
        params: operations::GetMultipleParams,
        mut results: operations::GetMultipleResults,
    ) -> capnp::Result<()> {
        let found = self
            .0
            .kv()
            .get_many_bytes(&keys(params.get()?.get_keys()?)?)?;
        let entries: Vec<Entry> = found.into_iter().collect();
        let bytes = entries
            .iter()
            .map(|(key, value)| (key.len() + value.len()) as u64)
            .sum();
        // Half a message leaves room for everything around the entries.
        let limit = limit_capnp::MAX_MESSAGE_BYTES / 2;
        Error::check_limit("the entries of one getMultiple (bytes)", limit, bytes)?;
        write_entries(results.get().init_entries(entries.len() as u32), &entries);
        Ok(())
    }

    async fn put_multiple(
        self: Rc<Self>,
        params: operations::PutMultipleParams,
        _: operations::PutMultipleResults,
    ) -> capnp::Result<()> {
        let entries = params.get()?.get_entries()?;
        let entries = entries
            .iter()
            .map(|entry| Ok((entry.get_key()?.to_str()?, entry.get_value()?)))
            .collect::<capnp::Result<Vec<(&str, &[u8])>>>()?;
        Ok(self.0.kv().put_many_bytes(&entries)?)
    }

    async fn delete_multiple(
        self: Rc<Self>,
        params: operations::DeleteMultipleParams,
        mut results: operations::DeleteMultipleResults,
    ) -> capnp::Result<()> {
        let count = self.0.kv().delete_many(&keys(params.get()?.get_keys()?)?)?;
        results.get().set_count(count);
        Ok(())
    }

    async fn list(
        self: Rc<Self>,
        params: operations::ListParams,
        mut results: operations::ListResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let mut range = read_range(params.get_range()?)?;
        let sink: entry_sink::Client = params.get_sink()?;
        let mut count = 0;
        loop {
            let (entries, more) = self
                .0
                .kv()
                .page(&range, limit_capnp::MAX_CHUNK_BYTES as usize)?;
            count += entries.len() as u64;
            if !entries.is_empty() {
                // Not a streaming call: its errors would be told at the next one, and those of the last to nobody.
                let mut write: Request<entry_sink::write_params::Owned, any_pointer::Owned> =
                    sink.client.new_call(entry_sink::Client::TYPE_ID, 0, None);
                write_entries(write.get().init_entries(entries.len() as u32), &entries);
                write.send().promise.await?;
            }
            match entries.last() {
                Some((last, _)) if more => resume(&mut range, last, entries.len() as u32),
                _ => break,
            }
        }
        sink.end_request().send().promise.await?;
        results.get().set_count(count);
        Ok(())
    }

    async fn page(
        self: Rc<Self>,
        params: operations::PageParams,
        mut results: operations::PageResults,
    ) -> capnp::Result<()> {
        let range = read_range(params.get()?.get_range()?)?;
        let (entries, more) = self
            .0
            .kv()
            .page(&range, limit_capnp::MAX_CHUNK_BYTES as usize)?;
        let mut results = results.get();
        results.set_more(more);
        write_entries(results.init_entries(entries.len() as u32), &entries);
        Ok(())
    }

    async fn sql(
        self: Rc<Self>,
        _: operations::SqlParams,
        mut results: operations::SqlResults,
    ) -> capnp::Result<()> {
        results.get().set_sql(S::sql_of(self));
        Ok(())
    }

    async fn transaction(
        self: Rc<Self>,
        _: operations::TransactionParams,
        mut results: operations::TransactionResults,
    ) -> capnp::Result<()> {
        results.get().set_transaction(self.0.transaction()?);
        Ok(())
    }
}

fn keys(list: capnp::text_list::Reader<'_>) -> capnp::Result<Vec<&str>> {
    list.iter().map(|key| Ok(key?.to_str()?)).collect()
}

fn write_entries(mut list: capnp::struct_list::Builder<'_, entry::Owned>, entries: &[Entry]) {
    for (i, (key, value)) in entries.iter().enumerate() {
        let mut entry = list.reborrow().get(i as u32);
        entry.set_key(key.as_str());
        entry.set_value(value);
    }
}

fn read_range(range: range::Reader<'_>) -> capnp::Result<Range> {
    Ok(Range {
        prefix: range.get_prefix()?.to_string()?,
        from: match range.get_from().which()? {
            range::from::Beginning(()) => Lower::Beginning,
            range::from::Start(key) => Lower::Start(key?.to_string()?),
            range::from::StartAfter(key) => Lower::StartAfter(key?.to_string()?),
        },
        end: match range.get_to().which()? {
            range::to::Last(()) => None,
            range::to::End(key) => Some(key?.to_string()?),
        },
        reverse: range.get_reverse(),
        limit: match range.get_limit().which()? {
            range::limit::Unlimited(()) => None,
            range::limit::Entries(limit) => Some(limit),
        },
    })
}

/// Makes `range` what is left of it after `read` entries, the last of them with the key `last`.
fn resume(range: &mut Range, last: &str, read: u32) {
    if range.reverse {
        range.end = Some(last.to_owned())
    } else {
        range.from = Lower::StartAfter(last.to_owned())
    }
    range.limit = range.limit.map(|limit| limit - read);
}
