//! Random writes, to a database and to what is known of it.

use std::collections::BTreeMap;

use super::{model::State, random::Random};
use crate::{
    Result,
    storage::{Kv, Range, Sql, SqlValue, Storage},
};

/// Where writes go: through an object's storage or a held transaction of it.
pub struct Target {
    pub kv: Kv,
    pub sql: Sql,
}

impl From<&Storage> for Target {
    fn from(storage: &Storage) -> Target {
        Target {
            kv: storage.kv(),
            sql: storage.sql(),
        }
    }
}

#[derive(Clone, Copy)]
enum Edit {
    Put,
    PutLarge,
    Delete,
    Insert,
    Update,
    Remove,
    CreateTable,
    DropTable,
    CreateIndex,
    DropIndex,
}

const EDITS: [(u64, Edit); 10] = [
    (30, Edit::Put),
    (4, Edit::PutLarge),
    (8, Edit::Delete),
    (20, Edit::Insert),
    (8, Edit::Update),
    (6, Edit::Remove),
    (6, Edit::CreateTable),
    (2, Edit::DropTable),
    (3, Edit::CreateIndex),
    (1, Edit::DropIndex),
];

/// Makes one random write. What does not fit the state at hand is a smaller one.
pub fn edit(random: &mut Random, target: &Target, state: &mut State) -> Result<()> {
    let exec = |sql: &str| target.sql.exec(sql, ())?.to_vec().map(drop);
    let tables: Vec<String> = state.tables.keys().cloned().collect();
    let table = (!tables.is_empty()).then(|| &tables[random.below(tables.len() as u64) as usize]);
    match (random.weighted(&EDITS), table) {
        (Edit::PutLarge, _) => {
            let len = random.among(2_000..20_000);
            put(random, target, state, len)?;
        }
        (Edit::Delete, _) => {
            let key = key(random);
            target.kv.delete(&key)?;
            state.pairs.remove(&key);
        }
        (Edit::Insert | Edit::Update, Some(table)) => {
            let len = random.among(1..400);
            let (id, value) = (random.below(40) as i64, random.bytes(len));
            let checksum = crc32c::crc32c(&value);
            let values = vec![SqlValue::Integer(id), SqlValue::Blob(value)];
            let sql = format!("INSERT OR REPLACE INTO {table} VALUES (?1, ?2)");
            target.sql.exec(&sql, values)?.to_vec()?;
            rows(state, table).insert(id, checksum);
        }
        (Edit::Remove, Some(table)) => {
            let from = random.below(40) as i64;
            exec(&format!(
                "DELETE FROM {table} WHERE id >= {from} AND id < {from} + 5"
            ))?;
            rows(state, table).retain(|id, _| *id < from || *id >= from + 5);
        }
        (Edit::CreateTable, _) => {
            let name = format!("t{}", random.below(4));
            exec(&format!(
                "CREATE TABLE IF NOT EXISTS {name} (id INTEGER PRIMARY KEY, v BLOB)"
            ))?;
            state.tables.entry(name).or_default();
        }
        (Edit::DropTable, Some(table)) => {
            exec(&format!("DROP TABLE {table}"))?;
            state.tables.remove(table);
            state.indexes.remove(&format!("i_{table}"));
        }
        (Edit::CreateIndex, Some(table)) => {
            exec(&format!(
                "CREATE INDEX IF NOT EXISTS i_{table} ON {table} (v)"
            ))?;
            state.indexes.insert(format!("i_{table}"));
        }
        (Edit::DropIndex, Some(table)) => {
            exec(&format!("DROP INDEX IF EXISTS i_{table}"))?;
            state.indexes.remove(&format!("i_{table}"));
        }
        _ => {
            let len = random.among(1..200);
            put(random, target, state, len)?;
        }
    }
    Ok(())
}

/// Puts so many pairs of a page each.
pub fn edit_much(
    random: &mut Random,
    target: &Target,
    state: &mut State,
    pages: u64,
) -> Result<()> {
    (0..pages).try_for_each(|_| put(random, target, state, 4_000))
}

fn put(random: &mut Random, target: &Target, state: &mut State, len: u64) -> Result<()> {
    let (key, value) = (key(random), random.bytes(len));
    target.kv.put_bytes(&key, &value)?;
    state.pairs.insert(key, crc32c::crc32c(&value));
    Ok(())
}

fn key(random: &mut Random) -> String {
    format!("k{:02}", random.below(60))
}

fn rows<'a>(state: &'a mut State, table: &str) -> &'a mut BTreeMap<i64, u32> {
    state
        .tables
        .get_mut(table)
        .expect("it was chosen among these")
}

/// What a database holds.
pub fn read(target: &Target) -> Result<State> {
    let pairs = target.kv.list_bytes(&Range::all())?;
    let pairs = pairs
        .into_iter()
        .map(|(key, value)| (key, crc32c::crc32c(&value)));
    let mut state = State {
        pairs: pairs.collect(),
        ..State::default()
    };
    let schema = "SELECT type, name FROM sqlite_schema WHERE name NOT LIKE '\\_vw%' ESCAPE '\\' \
                  AND name NOT LIKE 'sqlite%' ORDER BY name";
    for (kind, name) in target.sql.exec(schema, ())?.all::<(String, String)>()? {
        if kind == "index" {
            state.indexes.insert(name);
            continue;
        }
        let mut rows = target.sql.exec(&format!("SELECT id, v FROM {name}"), ())?;
        let checksums = rows.raw().map(|row| match row?.as_slice() {
            [SqlValue::Integer(id), SqlValue::Blob(value)] => Ok((*id, crc32c::crc32c(value))),
            _ => Ok((-1, 0)),
        });
        let rows = checksums.collect::<Result<_>>()?;
        state.tables.insert(name, rows);
    }
    Ok(state)
}
