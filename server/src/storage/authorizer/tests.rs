use super::super::testing::{TestResult, code, fresh};
use super::super::{Cursor, Range, Storage};
use crate::{Error, Result};

fn exec(storage: &Storage, sql: &str) -> Result<Cursor> {
    storage.sql().exec(sql, ())
}

#[test]
fn what_is_refused() -> TestResult {
    let (_folder, storage) = fresh();
    storage.kv().put("k", &1)?;
    storage.meta().mark_created(None, 1)?;
    exec(
        &storage,
        "CREATE TABLE t (a PRIMARY KEY, b); CREATE INDEX i ON t (b); \
         CREATE VIRTUAL TABLE f USING fts5 (x)",
    )?;
    for sql in [
        "SELECT * FROM _vw_kv",
        "SELECT * FROM _VW_KV",
        "SELECT * FROM \"_vw_meta\"",
        "SELECT (SELECT count(*) FROM main._vw_kv)",
        "INSERT INTO _vw_kv VALUES ('a', 'b')",
        "UPDATE _vw_kv SET value = x''",
        "DELETE FROM _vw_meta",
        "DROP TABLE _vw_kv",
        "CREATE TABLE _vw_x (a)",
        "CREATE TABLE _Vw_x AS SELECT 1",
        "CREATE VIEW _vw_x AS SELECT 1",
        "CREATE INDEX _vw_x ON t (b)",
        "CREATE INDEX x ON _vw_kv (value)",
        "CREATE TRIGGER _vw_x AFTER INSERT ON t BEGIN SELECT 1; END",
        "CREATE TRIGGER x AFTER INSERT ON _vw_kv BEGIN SELECT 1; END",
        "CREATE VIRTUAL TABLE _vw_x USING fts5 (a)",
        "CREATE VIRTUAL TABLE _vw USING fts5 (a)",
        "ALTER TABLE _vw_kv RENAME TO mine",
        "ALTER TABLE _vw_kv ADD COLUMN mine",
        "ALTER TABLE t RENAME TO _vw_x",
        "/* */ ALTER TABLE t RENAME TO \"_VW_x\"",
        "\u{feff}ALTER TABLE t RENAME TO _vw_x",
        "ALTER TABLE f RENAME TO _vw_x",
        "ALTER TABLE f RENAME TO _vw",
        "PRAGMA table_info(_vw_kv)",
        "PRAGMA table_xinfo('_vw_kv')",
        "PRAGMA index_list(_vw_meta)",
        "PRAGMA index_info(sqlite_autoindex__vw_kv_1)",
        "PRAGMA foreign_key_check(_vw_kv)",
        "SELECT * FROM pragma_table_info('_vw_kv')",
        "BEGIN",
        "BEGIN IMMEDIATE",
        "COMMIT",
        "END",
        "ROLLBACK",
        "SAVEPOINT x",
        "RELEASE x",
        "ROLLBACK TO x",
        "ATTACH ':memory:' AS x",
        "ATTACH '/tmp/x' AS x",
        "DETACH main",
        "VACUUM",
        "VACUUM INTO '/tmp/x'",
        "CREATE TEMP TABLE x (a)",
        "CREATE TEMP VIEW x AS SELECT 1",
        "CREATE TEMPORARY TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END",
        "CREATE TABLE temp.x (a)",
        "CREATE VIRTUAL TABLE x USING fts3 (a)",
        "CREATE VIRTUAL TABLE x USING fts4 (a)",
        "CREATE VIRTUAL TABLE x USING dbstat",
        "SELECT * FROM dbstat",
        "SELECT sqlite_compileoption_get(1)",
        "SELECT fts5_source_id()",
        "SELECT fts3_tokenizer('simple')",
        "SELECT rtreenode(2, x'00')",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA journal_mode",
        "PRAGMA synchronous = OFF",
        "PRAGMA locking_mode = NORMAL",
        "PRAGMA writable_schema = ON",
        "PRAGMA trusted_schema = ON",
        "PRAGMA max_page_count = 1",
        "PRAGMA page_size = 512",
        "PRAGMA user_version = 1",
        "PRAGMA cache_size = 1",
        "PRAGMA wal_checkpoint",
        "PRAGMA foreign_keys = 7",
        "PRAGMA temp.table_info(t)",
        "PRAGMA database_list",
        "PRAGMA compile_options",
        "PRAGMA function_list",
        "PRAGMA nonsense",
    ] {
        let error = exec(&storage, sql).map(drop).expect_err(sql);
        assert!(matches!(error, Error::SqlRefused(_)), "{sql}: {error:?}");
    }
    let error = exec(&storage, "BEGIN").map(drop).expect_err("refused");
    assert!(error.to_string().contains("`transaction`"), "{error}");
    let error = exec(&storage, "SELECT * FROM _vw_kv")
        .map(drop)
        .expect_err("refused");
    assert!(error.to_string().contains("prohibited"), "{error}");
    // Nothing came of any of it.
    let left: Vec<String> = exec(
        &storage,
        "SELECT name FROM sqlite_schema WHERE name NOT LIKE 'f!_%' ESCAPE '!'",
    )?
    .all()?;
    let expected = ["_vw_kv", "_vw_meta", "t", "sqlite_autoindex_t_1", "i", "f"];
    assert_eq!(left, expected);
    // The schema cannot be edited by hand either.
    assert_eq!(
        code(exec(&storage, "DELETE FROM sqlite_schema")),
        "sql-failed"
    );
    assert_eq!(code(exec(&storage, "DROP TABLE f_data")), "sql-failed");
    assert_eq!(
        code(exec(&storage, "SELECT load_extension('x')").and_then(|mut c| c.to_vec())),
        "sql-failed"
    );
    assert_eq!(storage.keys(), ["k"]);
    Ok(())
}

#[test]
fn what_is_allowed() -> TestResult {
    let (_folder, storage) = fresh();
    storage.kv().put("k", &1)?;
    for sql in [
        "CREATE TABLE t (a INTEGER PRIMARY KEY AUTOINCREMENT, b CHECK (b > 0))",
        "INSERT INTO t (b) VALUES (1) ON CONFLICT DO NOTHING",
        "CREATE INDEX i ON t (b)",
        "CREATE VIEW v AS SELECT * FROM t",
        "CREATE TRIGGER g INSTEAD OF INSERT ON v BEGIN INSERT INTO t (b) VALUES (new.b); END",
        "INSERT INTO v (b) VALUES (5)",
        "ALTER TABLE t ADD COLUMN c",
        "ALTER TABLE t RENAME COLUMN c TO d",
        "ALTER TABLE t DROP COLUMN d",
        "ALTER TABLE t RENAME TO u",
        "DROP VIEW v",
        "ANALYZE",
        "REINDEX",
        "PRAGMA optimize",
        "PRAGMA data_version",
        "PRAGMA page_size",
        "PRAGMA foreign_keys",
        "PRAGMA foreign_keys = ON",
        "PRAGMA defer_foreign_keys = 'yes'",
        "PRAGMA case_sensitive_like = FALSE",
        "PRAGMA ignore_check_constraints = 0",
        "PRAGMA table_info(u)",
        "PRAGMA table_list",
        "PRAGMA index_list('u')",
        "PRAGMA foreign_key_check",
        "PRAGMA quick_check",
        "SELECT * FROM pragma_table_xinfo('u')",
        "SELECT name FROM sqlite_schema",
        "SELECT key, value FROM json_each('[1, 2]')",
        "SELECT json_extract('{\"a\": [1]}', '$.a[0]'), '{}' -> '$', jsonb('1')",
        "SELECT sqlite_version(), sqlite_source_id(), if(1, 2, 3), unistr('\\u0041')",
        "SELECT json_pretty('[1]'), json_error_position('[1'), json_array_insert('[1]', '$[0]', 2)",
        "SELECT pow(2, 3), ceil(1.5), log(100), pi()",
        "SELECT strftime('%Y', 'now'), unixepoch(), current_timestamp, timediff('now', 'now')",
        "SELECT group_concat(b), max(a, b), sum(b) OVER (ORDER BY a) FROM u GROUP BY b",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3) SELECT * FROM n",
        "EXPLAIN QUERY PLAN SELECT * FROM u",
        "SELECT '_vw_kv'",
    ] {
        let result = exec(&storage, sql).and_then(|mut cursor| cursor.to_vec());
        assert!(result.is_ok(), "{sql}: {result:?}");
    }
    assert_eq!(storage.integers("SELECT b FROM u")?, [1, 5]);
    // A toggle that checks less, and not for long.
    exec(
        &storage,
        "PRAGMA ignore_check_constraints = ON; INSERT INTO u (b) VALUES (-1)",
    )?;
    assert_eq!(
        code(exec(&storage, "INSERT INTO u (b) VALUES (-1)")),
        "sql-failed"
    );
    assert_eq!(storage.keys(), ["k"]);
    Ok(())
}

#[test]
fn full_text_and_r_trees() -> TestResult {
    let (_folder, storage) = fresh();
    exec(
        &storage,
        "CREATE VIRTUAL TABLE docs USING fts5 (body, tokenize = 'porter'); \
         CREATE VIRTUAL TABLE words USING fts5vocab (docs, row); \
         CREATE TABLE source (body); \
         CREATE TRIGGER copy AFTER INSERT ON source BEGIN INSERT INTO docs VALUES (new.body); END; \
         CREATE VIRTUAL TABLE boxes USING rtree (id, x0, x1); \
         CREATE VIRTUAL TABLE cells USING rtree_i32 (id, x0, x1); \
         INSERT INTO source VALUES ('running dogs'), ('a cat'); \
         INSERT INTO boxes VALUES (1, 0, 1), (2, 5, 6); \
         INSERT INTO docs (docs) VALUES ('optimize')",
    )?;
    let found: Vec<(String, String)> = exec(
        &storage,
        "SELECT highlight(docs, 0, '[', ']'), snippet(docs, 0, '<', '>', '', 5) FROM docs \
         WHERE docs MATCH 'run' ORDER BY bm25(docs), rank",
    )?
    .all()?;
    assert_eq!(found, [("[running] dogs".into(), "<running> dogs".into())]);
    assert_eq!(storage.integers("SELECT count(*) FROM words")?, [4]);
    assert_eq!(storage.integers("SELECT id FROM boxes WHERE x0 > 3")?, [2]);
    let check: String = exec(&storage, "SELECT rtreecheck('boxes')")?.one_as()?;
    assert_eq!(check, "ok");
    exec(
        &storage,
        "ALTER TABLE docs RENAME TO texts; DROP TABLE words; DROP TABLE texts",
    )?;
    Ok(())
}

#[test]
fn views_and_triggers_reach_no_further_than_their_maker() -> TestResult {
    let (_folder, storage) = fresh();
    storage.kv().put("k", &1)?;
    exec(&storage, "CREATE TABLE t (a)")?;
    // They can be written down, as in SQLite, but not used.
    let _ = exec(&storage, "CREATE VIEW v AS SELECT * FROM _vw_kv");
    assert_ne!(code(exec(&storage, "SELECT * FROM v")), "ok");
    let _ = exec(
        &storage,
        "CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM _vw_kv; END",
    );
    assert_eq!(
        code(exec(&storage, "INSERT INTO t VALUES (1)")),
        "sql-refused"
    );
    assert_eq!(storage.keys(), ["k"]);
    Ok(())
}

#[test]
fn cached_statements_are_refused_again_after_a_change() -> TestResult {
    let (_folder, storage) = fresh();
    exec(&storage, "CREATE TABLE t (a)")?;
    let rename = "ALTER TABLE t RENAME TO _vw_x";
    for _ in 0..3 {
        assert_eq!(code(exec(&storage, rename)), "sql-refused");
        assert_eq!(code(exec(&storage, "ALTER TABLE t RENAME TO t2")), "ok");
        assert_eq!(code(exec(&storage, "ALTER TABLE t2 RENAME TO t")), "ok");
    }
    Ok(())
}

#[test]
fn statements_prepared_with_trust_are_not_lent_out() -> TestResult {
    let (_folder, storage) = fresh();
    storage.enter_turn();
    storage.kv().put("k", &1)?;
    storage.kv().get::<i32>("k")?;
    storage.kv().list_bytes(&Range::all())?;
    storage.transaction(|storage| storage.kv().delete("k"))?;
    for ours in [
        ours!("SELECT value FROM _vw_kv WHERE key = ?1"),
        ours!("SELECT key, value FROM _vw_kv WHERE key >= ?1 ORDER BY key LIMIT ?2"),
        ours!("DELETE FROM _vw_kv WHERE key = ?1"),
        ours!("BEGIN"),
        ours!("COMMIT"),
        ours!("SAVEPOINT _vw_0"),
        ours!("RELEASE _vw_0"),
    ] {
        let bare = ours.trim_start_matches("/**/");
        for text in [
            ours,
            bare,
            &format!("{bare};"),
            &format!(" {ours}"),
            &format!(";{ours}"),
        ] {
            let bindings = vec![0; bare.matches('?').count()];
            assert_eq!(
                code(storage.sql().exec(text, bindings)),
                "sql-refused",
                "{text}"
            );
        }
    }
    assert!(storage.commit_turn()?.is_some());
    Ok(())
}

#[test]
fn triggers_do_not_ride_on_statements_of_ours() -> TestResult {
    let (_folder, storage) = fresh();
    storage.meta().mark_created(Some("good"), 1)?;
    storage.kv().put("secret", &"value")?;
    exec(&storage, "CREATE TABLE loot (k, v)")?;
    let child = "CREATE TABLE c (k TEXT REFERENCES _vw_kv (key) ON DELETE CASCADE)";
    let steal = "CREATE TRIGGER steal AFTER DELETE ON c BEGIN \
            INSERT INTO loot SELECT key, value FROM _vw_kv; \
            INSERT OR REPLACE INTO _vw_meta VALUES ('name', 'evil'); \
        END";
    for sql in [
        child,
        "CREATE TABLE IF NOT EXISTS c (k REFERENCES [_VW_KV])",
        "CREATE TABLE c (k, FOREIGN KEY (k) REFERENCES \"_vw_later\" (k))",
        "ALTER TABLE loot ADD COLUMN w REFERENCES _vw_kv (key)",
    ] {
        assert_eq!(code(exec(&storage, sql)), "sql-refused", "{sql}");
        assert_eq!(code(exec(&storage, sql)), "sql-refused", "{sql}, again");
    }
    assert_eq!(code(exec(&storage, "SELECT * FROM c")), "sql-failed");
    assert_eq!(code(exec(&storage, "SELECT w FROM loot")), "sql-failed");
    // What merely mentions the name may be.
    exec(
        &storage,
        "CREATE TABLE d (k DEFAULT '_vw_kv' REFERENCES loot)",
    )?;
    assert!(storage.kv().delete("secret")?);

    // Should there be such a key all the same, its triggers are the user's.
    storage.kv().put("secret", &"value")?;
    storage.trusted(child)?;
    storage.trusted("INSERT INTO c VALUES ('secret')")?;
    storage.trusted(steal)?;
    assert_eq!(code(storage.kv().delete("secret")), "sql-refused");
    assert_eq!(storage.integers("SELECT count(*) FROM loot")?, [0]);
    assert_eq!(storage.meta().name()?.as_deref(), Some("good"));
    Ok(())
}

#[test]
fn statistics_show_no_keys() -> TestResult {
    let (folder, storage) = fresh();
    exec(
        &storage,
        "CREATE TABLE t (a); CREATE INDEX i ON t (a); INSERT INTO t VALUES (1), (2); \
         CREATE VIRTUAL TABLE r USING rtree (id, a, b); INSERT INTO r VALUES (1, 2, 3)",
    )?;
    for at in 0..50 {
        storage.kv().put(&format!("secret{at}"), &at)?;
    }
    exec(&storage, "PRAGMA optimize; ANALYZE; ANALYZE t; ANALYZE")?;
    exec(&storage, "CREATE VIEW v AS SELECT * FROM sqlite_stat4")?;
    for sql in [
        "SELECT * FROM sqlite_stat4 WHERE tbl = '_vw_kv'",
        "SELECT 1 FROM SQLITE_STAT4",
        "SELECT sample FROM v",
        "INSERT INTO sqlite_stat1 VALUES ('t', 'i', '1000 1')",
        "UPDATE sqlite_stat1 SET stat = ''",
        "DELETE FROM sqlite_stat1",
        "DELETE FROM sqlite_stat4",
    ] {
        assert_eq!(code(exec(&storage, sql)), "sql-refused", "{sql}");
    }
    assert_eq!(
        storage
            .integers("SELECT count(*) FROM sqlite_stat1 WHERE tbl IS NOT NULL OR stat <> ''")?,
        [0]
    );
    storage.close()?;
    let storage = super::super::testing::open(&folder);
    assert_eq!(storage.integers("SELECT id FROM r WHERE a > 1")?, [1]);
    assert_eq!(storage.integers("SELECT a FROM t WHERE a > 1")?, [2]);
    storage.enter_turn();
    exec(&storage, "ALTER TABLE t ADD COLUMN b; ANALYZE")?;
    storage.rollback_turn();
    assert_eq!(storage.integers("SELECT a FROM t WHERE a > 1")?, [2]);
    storage.delete_all()?;
    exec(&storage, "CREATE TABLE t (a); ANALYZE; PRAGMA optimize")?;
    Ok(())
}

#[test]
fn the_script_that_stole_keys_is_refused() -> TestResult {
    let (_folder, storage) = fresh();
    storage.meta().mark_created(Some("good"), 1)?;
    storage.kv().put("secret", &"value")?;
    let script = "create table loot(k,v); \
        create table c(k text references _vw_kv(key) on delete cascade); \
        pragma foreign_keys=off; insert into c values('secret'); pragma foreign_keys=on; \
        create trigger steal after delete on c begin \
        insert into loot select key,value from _vw_kv; \
        insert or replace into _vw_meta values('name', 'evil'); end";
    assert_eq!(code(exec(&storage, script)), "sql-refused");
    // Statement by statement, as one who does not stop at an error.
    let mut rest = script;
    while !rest.is_empty() {
        let (statement, tail) = super::super::text::split(rest);
        let _ = exec(&storage, statement);
        rest = tail.trim_start();
    }
    assert!(storage.kv().delete("secret")?);
    assert_eq!(storage.integers("SELECT count(*) FROM loot")?, [0]);
    assert_eq!(storage.meta().name()?.as_deref(), Some("good"));
    Ok(())
}
