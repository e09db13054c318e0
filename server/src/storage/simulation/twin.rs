//! The same statements for a database of the vat's and for one that SQLite has in memory: both answer the
//! same, whatever is written before its time, undone, cut off, closed or lost.

use std::{path::Path, rc::Rc};

use rusqlite::{Connection, Result as SqlResult};
use vatwerk::ObjectId;

use super::{
    random::Random,
    seeds,
    vat::{self, Vat},
};
use crate::{
    env::sim::{Fault, Operation, SimDisk, Survival},
    folder::DatabaseId,
    journal,
    storage::{Attached, Backing, leave_to_journal},
};

const ID: DatabaseId = DatabaseId {
    class: 1,
    object: ObjectId([5; ObjectId::LEN]),
};

#[derive(Clone, Copy, Debug)]
enum Act {
    Insert,
    InsertMany,
    InsertConflicting,
    Update,
    Delete,
    Begin,
    Commit,
    Rollback,
    Savepoint,
    RollbackTo,
    Release,
    Index,
    DropTable,
    Vacuum,
    IncrementalVacuum,
    Replace,
    ReplaceUndone,
    WriteBack,
    Reopen,
    LosePower,
    FailRead,
    FailScratch,
}

const ACTS: [(u64, Act); 22] = [
    (10, Act::Insert),
    (6, Act::InsertMany),
    (3, Act::InsertConflicting),
    (6, Act::Update),
    (6, Act::Delete),
    (8, Act::Begin),
    (8, Act::Commit),
    (4, Act::Rollback),
    (5, Act::Savepoint),
    (4, Act::RollbackTo),
    (3, Act::Release),
    (2, Act::Index),
    (1, Act::DropTable),
    (3, Act::Vacuum),
    (4, Act::IncrementalVacuum),
    (3, Act::Replace),
    (1, Act::ReplaceUndone),
    (4, Act::WriteBack),
    (4, Act::Reopen),
    (3, Act::LosePower),
    (3, Act::FailRead),
    (4, Act::FailScratch),
];

struct Twins {
    settings: journal::Settings,
    vat: Vat,
    /// The vat's database. None: it is to be opened.
    ours: Option<Attached>,
    /// SQLite's.
    theirs: Connection,
    /// Whether a connection is used further that the disk has failed, as the catalog's is.
    goes_on: bool,
}

impl Twins {
    fn new(segment_bytes: u64, goes_on: bool) -> Twins {
        let settings = vat::settings(segment_bytes);
        Twins {
            vat: start(&vat::new_disk(), &settings),
            settings,
            ours: None,
            theirs: Connection::open_in_memory().expect("a database"),
            goes_on,
        }
    }

    fn ours(&mut self) -> &Attached {
        let Vat { vfs, disk, .. } = &self.vat;
        self.ours.get_or_insert_with(|| {
            disk.heal();
            let backing = Backing::open(vfs, ID).expect("it is there");
            connect(backing).expect("it opens")
        })
    }

    /// Runs SQL on both. On a disk that works both do it, or refuse it.
    fn run(&mut self, sql: &str) {
        let ours = self.ours().execute_batch(sql);
        if matches!(&ours, Err(error) if is_of_the_disk(error)) {
            if !self.goes_on {
                self.reopen();
            } else if sql.starts_with("RELEASE") {
                // If it would have committed, SQLite has undone everything and says that it has not.
                let _ = self.ours().execute_batch("ROLLBACK");
                self.undo();
            } else if self.ours().is_autocommit() {
                self.undo();
            }
            return;
        }
        let theirs = self.theirs.execute_batch(sql);
        assert_eq!(ours.is_ok(), theirs.is_ok(), "{sql}: {ours:?}, {theirs:?}");
        let ours = self.ours();
        let is_committed = ours.is_autocommit();
        if is_committed {
            let failures = ours.backing.failures();
            ours.backing.commit(failures).expect("the journal takes it");
        }
        assert_eq!(is_committed, self.theirs.is_autocommit(), "{sql}");
    }

    /// What is open is undone in both.
    fn undo(&mut self) {
        if !self.theirs.is_autocommit() {
            self.theirs.execute_batch("ROLLBACK").expect("a rollback");
        }
    }

    fn reopen(&mut self) {
        self.ours = None;
        self.undo();
    }

    /// Begins both anew with some rows, or undoes that.
    fn replace(&mut self, mode: u64, rows: &str, keep: bool) {
        self.reopen();
        self.ours().backing.replace();
        // The connection of before is closed while the one after it is open.
        let before = self.ours.take();
        let backing = before.as_ref().map(|before| before.backing.clone());
        let anew = backing.map(|backing| connect(backing).expect("it opens"));
        self.ours = anew;
        drop(before);
        let mode = format!("PRAGMA auto_vacuum = {mode}");
        let rows = format!("BEGIN; {TABLES} {rows}");
        let done = self.ours().execute_batch(&rows);
        let done = done.and_then(|()| self.ours().execute_batch(if keep { "COMMIT" } else { "" }));
        if done.is_err() || !keep {
            // On a disk that fails what was there stays.
            return self.reopen();
        }
        let failures = self.ours().backing.failures();
        let given = self.ours().backing.commit(failures);
        given.expect("the journal takes it");
        self.theirs = Connection::open_in_memory().expect("a database");
        let filled = self
            .theirs
            .execute_batch(&format!("{mode}; {rows}; COMMIT"));
        filled.expect("it has memory");
    }

    fn lose_power(&mut self) {
        self.reopen();
        let disk = self.vat.disk.after_crash(Survival::Nothing);
        self.vat = start(&disk, &self.settings);
    }

    fn compare(&mut self) {
        self.vat.disk.heal();
        let ours = content(self.ours()).expect("it is read");
        let theirs = content(&self.theirs).expect("it is read");
        assert!(ours == theirs, "{ours:?}, {theirs:?}");
        if self.theirs.is_autocommit() {
            let check = "PRAGMA integrity_check";
            let answer: SqlResult<String> = self.ours().query_row(check, [], |row| row.get(0));
            assert_eq!(answer.as_deref(), Ok("ok"));
        }
    }
}

const TABLES: &str = "CREATE TABLE t1 (id INTEGER PRIMARY KEY, v BLOB); \
                      CREATE TABLE t2 (id INTEGER PRIMARY KEY, v BLOB);";

fn connect(backing: impl Into<Rc<Backing>>) -> SqlResult<Attached> {
    let backing = backing.into();
    let connection = backing.connect()?;
    leave_to_journal(&connection)?;
    // So small that pages are written before their time.
    connection.execute_batch("PRAGMA cache_size = 4")?;
    Ok(Attached::new(connection, backing))
}

fn start(disk: &SimDisk, settings: &journal::Settings) -> Vat {
    Vat::start(disk, settings).expect("the journal opens")
}

fn is_of_the_disk(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::SystemIoFailure)
}

/// The id and the checksum of a row.
type Row = (i64, u32);

/// The names of all tables and indexes, and every row.
fn content(connection: &Connection) -> SqlResult<(Vec<String>, Vec<Row>)> {
    let mut names = connection.prepare("SELECT name FROM sqlite_schema ORDER BY name")?;
    let names: SqlResult<Vec<String>> = names.query_map([], |row| row.get(0))?.collect();
    let (names, mut rows) = (names?, Vec::new());
    for name in names.iter().filter(|name| name.starts_with('t')) {
        let mut query = connection.prepare(&format!("SELECT id, v FROM {name} ORDER BY id"))?;
        let found = query.query_map([], |row| {
            Ok((row.get(0)?, crc32c::crc32c(row.get_ref(1)?.as_bytes()?)))
        })?;
        rows.extend(found.collect::<SqlResult<Vec<_>>>()?);
    }
    Ok((names, rows))
}

/// The SQL of an act.
fn sql(random: &mut Random, act: Act) -> String {
    let table = random.pick(&["t1", "t2"]);
    let ids = if random.percent(80) { 60 } else { 4_000 };
    let (id, byte) = (random.below(ids), random.below(256));
    let bytes = random.pick(&[10, 300, 3_000, 9_000]);
    // Bytes that differ, and are the same in both.
    let value = |id: &str| format!("CAST(printf('%.*c%d', {bytes}, char({byte}), {id}) AS BLOB)");
    match act {
        Act::Insert => format!(
            "INSERT OR REPLACE INTO {table} VALUES ({id}, {})",
            value("7")
        ),
        Act::InsertMany => format!(
            "WITH RECURSIVE n (i) AS (SELECT {id} UNION ALL SELECT i + 1 FROM n LIMIT 30) \
             INSERT OR REPLACE INTO {table} SELECT i, {} FROM n",
            value("i")
        ),
        // After some rows it finds one that is there, and undoes all of them.
        Act::InsertConflicting => format!(
            "WITH RECURSIVE n (i) AS (SELECT {id} UNION ALL SELECT i + 1 FROM n LIMIT 30) \
             INSERT INTO {table} SELECT i, {} FROM n",
            value("i")
        ),
        Act::Update => {
            format!(
                "UPDATE {table} SET v = {} WHERE id % 7 = {id} % 7",
                value("id")
            )
        }
        Act::Delete => format!("DELETE FROM {table} WHERE id >= {id} AND id < {id} + 40"),
        Act::Begin => "BEGIN".into(),
        Act::Commit => "COMMIT".into(),
        Act::Rollback => "ROLLBACK".into(),
        Act::Savepoint => format!("SAVEPOINT s{}", random.below(3)),
        Act::RollbackTo => format!("ROLLBACK TO s{}", random.below(3)),
        Act::Release => format!("RELEASE s{}", random.below(3)),
        Act::Index => format!("CREATE INDEX IF NOT EXISTS i_{table} ON {table} (v)"),
        Act::DropTable => {
            format!("DROP TABLE {table}; CREATE TABLE {table} (id INTEGER PRIMARY KEY, v BLOB)")
        }
        Act::Vacuum => "VACUUM".into(),
        Act::IncrementalVacuum => "PRAGMA incremental_vacuum(20)".into(),
        _ => String::new(),
    }
}

fn live(seed: u64) {
    let mut random = Random::new(seed);
    let segment_bytes = random.pick(&[32 << 10, 256 << 10, 1 << 20]);
    let mut twins = Twins::new(segment_bytes, random.percent(50));
    let vacuum = random.below(3);
    twins.run(&format!("PRAGMA auto_vacuum = {vacuum}; VACUUM"));
    twins.run(TABLES);
    for _ in 0..random.among(20..120) {
        let act = random.weighted(&ACTS);
        match act {
            Act::WriteBack => twins.vat.journal().write_back().expect("it is written"),
            Act::Reopen => twins.reopen(),
            Act::LosePower => twins.lose_power(),
            Act::Replace | Act::ReplaceUndone => {
                let rows = sql(&mut random, Act::InsertMany);
                let keep = matches!(act, Act::Replace);
                twins.replace(random.below(3), &rows, keep);
            }
            Act::FailRead => {
                let reads = |path: &Path, operation| {
                    path.starts_with("/data/objects") && operation == Operation::Read
                };
                twins.vat.disk.fail(Fault::io_error().when(reads).times(1));
            }
            Act::FailScratch => {
                let which = random.pick(&[Operation::Write, Operation::Create, Operation::SetLen]);
                let scratch =
                    move |path: &Path, operation| path.ends_with("scratch") && operation == which;
                twins
                    .vat
                    .disk
                    .fail(Fault::io_error().when(scratch).times(1));
            }
            _ => {
                let sql = sql(&mut random, act);
                twins.run(&sql);
            }
        }
        if random.percent(30) {
            twins.compare();
        }
    }
    twins.compare();
    twins.lose_power();
    twins.compare();
}

#[test]
fn a_database_is_what_sqlite_has_written_whatever_it_undoes_and_cuts_off() {
    seeds(60).for_each(|seed| {
        println!("seed {seed}");
        live(seed);
    });
}
