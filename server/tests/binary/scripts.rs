//! `vatwerk sql` with files: dumps out, and in again.

use std::{
    fs::{self, File},
    path::Path,
};

use rusqlite::Connection;
use tempfile::tempdir;

use crate::vat::{Vat, binary, ended};

/// What is easily lost: children before their parent, texts and numbers of all kinds, rows that only the
/// class of a table knows how to write, and what makes rows by itself.
const CURIOUS: &str = "\
    CREATE TABLE parent (id INTEGER PRIMARY KEY, a); \
    CREATE TABLE child (p REFERENCES parent (id) ON DELETE CASCADE); \
    INSERT INTO parent VALUES (1, 'x'), (2, NULL); INSERT INTO child VALUES (1), (2), (2); \
    CREATE TABLE \"odd \"\"name\" (id INTEGER PRIMARY KEY AUTOINCREMENT, \"v;--\" , g AS (id + 1)); \
    INSERT INTO \"odd \"\"name\" (\"v;--\") VALUES ('it''s; END'), (x'00ff'), (x''), (''), (9e999), \
      (-9e999), (0.1), (1e300), (-9223372036854775808), ('a' || char(0) || 'b'), (char(10, 233)); \
    DELETE FROM \"odd \"\"name\" WHERE id = 11; \
    CREATE TABLE keyed (k TEXT PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO keyed VALUES ('b', 1), ('a', 2); \
    CREATE VIRTUAL TABLE own USING fts5 (body); INSERT INTO own (rowid, body) VALUES (7, 'one two'); \
    CREATE TABLE source (id INTEGER PRIMARY KEY, body); INSERT INTO source VALUES (3, 'red'); \
    CREATE VIRTUAL TABLE outer_ USING fts5 (body, content = source, content_rowid = id); \
    INSERT INTO outer_ (outer_) VALUES ('rebuild'); \
    CREATE VIRTUAL TABLE words USING fts5vocab (own, row); \
    CREATE VIRTUAL TABLE boxes USING rtree (id, x0, x1); INSERT INTO boxes VALUES (1, 0.5, 2); \
    CREATE VIEW v AS SELECT * FROM child; \
    CREATE TRIGGER copy AFTER INSERT ON child BEGIN DELETE FROM keyed; END; \
    CREATE INDEX i ON child (p); \
    PRAGMA foreign_keys = OFF; CREATE TABLE new (id INTEGER PRIMARY KEY, a); \
    INSERT INTO new SELECT * FROM parent; DROP TABLE parent; ALTER TABLE new RENAME TO parent";

/// What `--dump` prints of a cell.
fn dumped(vat: &Vat, name: &str) -> String {
    vat.printed(&["sql", "Cell", name, "--dump"])
}

fn load(vat: &Vat, folder: &Path, name: &str, sql: &str) {
    let file = folder.join("script.sql");
    fs::write(&file, sql).unwrap();
    vat.printed(&["sql", "Cell", name, "--file", file.to_str().unwrap()]);
}

#[test]
fn a_dump_makes_everything_anew() {
    let folder = tempdir().unwrap();
    let vat = Vat::start(folder.path());
    vat.printed(&["sql", "Cell", "old", CURIOUS]);
    vat.printed(&["kv", "Cell", "old", "put", "key", "stays here"]);
    let small = dumped(&vat, "old");
    assert!(
        !small.contains("_vw_") && !small.contains("own_content"),
        "{small}"
    );
    load(&vat, folder.path(), "small", &small);
    assert_eq!(dumped(&vat, "small"), small);
    // Of more than one call, with values that no call takes as text.
    let large = "INSERT INTO source SELECT 10 + value, hex(randomblob(100000)) FROM \
                 json_each('[1,2,3,4,5]'); INSERT INTO keyed VALUES ('blob', randomblob(300000))";
    vat.printed(&["sql", "Cell", "old", large]);
    let large = dumped(&vat, "old");
    assert!(large.len() > 1_500_000);
    load(&vat, folder.path(), "large", &large);
    assert_eq!(dumped(&vat, "large"), large);
    let query = "SELECT rowid FROM outer_ WHERE outer_ MATCH 'red' UNION ALL \
                 SELECT rowid FROM own WHERE own MATCH 'two' UNION ALL SELECT id FROM boxes";
    for name in ["old", "small", "large"] {
        let found = vat.printed(&["sql", "Cell", name, query, "--csv"]);
        assert_eq!(found, "rowid\n3\n7\n1\n", "{name}");
    }
    // SQLite itself takes it.
    for dump in [small, large] {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(&dump).unwrap();
        let count = "SELECT count(*) FROM \"odd \"\"name\" AS o, child WHERE o.id < 11";
        let found: i64 = connection.query_row(count, [], |row| row.get(0)).unwrap();
        assert_eq!(found, 30);
    }
}

#[test]
fn a_file_happens_whole_or_as_its_transactions_say() {
    let folder = tempdir().unwrap();
    let vat = Vat::start(folder.path());
    let file = folder.path().join("file.sql");
    let run = |sql: &str| {
        fs::write(&file, sql).unwrap();
        vat.run(&["sql", "Cell", "x", "--file", file.to_str().unwrap()])
    };
    let names = "SELECT name FROM sqlite_schema WHERE name <> '_vw_meta'";
    let tables = || vat.printed(&["sql", "Cell", "x", names, "--csv"]);
    // As `sqlite3` writes them: the rows of a child before the table of its parent.
    let dump = "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n\
                CREATE TABLE c(p REFERENCES \"p\"(id));\nINSERT INTO c VALUES(1);\n\
                CREATE TABLE IF NOT EXISTS \"p\"(id INTEGER PRIMARY KEY);\n\
                INSERT INTO \"p\" VALUES(1);\nCOMMIT;\n";
    run(dump).printed();
    assert_eq!(tables(), "name\nc\np\n");
    let orphans = dump.replace("VALUES(1);\nCOMMIT", "VALUES(2);\nCOMMIT");
    let orphans = orphans
        .replace("c(p", "d(p")
        .replace("INTO c VALUES(1)", "INTO d VALUES(7)");
    let error = run(&orphans).failed(1);
    assert!(error.contains("table `d`, row 1"), "{error}");
    // A transaction that ended counts, and what comes after it is by itself.
    let error = run("BEGIN; CREATE TABLE kept (a); COMMIT; CREATE TABLE lost (a); SELEC").failed(1);
    assert!(error.starts_with("error: sql-failed: "), "{error}");
    run("BEGIN; CREATE TABLE undone (a); ROLLBACK").printed();
    assert_eq!(tables(), "name\nc\np\nkept\n");
    let many = format!(
        "CREATE TABLE many (a); {}",
        "INSERT INTO many VALUES (1);\n".repeat(8000)
    );
    run(&format!("{many}SELEC")).failed(1);
    assert_eq!(tables(), "name\nc\np\nkept\n");
    let counted = run(&format!("{many}SELECT count(*) FROM many")).printed();
    assert!(counted.contains("8000"), "{counted}");
    run("BEGIN; SELECT 1").failed(2);
    vat.run(&["sql", "Cell", "x", "--file", "/nowhere/at/all"])
        .failed(1);
    // From stdin.
    fs::write(&file, "SELECT 'a,b' AS x, NULL, '', 'q\"', x'0aff', 1.5").unwrap();
    let mut command = binary(folder.path());
    let to = ["--connect", &vat.address(0)];
    command
        .args(["sql", "Cell", "x", "--file", "-", "--csv"])
        .args(to);
    let read = ended(command.stdin(File::open(&file).unwrap())).printed();
    assert_eq!(
        read,
        "x,NULL,'',\"'q\"\"'\",x'0aff',1.5\n\"a,b\",,\"\",\"q\"\"\",x'0aff',1.5\n"
    );
}
