//! Storage over the wire, as tests call it.

use std::{cell::RefCell, rc::Rc};

use capnp::capability::FromClientHook;
use vatwerk::{
    cell_capnp::cell,
    storage_capnp::{
        cursor, entry_sink, operations, range, row, sql, sql_value, storage, transaction, value,
    },
};

use super::Wire;

pub type Pairs = Vec<(String, Vec<u8>)>;

/// What can be done directly and in a transaction.
#[derive(Clone)]
pub struct Ops(pub operations::Client);

/// The storage of the cell of that name.
pub fn cell(wire: &Wire, name: &str) -> Ops {
    ops(wire.object(name))
}

/// The storage of a cell that a test has already.
pub fn ops(cell: cell::Client) -> Ops {
    Ops(operations::Client::new(cell.into_client_hook()))
}

/// A range, as tests write it.
#[derive(Clone, Copy, Default)]
pub struct Span<'a> {
    pub prefix: &'a str,
    pub start: Option<&'a str>,
    pub after: Option<&'a str>,
    pub end: Option<&'a str>,
    pub reverse: bool,
    pub limit: Option<u32>,
}

impl Span<'_> {
    pub fn write(&self, mut to: range::Builder<'_>) {
        to.set_prefix(self.prefix);
        to.set_reverse(self.reverse);
        if let Some(start) = self.start {
            to.reborrow().init_from().set_start(start);
        }
        if let Some(after) = self.after {
            to.reborrow().init_from().set_start_after(after);
        }
        if let Some(end) = self.end {
            to.reborrow().init_to().set_end(end);
        }
        if let Some(limit) = self.limit {
            to.init_limit().set_entries(limit);
        }
    }
}

fn pairs(
    list: capnp::struct_list::Reader<'_, vatwerk::storage_capnp::entry::Owned>,
) -> capnp::Result<Pairs> {
    list.iter()
        .map(|entry| Ok((entry.get_key()?.to_string()?, entry.get_value()?.to_vec())))
        .collect()
}

/// The keys alone.
pub fn keys(pairs: &Pairs) -> Vec<&str> {
    pairs.iter().map(|(key, _)| key.as_str()).collect()
}

impl Ops {
    pub fn storage(&self) -> storage::Client {
        storage::Client::new(self.0.as_client_hook().add_ref())
    }

    pub async fn get(&self, key: &str) -> capnp::Result<Option<Vec<u8>>> {
        let mut request = self.0.get_request();
        request.get().set_key(key);
        let answer = request.send().promise.await?;
        Ok(match answer.get()?.get_value()?.which()? {
            value::None(()) => None,
            value::Bytes(bytes) => Some(bytes?.to_vec()),
        })
    }

    pub async fn put(&self, key: &str, value: &[u8]) -> capnp::Result<()> {
        let mut request = self.0.put_request();
        request.get().set_key(key);
        request.get().set_value(value);
        request.send().promise.await.map(drop)
    }

    pub async fn delete(&self, key: &str) -> capnp::Result<bool> {
        let mut request = self.0.delete_request();
        request.get().set_key(key);
        Ok(request.send().promise.await?.get()?.get_existed())
    }

    pub async fn get_multiple(&self, keys: &[&str]) -> capnp::Result<Pairs> {
        let mut request = self.0.get_multiple_request();
        request.get().set_keys(keys)?;
        pairs(request.send().promise.await?.get()?.get_entries()?)
    }

    pub async fn put_multiple(&self, entries: &[(&str, &[u8])]) -> capnp::Result<()> {
        let mut request = self.0.put_multiple_request();
        let mut list = request.get().init_entries(entries.len() as u32);
        for (i, (key, value)) in entries.iter().enumerate() {
            let mut entry = list.reborrow().get(i as u32);
            entry.set_key(*key);
            entry.set_value(value);
        }
        request.send().promise.await.map(drop)
    }

    pub async fn delete_multiple(&self, keys: &[&str]) -> capnp::Result<u32> {
        let mut request = self.0.delete_multiple_request();
        request.get().set_keys(keys)?;
        Ok(request.send().promise.await?.get()?.get_count())
    }

    pub async fn page(&self, span: Span<'_>) -> capnp::Result<(Pairs, bool)> {
        let mut request = self.0.page_request();
        span.write(request.get().init_range());
        let answer = request.send().promise.await?;
        let answer = answer.get()?;
        Ok((pairs(answer.get_entries()?)?, answer.get_more()))
    }

    /// All keys in a range, in one page.
    pub async fn keys(&self, span: Span<'_>) -> Vec<String> {
        let (found, more) = self.page(span).await.unwrap();
        // `more` tells of what the limit has left out too, or of nothing.
        let _ = more;
        found.into_iter().map(|(key, _)| key).collect()
    }

    pub fn list(
        &self,
        span: Span<'_>,
        sink: &Sink,
    ) -> impl Future<Output = capnp::Result<u64>> + 'static {
        let mut request = self.0.list_request();
        span.write(request.get().init_range());
        request.get().set_sink(capnp_rpc::new_client(sink.clone()));
        let promise = request.send().promise;
        async move { Ok(promise.await?.get()?.get_count()) }
    }

    pub fn sql(&self) -> sql::Client {
        self.0.sql_request().send().pipeline.get_sql()
    }

    /// Opens a transaction; what is called on it goes with the request.
    pub fn begin(&self) -> Tx {
        let client = self
            .0
            .transaction_request()
            .send()
            .pipeline
            .get_transaction();
        let ops = Ops(operations::Client::new(client.as_client_hook().add_ref()));
        Tx { client, ops }
    }

    /// Opens a transaction, and waits until it is.
    pub async fn begun(&self) -> capnp::Result<Tx> {
        let answer = self.0.transaction_request().send().promise.await?;
        let client = answer.get()?.get_transaction()?;
        let ops = Ops(operations::Client::new(client.as_client_hook().add_ref()));
        Ok(Tx { client, ops })
    }

    /// Runs SQL and reads all rows.
    pub async fn exec(&self, query: &str, bindings: &[V]) -> capnp::Result<Vec<Vec<V>>> {
        let cursor = self.cursor(query, bindings).await?;
        let mut all = Vec::new();
        loop {
            let (rows, done) = next(&cursor, 1000).await?;
            all.extend(rows);
            if done {
                return Ok(all);
            }
        }
    }

    pub async fn cursor(&self, query: &str, bindings: &[V]) -> capnp::Result<cursor::Client> {
        let mut request = self.sql().exec_request();
        request.get().set_query(query);
        let mut list = request.get().init_bindings(bindings.len() as u32);
        for (i, value) in bindings.iter().enumerate() {
            value.write(list.reborrow().get(i as u32));
        }
        request.send().promise.await?.get()?.get_cursor()
    }
}

/// A transaction.
pub struct Tx {
    pub client: transaction::Client,
    pub ops: Ops,
}

impl Tx {
    pub async fn commit(&self) -> capnp::Result<()> {
        self.client.commit_request().send().promise.await.map(drop)
    }

    pub async fn rollback(&self) -> capnp::Result<()> {
        let request = self.client.rollback_request();
        request.send().promise.await.map(drop)
    }
}

/// A value of SQLite's.
#[derive(Clone, Debug, PartialEq)]
pub enum V {
    Null,
    Int(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl V {
    pub fn text(text: &str) -> V {
        V::Text(text.to_owned())
    }

    fn write(&self, mut to: sql_value::Builder<'_>) {
        match self {
            V::Null => to.set_null(()),
            V::Int(it) => to.set_integer(*it),
            V::Real(it) => to.set_real(*it),
            V::Text(it) => to.set_text(it.as_str()),
            V::Blob(it) => to.set_blob(it),
        }
    }
}

fn read_row(row: row::Reader<'_>) -> capnp::Result<Vec<V>> {
    row.get_values()?
        .iter()
        .map(|value| {
            Ok(match value.which()? {
                sql_value::Null(()) => V::Null,
                sql_value::Integer(it) => V::Int(it),
                sql_value::Real(it) => V::Real(it),
                sql_value::Text(it) => V::Text(it?.to_string()?),
                sql_value::Blob(it) => V::Blob(it?.to_vec()),
            })
        })
        .collect()
}

/// The next rows of a cursor, and whether those were the last.
pub async fn next(cursor: &cursor::Client, most: u32) -> capnp::Result<(Vec<Vec<V>>, bool)> {
    let mut request = cursor.next_request();
    request.get().set_max_rows(most);
    let answer = request.send().promise.await?;
    let answer = answer.get()?;
    let rows = answer.get_rows()?.iter().map(read_row);
    Ok((rows.collect::<capnp::Result<_>>()?, answer.get_done()))
}

pub async fn one(cursor: &cursor::Client) -> capnp::Result<Vec<V>> {
    read_row(
        cursor
            .one_request()
            .send()
            .promise
            .await?
            .get()?
            .get_row()?,
    )
}

pub async fn columns(cursor: &cursor::Client) -> capnp::Result<Vec<String>> {
    let answer = cursor.columns_request().send().promise.await?;
    let names = answer.get()?.get_column_names()?;
    names.iter().map(|name| Ok(name?.to_string()?)).collect()
}

/// Rows read and rows written.
pub async fn counts(cursor: &cursor::Client) -> capnp::Result<(u64, u64)> {
    let answer = cursor.counts_request().send().promise.await?;
    let answer = answer.get()?;
    Ok((answer.get_rows_read(), answer.get_rows_written()))
}

/// Takes a list. Cheap to clone.
#[derive(Clone)]
pub struct Sink {
    /// The batches so far.
    pub batches: Rc<RefCell<Vec<Pairs>>>,
    pub ended: Rc<std::cell::Cell<bool>>,
    /// How many batches it takes before it wants to be told to take more. Closed, it refuses all that it has not
    /// taken.
    pub room: Rc<tokio::sync::Semaphore>,
}

impl Sink {
    /// A sink that takes that many batches at once.
    pub fn with_room(batches: usize) -> Sink {
        Sink {
            batches: Rc::default(),
            ended: Rc::default(),
            room: Rc::new(tokio::sync::Semaphore::new(batches)),
        }
    }

    pub fn pairs(&self) -> Pairs {
        self.batches.borrow().concat()
    }
}

impl entry_sink::Server for Sink {
    async fn write(self: Rc<Self>, params: entry_sink::WriteParams) -> capnp::Result<()> {
        let batch = pairs(params.get()?.get_entries()?)?;
        self.batches.borrow_mut().push(batch);
        let room = self.room.acquire().await;
        room.map_err(|_| capnp::Error::overloaded("the sink is full".into()))?
            .forget();
        Ok(())
    }

    async fn end(
        self: Rc<Self>,
        _: entry_sink::EndParams,
        _: entry_sink::EndResults,
    ) -> capnp::Result<()> {
        self.ended.set(true);
        Ok(())
    }
}
