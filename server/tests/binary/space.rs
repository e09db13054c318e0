//! Room on the real disk, which a file gives back when its object does not need it any more.

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Instant};

use serde_json::Value;
use tempfile::tempdir;

use crate::vat::{PATIENCE, Vat, files};

const MIB: u64 = 1 << 20;

/// How much room the largest file of an object takes, as the file system says.
fn on_disk(folder: &Path) -> u64 {
    let objects = files(&folder.join("data/objects")).into_iter();
    let room = |path| fs::metadata(path).unwrap().blocks() * 512;
    objects.map(room).max().expect("an object has a file")
}

/// How long the file of the object is, as the vat says.
fn file_bytes(vat: &Vat) -> u64 {
    let show = ["objects", "show", "Cell", "box", "--output", "json"];
    let shown: Value = serde_json::from_str(&vat.printed(&show)).unwrap();
    shown["fileBytes"].as_u64().unwrap()
}

#[test]
fn a_file_of_60_mb_is_short_after_delete_all_while_the_vat_runs() {
    let folder = tempdir().unwrap();
    let settings = "[limits]\njournal_bytes = 8388608\nstatement_ms = 60000\n";
    fs::write(folder.path().join("vat.toml"), settings).unwrap();
    let args = ["--config", "vat.toml", "--listen", "tcp:127.0.0.1:0"];
    let vat = Vat::spawn(folder.path(), args).ready(1);
    let sql = |name: &str, sql: &str| vat.printed(&["sql", "Cell", name, sql]);
    sql("box", "CREATE TABLE t (v)");
    for _ in 0..15 {
        sql(
            "box",
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000) \
             INSERT INTO t SELECT randomblob(4000) FROM n",
        );
    }
    // Others write, until the journal has brought to the file what it has.
    sql("other", "CREATE TABLE t (v)");
    let go_round = |is_done: &dyn Fn() -> bool| {
        let began = Instant::now();
        while !is_done() {
            assert!(began.elapsed() < PATIENCE);
            sql(
                "other",
                "DELETE FROM t; INSERT INTO t VALUES (randomblob(200000))",
            );
        }
    };
    go_round(&|| on_disk(folder.path()) > 57 * MIB);
    assert!(file_bytes(&vat) > 57 * MIB);
    vat.call("Cell", "box", "deleteAll", "{}");
    vat.printed(&["kv", "Cell", "box", "put", "k", "v"]);
    go_round(&|| on_disk(folder.path()) < MIB);
    assert!(file_bytes(&vat) < MIB / 16);
    assert_eq!(vat.printed(&["kv", "Cell", "box", "get", "k"]), "v\n");
}
