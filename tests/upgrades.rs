//! A later version of a class brings what objects have stored up to date, once, and whole or not at
//! all.

use std::{cell::Cell, rc::Rc};

use vatwerk::Code;
use vatwerk_server::{
    Config, Context,
    storage::{SqlFunctions, SqlValue},
    testing::{TestVat, run},
};

use crate::support::{
    code,
    log::Log,
    on_this_thread,
    puppet::{Client, Own, Program, Puppet, act, put},
};

const TABLE: &str = "CREATE TABLE t (a)";
const COLUMN: &str = "ALTER TABLE t ADD COLUMN b DEFAULT 'new'";
const RENAMED: &str = "ALTER TABLE t RENAME COLUMN b TO c";
const WRONG: &str = "INSERT INTO nowhere VALUES (1)";

/// A version of the class, by its migrations and the version of its state.
macro_rules! version {
    ($name:ident, $migrations:expr, $state:expr) => {
        struct $name;

        impl Program for $name {
            const MIGRATIONS: &'static [&'static str] = &$migrations;
            const STATE_VERSION: u32 = $state;

            fn migrate(ctx: &Context, from: u32) -> capnp::Result<()> {
                bring_up(ctx, from)
            }
        }
    };
}

version!(First, [TABLE], 0);
version!(Second, [TABLE, COLUMN], 0);
version!(Wrong, [TABLE, COLUMN, WRONG], 0);
version!(Third, [TABLE, COLUMN, RENAMED], 0);
version!(WithState, [TABLE, COLUMN], 2);

/// Notes from which version, and fails if it is told to.
fn bring_up(ctx: &Context, from: u32) -> capnp::Result<()> {
    let kv = ctx.storage().kv();
    let times: u32 = kv.get("times")?.unwrap_or(0);
    kv.put("times", &(times + 1))?;
    kv.put("from", &from)?;
    match kv.get::<bool>("fails")? {
        Some(true) => Err(capnp::Error::failed("it was told to".into())),
        _ => Ok(()),
    }
}

fn sql(own: &Own, query: &str) -> capnp::Result<Vec<String>> {
    Ok(own.ctx.storage().sql().exec(query, ())?.all()?)
}

async fn query(object: &Client, query: &'static str) -> capnp::Result<Vec<String>> {
    act(object, async move |own| sql(&own, query)).await
}

async fn restart_as<P: Program>(vat: &TestVat) {
    vat.restart_as(|server| server.class::<Puppet<P>>()).await;
}

#[test]
fn migrations_are_applied_once_and_in_order_to_new_objects_and_to_old_ones() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<First>>()).await;
        let (old, new): (Client, Client) = (vat.object("old"), vat.object("new"));
        query(&old, "INSERT INTO t VALUES ('row')").await.unwrap();
        restart_as::<Third>(&vat).await;
        query(&new, "INSERT INTO t (a) VALUES ('row')")
            .await
            .unwrap();
        for object in [old, new] {
            for _ in 0..2 {
                let found = query(&object, "SELECT a || ' ' || c FROM t").await;
                assert_eq!(found.unwrap(), ["row new"]);
                vat.crash().await;
            }
        }
    });
}

#[test]
fn a_migration_that_fails_leaves_the_object_as_it_was_until_the_class_is_right() {
    run(async {
        let log = Log::keep();
        let vat = TestVat::start(|server| server.class::<Puppet<First>>()).await;
        let (old, new): (Client, Client) = (vat.object("old"), vat.object("new"));
        query(&old, "INSERT INTO t VALUES ('row')").await.unwrap();
        restart_as::<Wrong>(&vat).await;
        for object in [&old, &old, &new] {
            let error = query(object, "SELECT a FROM t").await.unwrap_err();
            assert!(!error.extra.contains("migration 3"), "{error}");
            assert_eq!(code::<()>(Err(error)), Code::ActivationFailed);
        }
        // Once for each of the two.
        assert_eq!(log.count("migration 3 of class Puppet"), 2);
        // The second was undone with it.
        restart_as::<First>(&vat).await;
        assert_eq!(query(&old, "SELECT * FROM t").await.unwrap(), ["row"]);
        restart_as::<Third>(&vat).await;
        assert_eq!(query(&old, "SELECT c FROM t").await.unwrap(), ["new"]);
        let none = query(&new, "SELECT c FROM t").await.unwrap();
        assert_eq!(none, Vec::<String>::new());
    });
}

#[test]
fn state_is_migrated_once_and_with_the_tables_or_not_at_all() {
    run(async {
        let log = Log::keep();
        let vat = TestVat::start(|server| server.class::<Puppet<First>>()).await;
        let (old, new): (Client, Client) = (vat.object("old"), vat.object("new"));
        let prepare = act(&old, async |own| {
            Ok(own.ctx.storage().kv().put("fails", &true)?)
        });
        prepare.await.unwrap();
        restart_as::<WithState>(&vat).await;
        for _ in 0..2 {
            let error = query(&old, "SELECT b FROM t").await.unwrap_err();
            assert!(!error.extra.contains("it was told to"), "{error}");
            assert_eq!(code::<()>(Err(error)), Code::ActivationFailed);
            assert_eq!(log.count("it was told to"), 1);
        }
        restart_as::<First>(&vat).await;
        query(&old, "INSERT INTO t VALUES ('row')").await.unwrap();
        let mend = act(&old, async |own| {
            let kv = own.ctx.storage().kv();
            assert_eq!(kv.get::<u32>("times")?, None);
            Ok(kv.put("fails", &false)?)
        });
        mend.await.unwrap();
        restart_as::<WithState>(&vat).await;
        for (object, expected) in [(old, (Some(1), Some(0))), (new, (None, None))] {
            for _ in 0..2 {
                let found = act(&object, async |own| {
                    sql(&own, "SELECT b FROM t")?;
                    let kv = own.ctx.storage().kv();
                    Ok((kv.get::<u32>("times")?, kv.get::<u32>("from")?))
                });
                assert_eq!(found.await.unwrap(), expected);
                vat.crash().await;
            }
        }
    });
}

#[test]
fn an_object_of_a_later_version_is_not_woken_and_not_touched() {
    run(async {
        let log = Log::keep();
        let vat = TestVat::start(|server| server.class::<Puppet<WithState>>()).await;
        let p: Client = vat.object("p");
        query(&p, "INSERT INTO t (a) VALUES ('row')").await.unwrap();
        restart_as::<First>(&vat).await;
        for _ in 0..2 {
            let error = query(&p, "SELECT a FROM t").await.unwrap_err();
            assert!(!error.extra.contains("later version"), "{error}");
            assert_eq!(code::<()>(Err(error)), Code::ActivationFailed);
            assert_eq!(log.count("later version"), 1);
        }
        // Its tables are right, its state is not.
        restart_as::<Second>(&vat).await;
        let refused = query(&p, "SELECT a FROM t").await;
        assert_eq!(code(refused), Code::ActivationFailed);
        restart_as::<WithState>(&vat).await;
        assert_eq!(query(&p, "SELECT b FROM t").await.unwrap(), ["new"]);
    });
}

/// Fails to be made, at first, after a while.
struct Unborn;

impl Program for Unborn {
    const MIGRATIONS: &'static [&'static str] = &[TABLE];

    async fn create(ctx: &Context) -> capnp::Result<()> {
        let fails = ctx.binding::<Rc<Cell<bool>>>().expect("the test binds it");
        // Its tables are on disk before it fails.
        ctx.sync().await?;
        match fails.get() {
            true => Err(capnp::Error::failed("told to".into())),
            false => Ok(()),
        }
    }
}

/// Its tables and what is known of them go together.
#[test]
fn a_failed_create_leaves_an_object_that_can_be_made_wherever_a_crash_comes() {
    run(async {
        for operation in 1.. {
            let fails = Rc::new(Cell::new(true));
            let bound = on_this_thread(fails.clone());
            let vat = TestVat::start(move |server| {
                let server = server.class::<Puppet<Unborn>>();
                server.binding_with(bound.clone())
            })
            .await;
            let disk = vat.disk();
            disk.crash_at(disk.operations() + operation);
            let p: Client = vat.object("p");
            query(&p, "SELECT a FROM t").await.unwrap_err();
            vat.settle().await;
            if !disk.has_crashed() {
                return assert!(operation > 5, "{operation}");
            }
            vat.lose_power(operation).await;
            fails.set(false);
            query(&p, "INSERT INTO t VALUES ('row')").await.unwrap();
            assert_eq!(query(&p, "SELECT a FROM t").await.unwrap(), ["row"]);
        }
    });
}

/// The SQL that a puppet runs may take a millisecond, but for its migrations.
struct Laborious;

impl Program for Laborious {
    const MIGRATIONS: &'static [&'static str] = &["CREATE TABLE t AS \
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300000) \
        SELECT count(*) AS a FROM n"];
    const STATEMENT_MS: Option<u64> = Some(1);
}

#[test]
fn migrations_have_a_time_of_their_own_and_calls_that_of_their_class() {
    run(async {
        let log = Log::keep();
        let short = Rc::new(Cell::new(false));
        let is_short = short.clone();
        let vat = TestVat::start(move |server| {
            let mut config = Config::default();
            config.limits.statement_ms = 600_000;
            if is_short.get() {
                config.limits.migration_ms = 1;
            }
            server.config(config).class::<Puppet<Laborious>>()
        })
        .await;
        let object: Client = vat.object("a");
        let count = query(&object, "SELECT a || '' FROM t").await;
        assert_eq!(count.unwrap(), ["300000"]);
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                       SELECT count(*) || '' FROM n";
        let error = query(&object, endless).await.unwrap_err();
        let said = "the SQL of one call may run for 1 ms (`STATEMENT_MS` of its class)";
        assert!(error.extra.contains(said), "{error}");
        assert_eq!(code::<()>(Err(error)), Code::LimitExceeded);
        put(&object, "k", "v").await.unwrap();

        short.set(true);
        vat.restart().await;
        let other: Client = vat.object("b");
        let error = query(&other, "SELECT 1").await.unwrap_err();
        let said = "migrations may run for 1 ms (`limits.migration_ms`)";
        assert_eq!(log.count(said), 1);
        assert_eq!(code::<()>(Err(error)), Code::ActivationFailed);
        // What has been migrated already needs no time.
        let count = query(&object, "SELECT a || '' FROM t").await;
        assert_eq!(count.unwrap(), ["300000"]);
    });
}

/// What every version has added: parents are made anew again and again, as tools write it, under children
/// that would go with them.
const REBUILDS: [&str; 6] = [
    "CREATE TABLE parent (id INTEGER PRIMARY KEY, a); \
     CREATE TABLE child (p NOT NULL REFERENCES parent (id) ON DELETE CASCADE)",
    "PRAGMA foreign_keys = OFF; CREATE TABLE new (id INTEGER PRIMARY KEY, a NOT NULL, b DEFAULT 2); \
     INSERT INTO new (id, a) SELECT id, a FROM parent; DROP TABLE parent; \
     ALTER TABLE new RENAME TO parent; PRAGMA foreign_keys = ON",
    "CREATE INDEX by_parent ON child (p); UPDATE parent SET a = a || '!'",
    "PRAGMA defer_foreign_keys = ON; PRAGMA foreign_keys = OFF; \
     CREATE TABLE new (id INTEGER PRIMARY KEY, a NOT NULL CHECK (a <> ''), b); \
     INSERT INTO new SELECT id, a, b + 1 FROM parent; DROP TABLE parent; \
     ALTER TABLE new RENAME TO parent; PRAGMA foreign_key_check; PRAGMA foreign_keys = ON",
    "PRAGMA foreign_keys = 0; CREATE TABLE born (p REFERENCES parent ON DELETE RESTRICT, at DEFAULT 4); \
     INSERT INTO born (p) SELECT p FROM child; DROP TABLE child; ALTER TABLE born RENAME TO child; \
     CREATE TABLE new (id INTEGER PRIMARY KEY, a TEXT NOT NULL) STRICT, WITHOUT ROWID",
    "PRAGMA foreign_keys = OFF; DROP TABLE new; CREATE TABLE new (id INTEGER PRIMARY KEY, a); \
     INSERT INTO new SELECT id, a FROM parent; DROP TABLE parent; ALTER TABLE new RENAME TO parent",
];

/// The class that has so many of them.
struct Rebuilt<const VERSION: usize>;

impl<const VERSION: usize> Program for Rebuilt<VERSION> {
    const MIGRATIONS: &'static [&'static str] = REBUILDS.split_at(VERSION).0;
}

async fn restart_as_version(vat: &TestVat, version: usize) {
    match version {
        1 => restart_as::<Rebuilt<1>>(vat).await,
        2 => restart_as::<Rebuilt<2>>(vat).await,
        3 => restart_as::<Rebuilt<3>>(vat).await,
        4 => restart_as::<Rebuilt<4>>(vat).await,
        5 => restart_as::<Rebuilt<5>>(vat).await,
        _ => restart_as::<Rebuilt<6>>(vat).await,
    }
}

#[test]
fn a_parent_is_rebuilt_without_its_children_from_every_version_to_every_version() {
    const SCHEMA: &str = "SELECT sql FROM sqlite_schema WHERE name NOT LIKE '!_vw!_%' ESCAPE '!' \
                          AND sql IS NOT NULL ORDER BY name";
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<Rebuilt<1>>>()).await;
        for from in 1..=REBUILDS.len() {
            for to in from..=REBUILDS.len() {
                restart_as_version(&vat, from).await;
                let old: Client = vat.object(&format!("{from} to {to}"));
                let made = act(&old, async |own| {
                    sql(&own, "INSERT INTO parent (id, a) VALUES (1, 'x'), (2, 'y')")?;
                    sql(&own, "INSERT INTO child (p) VALUES (1), (1), (2)")
                });
                made.await.unwrap();
                restart_as_version(&vat, to).await;
                let new: Client = vat.object(&format!("{to}, after {from}"));
                let expected = query(&new, SCHEMA).await.unwrap();
                assert_eq!(query(&old, SCHEMA).await.unwrap(), expected, "{from} {to}");
                let left = query(&old, "SELECT p || '' FROM child ORDER BY p").await;
                assert_eq!(left.unwrap(), ["1", "1", "2"], "from {from} to {to}");
                // The keys are as they should be, and hold.
                let orphan = query(&old, "INSERT INTO child (p) VALUES (9)").await;
                assert_eq!(code(orphan), Code::ApplicationFailed, "from {from} to {to}");
            }
        }
    });
}

version!(
    Orphaning,
    [
        REBUILDS[0],
        "PRAGMA foreign_keys = OFF; DELETE FROM parent WHERE id = 1"
    ],
    0
);

#[test]
fn a_migration_that_leaves_children_without_parents_is_undone() {
    run(async {
        let log = Log::keep();
        let vat = TestVat::start(|server| server.class::<Puppet<Rebuilt<1>>>()).await;
        let object: Client = vat.object("a");
        let rows = "INSERT INTO parent VALUES (1, 'x'); INSERT INTO child VALUES (1)";
        query(&object, rows).await.unwrap();
        restart_as::<Orphaning>(&vat).await;
        let error = query(&object, "SELECT 1").await.unwrap_err();
        assert!(!error.extra.contains("child"), "{error}");
        assert_eq!(log.count("table `child`, row 1"), 1);
        assert_eq!(code::<()>(Err(error)), Code::ActivationFailed);
        restart_as::<Rebuilt<6>>(&vat).await;
        let found = query(&object, "SELECT a FROM parent JOIN child ON p = id").await;
        assert_eq!(found.unwrap(), ["x!"]);
    });
}

/// Has a function that its tables need.
struct Folding;

impl Program for Folding {
    const MIGRATIONS: &'static [&'static str] =
        &["CREATE TABLE t (a); CREATE UNIQUE INDEX i ON t (folded(a)); INSERT INTO t VALUES ('Ä')"];

    fn sql_functions(functions: &mut SqlFunctions<'_>) -> vatwerk_server::Result<()> {
        functions.deterministic("folded", Some(1), |arguments| match arguments {
            [SqlValue::Text(text)] => Ok(text.to_lowercase().into()),
            _ => Ok(SqlValue::Null),
        })
    }
}

#[test]
fn migrations_and_calls_have_the_sql_functions_of_their_class() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<Folding>>()).await;
        let object: Client = vat.object("a");
        for _ in 0..2 {
            let found = query(&object, "SELECT folded(a) FROM t WHERE folded(a) = 'ä'").await;
            assert_eq!(found.unwrap(), ["ä"]);
            let twice = query(&object, "INSERT INTO t VALUES ('ä')").await;
            assert_eq!(code(twice), Code::ApplicationFailed);
            vat.crash().await;
        }
    });
}
