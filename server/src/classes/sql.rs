//! SQL as a capability.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use vatwerk::{
    limit_capnp,
    storage_capnp::{cursor, row, sql, sql_value},
};

use super::cell::{Scope, Service};
use crate::{
    Error, Result,
    object::KeepAwake,
    storage::{Cursor, Row, SqlValue},
};

/// SQL in a scope.
pub(super) struct SqlService<S>(pub Rc<Service<S>>);

impl<S: Scope> sql::Server for SqlService<S> {
    async fn exec(
        self: Rc<Self>,
        params: sql::ExecParams,
        mut results: sql::ExecResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let bindings = params.get_bindings()?;
        let bindings = bindings
            .iter()
            .map(read_value)
            .collect::<capnp::Result<Vec<_>>>()?;
        let cursor = self
            .0
            .0
            .sql()
            .exec(params.get_query()?.to_str()?, bindings)?;
        let ctx = self.0.0.context();
        let keeps_awake = cursor.is_open().then(|| ctx.keep_awake());
        results
            .get()
            .set_cursor(ctx.lend(serve(cursor, keeps_awake)));
        Ok(())
    }

    async fn database_size(
        self: Rc<Self>,
        _: sql::DatabaseSizeParams,
        mut results: sql::DatabaseSizeResults,
    ) -> capnp::Result<()> {
        results.get().set_bytes(self.0.0.sql().database_size()?);
        Ok(())
    }
}

struct CursorService {
    columns: Vec<String>,
    open: RefCell<Cursor>,
    used: Cell<Instant>,
    /// While there are rows to be read.
    keeps_awake: RefCell<Option<KeepAwake>>,
    _idle: AbortOnDropHandle<()>,
}

const MAX_IDLE: Duration = Duration::from_millis(limit_capnp::MAX_CURSOR_IDLE_MS as u64);

/// The cursor as a capability, until it has not been used for too long. The object stays awake for it
/// until it has ended.
fn serve(cursor: Cursor, keeps_awake: Option<KeepAwake>) -> cursor::Client {
    let service = Rc::new_cyclic(|this: &Weak<CursorService>| {
        let idle = tokio::task::spawn_local(end_when_idle(this.clone()));
        CursorService {
            columns: cursor.columns().to_vec(),
            open: RefCell::new(cursor),
            used: Cell::new(Instant::now()),
            keeps_awake: RefCell::new(keeps_awake),
            _idle: AbortOnDropHandle::new(idle),
        }
    });
    capnp_rpc::new_client_from_rc(service)
}

async fn end_when_idle(service: Weak<CursorService>) {
    while let Some(until) = service.upgrade().map(|cursor| cursor.used.get() + MAX_IDLE) {
        if Instant::now() >= until {
            if let Some(cursor) = service.upgrade() {
                let reason = Error::Closed("the cursor was not used for too long");
                cursor.open.borrow_mut().end(reason);
                cursor.keeps_awake.take();
            }
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}

impl CursorService {
    /// Reads rows, in the time for one call.
    fn read<T>(&self, read: impl FnOnce(&mut Cursor) -> Result<T>) -> Result<T> {
        let mut cursor = self.open.borrow_mut();
        self.used.set(Instant::now());
        let _deadline = cursor.deadline();
        let outcome = read(&mut cursor);
        if !cursor.is_open() {
            self.keeps_awake.take();
        }
        outcome
    }
}

impl cursor::Server for CursorService {
    async fn columns(
        self: Rc<Self>,
        _: cursor::ColumnsParams,
        mut results: cursor::ColumnsResults,
    ) -> capnp::Result<()> {
        let mut names = results.get().init_column_names(self.columns.len() as u32);
        for (i, name) in self.columns.iter().enumerate() {
            names.set(i as u32, name.as_str());
        }
        Ok(())
    }

    async fn next(
        self: Rc<Self>,
        params: cursor::NextParams,
        mut results: cursor::NextResults,
    ) -> capnp::Result<()> {
        let max_rows = params.get()?.get_max_rows() as usize;
        if max_rows == 0 {
            return Err(Error::InvalidArgument("maxRows must be positive".into()).into());
        }
        let (rows, done) = self.read(|cursor| {
            let mut rows = Vec::new();
            let mut bytes = 0;
            while rows.len() < max_rows && bytes < limit_capnp::MAX_CHUNK_BYTES as usize {
                let Some(row) = cursor.next_row()? else {
                    return Ok((rows, true));
                };
                bytes += size(&row);
                rows.push(row);
            }
            Ok((rows, false))
        })?;
        let mut results = results.get();
        results.set_done(done);
        let mut list = results.init_rows(rows.len() as u32);
        for (i, row) in rows.iter().enumerate() {
            write_row(list.reborrow().get(i as u32), row);
        }
        Ok(())
    }

    async fn one(
        self: Rc<Self>,
        _: cursor::OneParams,
        mut results: cursor::OneResults,
    ) -> capnp::Result<()> {
        match self.read(|cursor| Ok((cursor.next_row()?, cursor.next_row()?)))? {
            (Some(row), None) => write_row(results.get().init_row(), &row),
            (None, _) => {
                return Err(Error::InvalidArgument("the result has no row, not one".into()).into());
            }
            (Some(_), Some(_)) => {
                return Err(
                    Error::InvalidArgument("the result has more than one row".into()).into(),
                );
            }
        }
        Ok(())
    }

    async fn counts(
        self: Rc<Self>,
        _: cursor::CountsParams,
        mut results: cursor::CountsResults,
    ) -> capnp::Result<()> {
        let cursor = self.open.borrow();
        let mut results = results.get();
        results.set_rows_read(cursor.rows_read());
        results.set_rows_written(cursor.rows_written());
        Ok(())
    }
}

/// About how many bytes a row takes in a message.
fn size(row: &Row) -> usize {
    const VALUE_BYTES: usize = 24;
    let data = |value: &SqlValue| match value {
        SqlValue::Text(text) => text.len(),
        SqlValue::Blob(blob) => blob.len(),
        _ => 0,
    };
    VALUE_BYTES
        + row
            .values()
            .iter()
            .map(|value| VALUE_BYTES + data(value))
            .sum::<usize>()
}

fn write_row(row: row::Builder<'_>, from: &Row) {
    let mut values = row.init_values(from.values().len() as u32);
    for (i, value) in from.values().iter().enumerate() {
        let mut to = values.reborrow().get(i as u32);
        match value {
            SqlValue::Null => to.set_null(()),
            SqlValue::Integer(integer) => to.set_integer(*integer),
            SqlValue::Real(real) => to.set_real(*real),
            SqlValue::Text(text) => to.set_text(text.as_str()),
            SqlValue::Blob(blob) => to.set_blob(blob),
        }
    }
}

fn read_value(value: sql_value::Reader<'_>) -> capnp::Result<SqlValue> {
    Ok(match value.which()? {
        sql_value::Null(()) => SqlValue::Null,
        sql_value::Integer(integer) => SqlValue::Integer(integer),
        sql_value::Real(real) => SqlValue::Real(real),
        sql_value::Text(text) => SqlValue::Text(text?.to_string()?),
        sql_value::Blob(blob) => SqlValue::Blob(blob?.to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing;

    #[tokio::test(start_paused = true)]
    async fn a_cursor_that_is_not_used_ends() {
        let folder = tempfile::tempdir().unwrap();
        let storage = testing::open(&folder);
        let scenario = async {
            let rows = "SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4";
            let cursor = serve(storage.sql().exec(rows, ()).unwrap(), None);
            let finished = serve(storage.sql().exec("SELECT 1 WHERE 0", ()).unwrap(), None);
            let next = |cursor: &cursor::Client| {
                let mut request = cursor.next_request();
                request.get().set_max_rows(1);
                request.send().promise
            };
            for _ in 0..2 {
                tokio::time::sleep(MAX_IDLE * 2 / 3).await;
                assert_eq!(
                    next(&cursor)
                        .await
                        .unwrap()
                        .get()
                        .unwrap()
                        .get_rows()
                        .unwrap()
                        .len(),
                    1
                );
            }
            tokio::time::sleep(MAX_IDLE + Duration::from_millis(10)).await;
            let error = next(&cursor).await.err().unwrap();
            assert!(error.extra.starts_with("closed: "), "{error}");
            assert!(cursor.columns_request().send().promise.await.is_ok());
            assert!(next(&finished).await.unwrap().get().unwrap().get_done());
        };
        tokio::task::LocalSet::new().run_until(scenario).await;
    }
}
