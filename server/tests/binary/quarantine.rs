//! An object whose file cannot be written is alone in that.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tempfile::tempdir;

use crate::vat::{PATIENCE, Vat, get, run};

/// The largest file that the system lets the vat write, in bytes: more than a segment of its journal.
const LARGEST: u64 = 3_000_000;

/// Has an object grow by 100 KB.
const GROW: &str = "CREATE TABLE IF NOT EXISTS t (x); INSERT INTO t VALUES (randomblob(100000))";

/// Has an object write 300 KB, and not grow.
const WRITE: &str =
    "CREATE TABLE IF NOT EXISTS t (x); DELETE FROM t; INSERT INTO t VALUES (randomblob(300000))";

/// A vat whose journal goes round soon, and which may write no file past that length.
fn start(folder: &Path) -> Vat {
    let settings = "[limits]\njournal_bytes = 8388608\n";
    fs::write(folder.join("small.toml"), settings).unwrap();
    let listen = ["--listen", "tcp:127.0.0.1:0", "--metrics", "127.0.0.1:0"];
    let args = ["--config", "small.toml"].iter().chain(&listen);
    Vat::spawn(folder, args).ready(2)
}

fn limit_files(vat: &Vat, largest: Option<u64>) {
    let limit = Rlimit {
        current: largest,
        maximum: None,
    };
    prlimit(Pid::from_raw(vat.id()), Resource::Fsize, limit).unwrap();
}

fn quarantined(vat: &Vat) -> bool {
    get(vat.told("metrics"), "/metrics").contains("vatwerk_databases_quarantined 1\n")
}

#[test]
fn an_object_whose_file_may_not_grow_is_refused_alone_and_whole_when_it_may() {
    let folder = tempdir().unwrap();
    let vat = start(folder.path());
    limit_files(&vat, Some(LARGEST));
    let mut rows = 0;
    let refused = loop {
        let inserted = vat.run(&["sql", "Cell", "large", GROW]);
        if inserted.code != Some(0) {
            break inserted.failed(4);
        }
        rows += 1;
        assert!(rows < 200, "its file is never written");
        vat.printed(&["sql", "Cell", &format!("other-{}", rows % 8), WRITE]);
    };
    assert!(refused.contains("storage-failed"), "{refused}");
    assert!(refused.contains("File too large"), "{refused}");
    assert!(rows > 20, "{rows}: {}", vat.errors());
    assert!(quarantined(&vat));
    // Others are written, and it is read.
    for n in 0..40 {
        vat.printed(&["sql", "Cell", &format!("other-{}", n % 8), WRITE]);
    }
    let count = [
        "sql",
        "Cell",
        "large",
        "SELECT count(*) FROM t",
        "--output",
        "json",
    ];
    let counted = format!("{rows}");
    assert!(vat.printed(&count).contains(&counted));
    let log = vat.kill();
    assert_eq!(
        log.matches("the file of a database cannot be written")
            .count(),
        1,
        "{log}"
    );

    // A start that can write it has everything.
    let mut vat = start(folder.path());
    assert!(!quarantined(&vat));
    assert!(vat.printed(&count).contains(&counted));
    vat.printed(&["sql", "Cell", "large", GROW]);
    vat.signal(libc::SIGTERM);
    assert_eq!(vat.wait(), Some(0));
    run(folder.path(), ["check", "--data", "data"]).printed();
}

#[test]
fn an_object_whose_file_may_not_grow_is_written_as_soon_as_it_may() {
    let folder = tempdir().unwrap();
    let vat = start(folder.path());
    limit_files(&vat, Some(LARGEST));
    let mut rows = 0;
    while vat.run(&["sql", "Cell", "large", GROW]).code == Some(0) {
        rows += 1;
        assert!(rows < 200, "its file is never written");
        vat.printed(&["sql", "Cell", &format!("other-{}", rows % 8), WRITE]);
    }
    limit_files(&vat, None);
    // The retirer looks every two seconds.
    let began = Instant::now();
    while quarantined(&vat) {
        assert!(began.elapsed() < PATIENCE, "{}", vat.errors());
        thread::sleep(Duration::from_millis(50));
    }
    vat.printed(&["sql", "Cell", "large", GROW]);
    let log = vat.kill();
    assert!(
        log.contains("the file of a database can be written again"),
        "{log}"
    );
}
