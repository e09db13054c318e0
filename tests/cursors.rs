//! SQL over the wire.

use vatwerk::Code;

use crate::support::{
    TestVat,
    cell::{Ops, V, cell, columns, counts, next, one},
    code, run,
};

const NUMBERS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) \
                       SELECT i FROM n";

async fn users(cell: &Ops) {
    cell.exec(
        "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT); \
         INSERT INTO users (name) VALUES ('Zoe'); \
         INSERT INTO users (name) VALUES (?)",
        &[V::text("Alice")],
    )
    .await
    .unwrap();
}

#[test]
fn create_insert_with_a_binding_and_select() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        users(&cell).await;
        let query = "SELECT name FROM users WHERE name = ?";
        let rows = cell.exec(query, &[V::text("Alice")]).await.unwrap();
        assert_eq!(rows, [[V::text("Alice")]]);
        let size = cell.sql().database_size_request().send().promise.await;
        assert!(size.unwrap().get().unwrap().get_bytes() > 0);
    });
}

#[test]
fn every_kind_of_value_comes_back_exactly() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        let values = [
            V::Null,
            V::Int(i64::MIN),
            V::Int(i64::MAX),
            V::Int((1 << 53) + 1),
            V::Real(0.1),
            V::text("ü\u{1F600}"),
            V::text(""),
            V::Blob(vec![0, 255, 0]),
            V::Blob(vec![]),
        ];
        cell.exec("CREATE TABLE t (v)", &[]).await.unwrap();
        for value in &values {
            let insert = "INSERT INTO t VALUES (?)";
            cell.exec(insert, std::slice::from_ref(value))
                .await
                .unwrap();
        }
        let rows = cell.exec("SELECT v FROM t ORDER BY rowid", &[]).await;
        assert_eq!(rows.unwrap().concat(), values);
    });
}

#[test]
fn a_cursor_is_read_as_it_is_asked() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        // Far more rows than a statement could make in its time.
        let cursor = cell.cursor(NUMBERS, &[V::Int(1 << 60)]).await.unwrap();
        assert_eq!(columns(&cursor).await.unwrap(), ["i"]);
        let (rows, done) = next(&cursor, 3).await.unwrap();
        assert_eq!(rows.concat(), [V::Int(1), V::Int(2), V::Int(3)]);
        assert!(!done);
        let (rows, _) = next(&cursor, 2).await.unwrap();
        assert_eq!(rows.concat(), [V::Int(4), V::Int(5)]);
        assert_eq!(code(next(&cursor, 0).await), Code::InvalidArgument);

        let short = cell.cursor(NUMBERS, &[V::Int(2)]).await.unwrap();
        let (rows, done) = next(&short, 10).await.unwrap();
        assert_eq!((rows.len(), done), (2, true));
        let (rows, done) = next(&short, 10).await.unwrap();
        assert_eq!((rows.len(), done), (0, true));
        assert_eq!(columns(&short).await.unwrap(), ["i"]);
    });
}

#[test]
fn a_batch_is_bounded_in_bytes() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        let cursor = cell
            .cursor(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100) \
                 SELECT zeroblob(400000) FROM n",
                &[],
            )
            .await
            .unwrap();
        let (rows, done) = next(&cursor, 1000).await.unwrap();
        assert!(rows.len() <= 3 && !done, "{} rows", rows.len());
    });
}

#[test]
fn one_is_exactly_one() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        for (rows, fits) in [(0, false), (1, true), (2, false)] {
            let query = format!("SELECT 7 WHERE {rows} > 0 UNION ALL SELECT 8 WHERE {rows} > 1");
            let cursor = cell.cursor(&query, &[]).await.unwrap();
            match fits {
                true => assert_eq!(one(&cursor).await.unwrap(), [V::Int(7)]),
                false => assert_eq!(code(one(&cursor).await), Code::InvalidArgument),
            }
        }
    });
}

#[test]
fn columns_of_one_name_are_all_there() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        let cursor = cell.cursor("SELECT 1 AS x, 2 AS x", &[]).await.unwrap();
        assert_eq!(columns(&cursor).await.unwrap(), ["x", "x"]);
        assert_eq!(one(&cursor).await.unwrap(), [V::Int(1), V::Int(2)]);
    });
}

#[test]
fn rows_read_and_written_are_counted() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        users(&cell).await;
        let insert = "INSERT INTO users (name) VALUES ('x'), ('y'), ('z')";
        let cursor = cell.cursor(insert, &[]).await.unwrap();
        assert_eq!(counts(&cursor).await.unwrap().1, 3);
        let cursor = cell.cursor("SELECT * FROM users", &[]).await.unwrap();
        next(&cursor, 100).await.unwrap();
        assert_eq!(counts(&cursor).await.unwrap(), (5, 0));
    });
}

#[test]
fn several_statements_are_one_commit_and_bindings_belong_to_the_last() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        users(&cell).await;
        let rows = cell.exec("SELECT count(*) FROM users", &[]).await.unwrap();
        assert_eq!(rows, [[V::Int(2)]]);
        // The last one fails: the statements before it are kept or undone together with the turn,
        // whose commit they are part of; what failed leaves nothing of itself.
        let failing = "INSERT INTO users VALUES (10, 'a'), (10, 'b')";
        assert_eq!(code(cell.exec(failing, &[]).await), Code::SqlFailed);
        let rows = cell.exec("SELECT count(*) FROM users", &[]).await.unwrap();
        assert_eq!(rows, [[V::Int(2)]]);
    });
}

#[test]
fn the_number_of_bindings_must_fit() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        for bindings in [&[][..], &[V::Int(1)], &[V::Int(1), V::Int(2), V::Int(3)]] {
            let refused = cell.exec("SELECT ? + ?", bindings).await;
            assert_eq!(code(refused), Code::InvalidArgument);
        }
        let too_many = vec![V::Null; 101];
        let refused = cell.exec("SELECT 1", &too_many).await;
        assert!(matches!(
            code(refused),
            Code::LimitExceeded | Code::InvalidArgument
        ));
    });
}

#[test]
fn what_reaches_out_of_the_database_or_into_the_vats_tables_is_refused() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        cell.put("k", b"v").await.unwrap();
        for refused in [
            "ATTACH '/tmp/other.sqlite' AS o",
            "DETACH main",
            "BEGIN",
            "COMMIT",
            "SAVEPOINT s",
            "PRAGMA journal_mode = DELETE",
            "PRAGMA writable_schema = 1",
            "SELECT * FROM _vw_kv",
            "SELECT key, value FROM _vw_kv WHERE key >= ?1 ORDER BY key LIMIT ?2",
            "DROP TABLE _vw_kv",
            "DELETE FROM _VW_KV",
            "CREATE TABLE _vw_mine (x)",
            "ALTER TABLE t RENAME TO _vw_t",
            "CREATE TEMP TABLE t2 (x)",
            "SELECT sqlite_compileoption_get(1)",
            "CREATE VIRTUAL TABLE v USING csv(filename='/etc/passwd')",
        ] {
            if refused.starts_with("ALTER") {
                cell.exec("CREATE TABLE t (x)", &[]).await.unwrap();
            }
            // A listing puts the vat's own statement into the cache first.
            cell.page(Default::default()).await.unwrap();
            let bindings: &[V] = match refused.contains('?') {
                true => &[V::text(""), V::Int(9)],
                false => &[],
            };
            let code = code(cell.exec(refused, bindings).await);
            assert_eq!(code, Code::SqlRefused, "{refused}");
        }
        // Not a file more: SQLite itself fails this one.
        let copy = vat.data().join("copy.sqlite");
        let vacuum = format!("VACUUM INTO '{}'", copy.display());
        assert!(cell.exec(&vacuum, &[]).await.is_err() && !copy.exists());
        assert_eq!(cell.get("k").await.unwrap().unwrap(), b"v");
        for fine in [
            "SELECT json('[1]')",
            "SELECT unixepoch()",
            "PRAGMA table_info(t)",
        ] {
            cell.exec(fine, &[]).await.unwrap();
        }
    });
}

#[test]
fn sql_that_is_no_sql_says_so() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        for wrong in ["SELEKT 1", "SELECT * FROM nowhere", "SELECT 1 +"] {
            assert_eq!(
                code(cell.exec(wrong, &[]).await),
                Code::SqlFailed,
                "{wrong}"
            );
        }
        for empty in ["", "   ", "-- nothing", "/* */ ;"] {
            let refused = code(cell.exec(empty, &[]).await);
            let fits = matches!(refused, Code::InvalidArgument | Code::SqlFailed);
            assert!(fits, "{empty:?}: {refused}");
        }
        let long = format!("SELECT '{}'", "x".repeat(100_000));
        assert_eq!(code(cell.exec(&long, &[]).await), Code::LimitExceeded);
        let large = "SELECT zeroblob(4194305)";
        let refused = code(cell.exec(large, &[]).await);
        assert!(matches!(refused, Code::LimitExceeded | Code::SqlFailed));
    });
}

#[test]
fn a_statement_that_runs_for_too_long_is_stopped() {
    run(async {
        let vat = TestVat::with(|config| config.limits.statement_ms = 100).await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                       SELECT count(*) FROM n";
        assert_eq!(code(cell.exec(endless, &[]).await), Code::LimitExceeded);
        cell.put("k", b"v").await.unwrap();
        // Many statements of one call have no more time than one, and a write that is stopped after
        // others, which resets the object, still says why: to try again would not help.
        let some = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 10000) \
                    SELECT count(*) FROM n;";
        assert_eq!(
            code(cell.exec(&some.repeat(800), &[]).await),
            Code::LimitExceeded
        );
        let writing = "CREATE TABLE t (i); INSERT INTO t VALUES (1); \
                       WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                       INSERT INTO t SELECT i FROM n";
        assert_eq!(code(cell.exec(writing, &[]).await), Code::LimitExceeded);
        assert_eq!(
            code(cell.exec("SELECT * FROM t", &[]).await),
            Code::SqlFailed
        );
    });
}

#[test]
fn delete_all_closes_cursors() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        users(&cell).await;
        let cursor = cell.cursor("SELECT * FROM users", &[]).await.unwrap();
        assert_eq!(next(&cursor, 1).await.unwrap().0.len(), 1);
        let request = cell.storage().delete_all_request();
        request.send().promise.await.unwrap();
        assert_eq!(code(next(&cursor, 1).await), Code::Closed);
    });
}

#[test]
fn delete_all_from_outside_waits_for_the_transaction_that_is_open() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        cell.put("k", b"v").await.unwrap();
        let tx = cell.begun().await.unwrap();
        // From outside it waits its turn, and then runs.
        let request = cell.storage().delete_all_request();
        let waiting = tokio::task::spawn_local(request.send().promise);
        tx.ops.put("k2", b"v").await.unwrap();
        assert!(!waiting.is_finished());
        tx.commit().await.unwrap();
        waiting.await.unwrap().unwrap();
        assert!(cell.keys(Default::default()).await.is_empty());
    });
}
