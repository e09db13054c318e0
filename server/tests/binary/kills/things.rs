//! What the clients write, and how it is read back: whole, or the test fails.
//!
//! A counter is everybody's. Everything else belongs to one client, which numbers what it writes
//! from 1 on. Its calls on one object arrive in order, so the number that is read says it all: what
//! came before it must be there, and nothing that came after.

use std::collections::BTreeMap;

use capnp::capability::FromClientHook;
use futures::future::{FutureExt, LocalBoxFuture, try_join, try_join3};
use serde::{Deserialize, Serialize};
use vatwerk::{
    cell_capnp::cell,
    counter_capnp::counter,
    storage_capnp::{operations, sql, sql_value, storage},
};
use vatwerk_client::LocalClient;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Thing {
    /// A counter that every client increments.
    Counter(u64),
    /// The pairs of a cell, of all sizes, set by one `putMultiple`.
    Pairs,
    /// A row in each of two tables, added by one `exec`.
    Rows,
    /// A pair and a row, replaced in a transaction. Now and then everything is deleted instead.
    Both,
    /// A table with an index, dropped and created by one `exec`. Its column is named by the number.
    Table,
    /// For each number another counter, which comes into being when it is set to that number.
    Newborn,
}

pub const COUNTERS: u64 = 3;

impl Thing {
    /// Those that a client has to itself and whose state is told by one number.
    pub const NUMBERED: [Thing; 4] = [Thing::Pairs, Thing::Rows, Thing::Both, Thing::Table];

    /// Whether nothing is there after this write.
    pub fn is_empty_at(self, number: u64) -> bool {
        number == 0 || self == Thing::Both && number.is_multiple_of(8)
    }
}

/// The things of one client, on one connection. Each stub is kept, for the order of its calls.
pub struct Objects {
    client: LocalClient,
    owner: usize,
    counters: Vec<counter::Client>,
    pairs: operations::Client,
    both: storage::Client,
    rows: sql::Client,
    table: sql::Client,
}

impl Objects {
    pub fn new(client: LocalClient, owner: usize) -> Objects {
        let cell = |thing: Thing| {
            let name = format!("{thing:?}-{owner}");
            client.namespace::<cell::Client>().get(&name)
        };
        let counter = |n| client.namespace().get(&format!("counter-{n}"));
        let sql_of = |thing| sql_of(&cell(thing).cast_to());
        Objects {
            owner,
            counters: (0..COUNTERS).map(counter).collect(),
            pairs: cell(Thing::Pairs).cast_to(),
            both: cell(Thing::Both).cast_to(),
            rows: sql_of(Thing::Rows),
            table: sql_of(Thing::Table),
            client,
        }
    }

    /// Makes the call at once, and returns its answer: the number to put down.
    pub fn write(&self, thing: Thing, number: u64) -> LocalBoxFuture<'static, capnp::Result<u64>> {
        let written = match thing {
            Thing::Counter(which) => return increment(&self.counters[which as usize], 1),
            Thing::Newborn => return increment(&self.newborn(number), number),
            Thing::Pairs => self.write_pairs(number),
            Thing::Both if thing.is_empty_at(number) => {
                let deleted = self.both.delete_all_request().send().promise;
                deleted.map(|answer| answer.map(|_| ())).boxed_local()
            }
            Thing::Both => self.write_both(number),
            Thing::Rows => exec(
                &self.rows,
                &format!(
                    "CREATE TABLE IF NOT EXISTS debit (n INTEGER PRIMARY KEY);
                     CREATE TABLE IF NOT EXISTS credit (n INTEGER PRIMARY KEY);
                     INSERT INTO debit VALUES ({number});
                     INSERT INTO credit VALUES ({number})"
                ),
            ),
            Thing::Table => exec(
                &self.table,
                &format!(
                    "DROP TABLE IF EXISTS newest;
                     CREATE TABLE newest (v{number});
                     CREATE INDEX by_number ON newest (v{number});
                     INSERT INTO newest VALUES ({number})"
                ),
            ),
        };
        written
            .map(move |answer| answer.map(|()| number))
            .boxed_local()
    }

    /// The number of the newest write that is there, or `None` if there is nothing.
    pub async fn read(&self, thing: Thing) -> capnp::Result<Option<u64>> {
        match thing {
            Thing::Counter(which) => get(&self.counters[which as usize]).await.map(Some),
            Thing::Newborn => unreachable!("every number is another object"),
            Thing::Pairs => self.read_pairs().await,
            Thing::Both => self.read_both().await,
            Thing::Rows => {
                let totals = "SELECT count(*), max(n) FROM debit
                              UNION ALL SELECT count(*), max(n) FROM credit";
                let totals = select(&self.rows, totals).await?.map(|(_, values)| values);
                Ok(totals.map(|totals| {
                    // As many as the greatest number: none is missing in between.
                    assert_eq!(totals, [totals[0]; 4], "half a turn in Rows");
                    totals[0]
                }))
            }
            Thing::Table => {
                let newest = select(&self.table, "SELECT * FROM newest").await?;
                Ok(newest.map(|(columns, values)| {
                    let number = values.first().copied().unwrap_or_default();
                    let whole = (vec![format!("v{number}")], vec![number]);
                    assert_eq!((columns, values), whole, "half a turn in Table");
                    number
                }))
            }
        }
    }

    /// The count of the object that came into being with this number, if it did.
    pub async fn read_newborn(&self, number: u64) -> capnp::Result<u64> {
        get(&self.newborn(number)).await
    }

    fn newborn(&self, number: u64) -> counter::Client {
        let name = newborn_name(self.owner, number);
        self.client.namespace().get(&name)
    }

    fn write_pairs(&self, number: u64) -> LocalBoxFuture<'static, capnp::Result<()>> {
        let mut request = self.pairs.put_multiple_request();
        let pairs = pairs_of(number);
        let mut entries = request.get().init_entries(pairs.len() as u32);
        for (i, (key, value)) in (0..).zip(&pairs) {
            let mut entry = entries.reborrow().get(i);
            entry.set_key(key.as_str());
            entry.set_value(value);
        }
        let answer = request.send().promise;
        answer.map(|answer| answer.map(|_| ())).boxed_local()
    }

    async fn read_pairs(&self) -> capnp::Result<Option<u64>> {
        let keys: Vec<String> = pairs_at(LARGE_EVERY).into_keys().collect();
        let mut request = self.pairs.get_multiple_request();
        request.get().set_keys(&keys[..])?;
        let answer = request.send().promise.await?;
        let found = answer.get()?.get_entries()?.iter();
        let found = found
            .map(|entry| Ok((entry.get_key()?.to_string()?, entry.get_value()?.to_vec())))
            .collect::<capnp::Result<Pairs>>()?;
        let Some(first) = found.values().next() else {
            return Ok(None);
        };
        let number = number_in(first);
        let summary = || {
            let pairs = found.iter();
            let pairs = pairs.map(|(key, value)| (key, number_in(value), value.len()));
            pairs.collect::<Vec<_>>()
        };
        // Not `assert_eq`: this can be a megabyte.
        let whole = found == pairs_at(number);
        assert!(whole, "half a turn in Pairs: {:?}", summary());
        Ok(Some(number))
    }

    fn write_both(&self, number: u64) -> LocalBoxFuture<'static, capnp::Result<()>> {
        let both: operations::Client = self.both.clone().cast_to();
        let transaction = both.transaction_request().send().pipeline.get_transaction();
        let inside: operations::Client = transaction.clone().cast_to();
        let mut put = inside.put_request();
        put.get().set_key("number");
        put.get().set_value(&number.to_le_bytes());
        let put = put.send().promise;
        let replaced = exec(
            &sql_of(&inside),
            &format!(
                "CREATE TABLE IF NOT EXISTS number (n);
                 DELETE FROM number;
                 INSERT INTO number VALUES ({number})"
            ),
        );
        let all = async move {
            // After its writes have come: what is called on another capability may overtake them.
            let (_, ()) = try_join(put, replaced).await?;
            transaction.commit_request().send().promise.await?;
            Ok(())
        };
        all.boxed_local()
    }

    async fn read_both(&self) -> capnp::Result<Option<u64>> {
        let both: operations::Client = self.both.clone().cast_to();
        let mut request = both.get_multiple_request();
        request.get().set_keys(&["number"][..])?;
        let answer = request.send().promise.await?;
        let pair = answer.get()?.get_entries()?.iter().next();
        let pair = pair
            .map(|entry| entry.get_value().map(number_in))
            .transpose()?;
        let rows = select(&sql_of(&both), "SELECT n FROM number").await?;
        let rows = rows.map(|(_, values)| values);
        assert_eq!(rows, pair.map(|n| vec![n]), "half a turn in Both");
        Ok(pair)
    }
}

pub fn newborn_name(owner: usize, number: u64) -> String {
    format!("newborn-{owner}-{number}")
}

type Pairs = BTreeMap<String, Vec<u8>>;

/// How often a large value is among the pairs.
const LARGE_EVERY: u64 = 16;

/// What is written with this number.
fn pairs_of(number: u64) -> Pairs {
    let mut pairs: Pairs = (0..8)
        .map(|n| (n.to_string(), filling(number, 8 << n)))
        .collect();
    if number.is_multiple_of(LARGE_EVERY) {
        let kib = 100 + 37 * number % 900;
        pairs.insert("large".to_owned(), filling(number, 1024 * kib as usize));
    }
    pairs
}

/// What is there when this number was the newest: the large value may be an earlier one's.
fn pairs_at(number: u64) -> Pairs {
    let large = number - number % LARGE_EVERY;
    let mut pairs = if large > 0 {
        pairs_of(large)
    } else {
        Pairs::new()
    };
    pairs.extend(pairs_of(number));
    pairs
}

fn filling(number: u64, bytes: usize) -> Vec<u8> {
    number.to_le_bytes().repeat(bytes / 8)
}

fn number_in(value: &[u8]) -> u64 {
    let bytes = value.first_chunk();
    u64::from_le_bytes(*bytes.expect("a value holds a number"))
}

fn increment(
    counter: &counter::Client,
    amount: u64,
) -> LocalBoxFuture<'static, capnp::Result<u64>> {
    let mut request = counter.increment_request();
    request.get().set_amount(amount as i64);
    let answer = request.send().promise;
    answer
        .map(|answer| Ok(answer?.get()?.get_count() as u64))
        .boxed_local()
}

async fn get(counter: &counter::Client) -> capnp::Result<u64> {
    let answer = counter.get_request().send().promise.await?;
    Ok(answer.get()?.get_count() as u64)
}

fn sql_of(storage: &operations::Client) -> sql::Client {
    storage.sql_request().send().pipeline.get_sql()
}

fn exec(sql: &sql::Client, query: &str) -> LocalBoxFuture<'static, capnp::Result<()>> {
    let mut request = sql.exec_request();
    request.get().set_query(query);
    let answer = request.send().promise;
    answer.map(|answer| answer.map(|_| ())).boxed_local()
}

/// The columns, and the values of all rows, which are numbers. `None` if the table is not there.
async fn select(sql: &sql::Client, query: &str) -> capnp::Result<Option<(Vec<String>, Vec<u64>)>> {
    let mut request = sql.exec_request();
    request.get().set_query(query);
    let executed = request.send();
    let cursor = executed.pipeline.get_cursor();
    let columns = cursor.columns_request().send().promise;
    let rows = cursor.next_request().send().promise;
    let (_, columns, rows) = match try_join3(executed.promise, columns, rows).await {
        Err(error) if error.extra.contains("no such table") => return Ok(None),
        answers => answers?,
    };
    let columns = columns.get()?.get_column_names()?;
    let columns = columns
        .iter()
        .map(|name| Ok(name?.to_string()?))
        .collect::<capnp::Result<_>>()?;
    let mut values = Vec::new();
    for row in rows.get()?.get_rows()? {
        for value in row.get_values()? {
            match value.which()? {
                sql_value::Integer(integer) => values.push(integer as u64),
                _ => panic!("{query}: not a number"),
            }
        }
    }
    Ok(Some((columns, values)))
}
