//! Whether a vat is live and ready: what an orchestrator asks, and what the disk has to do with it.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use tempfile::tempdir;

use crate::vat::{PATIENCE, Vat, ask, files, get, run};

const LISTEN: [&str; 4] = ["--listen", "tcp:127.0.0.1:0", "--metrics", "127.0.0.1:0"];

fn vat(folder: &Path) -> Vat {
    Vat::spawn(folder, LISTEN).ready(2)
}

/// The status and the body of an answer.
fn probe(vat: &Vat, path: &str) -> (u16, String) {
    let answer = get(vat.told("metrics"), path);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// Waits until the vat is ready, or is not; why not.
fn until(vat: &Vat, status: u16) -> String {
    let began = Instant::now();
    loop {
        let (found, body) = probe(vat, "/readyz");
        if found == status {
            return body;
        }
        assert!(began.elapsed() < PATIENCE, "not {status}: {body}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn number(vat: &Vat, name: &str) -> f64 {
    let text = get(vat.told("metrics"), "/metrics");
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.expect(name).parse().unwrap()
}

#[test]
fn a_vat_that_works_is_live_and_ready_whatever_the_method() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path());
    for path in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(probe(&vat, path), (200, "ok\n".to_owned()));
        let head = ask(vat.told("metrics"), &format!("HEAD {path}"), "");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.ends_with("\r\n\r\n"), "{head}");
    }
    assert!(number(&vat, "vatwerk_disk_free_bytes") > 0.0);
    assert_eq!(number(&vat, "vatwerk_journal_down"), 0.0);
    assert_eq!(number(&vat, "vatwerk_draining"), 0.0);
}

#[test]
fn a_vat_whose_folder_is_removed_or_replaced_says_so_and_ends() {
    for (what, is_replaced) in [("data", false), ("data", true), ("data/journal", true)] {
        let folder = tempdir().unwrap();
        let mut vat = vat(folder.path());
        vat.call("Counter", "a", "increment", "{}");
        let path = folder.path().join(what);
        let aside = folder.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        if is_replaced {
            fs::create_dir(&path).unwrap();
        }
        assert_eq!(vat.wait(), Some(1), "{}", vat.errors());
        let log = vat.errors();
        let told = ["was removed", "was replaced"][usize::from(is_replaced)];
        let lines = log.lines().filter(|line| line.contains(told));
        assert_eq!(lines.count(), 1, "{log}");
        assert!(log.contains("stopped without draining"), "{log}");
        if is_replaced {
            // Nothing of the vat's is written to what is there now.
            assert_eq!(files(&path), Vec::<PathBuf>::new());
            fs::remove_dir_all(&path).unwrap();
        }
        // Put back, it has what was acknowledged.
        fs::rename(&aside, &path).unwrap();
        let vat = self::vat(folder.path());
        assert_eq!(vat.call("Counter", "a", "get", "{}"), r#"{"count":1}"#);
    }
}

/// A program that is the binary in a mount namespace of its own, in which the folder `data` is a small
/// disk; `None` if the machine has no such namespaces, and `VATWERK_NO_NAMESPACES` says that it need not.
fn on_small_disk(folder: &Path, bytes: u32) -> Option<PathBuf> {
    let tried = Command::new("unshare").args(["-rm", "true"]).status();
    if !tried.is_ok_and(|status| status.success()) {
        assert!(
            env::var_os("VATWERK_NO_NAMESPACES").is_some(),
            "`unshare -rm` fails: a full disk cannot be tried here. VATWERK_NO_NAMESPACES=1 leaves it out"
        );
        return None;
    }
    fs::create_dir(folder.join("data")).unwrap();
    let binary = env!("CARGO_BIN_EXE_vatwerk");
    // Verbs see no data folder, and need none.
    let script = format!(
        "#!/bin/sh\nexec unshare -rm sh -c 'mount -t tmpfs -o size={bytes} none data && exec {binary} \"$@\"' sh \"$@\"\n"
    );
    let path = folder.join("vatwerk");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    Some(path)
}

#[test]
fn a_start_on_a_full_disk_says_which_folder_needs_how_much() {
    let folder = tempdir().unwrap();
    let Some(program) = on_small_disk(folder.path(), 1 << 20) else {
        return;
    };
    let mut vat = Vat::spawn_program(&program, folder.path(), LISTEN);
    assert_eq!(vat.wait(), Some(1));
    let log = vat.errors();
    let told = "error: the disk is full: data/journal needs 34603008 bytes, and 1048576 are free";
    assert!(log.contains(told), "{log}");
    assert!(log.contains("`limits.journal_bytes`"), "{log}");
}

#[test]
fn a_vat_on_a_disk_that_is_almost_full_is_not_ready_until_there_is_room() {
    let folder = tempdir().unwrap();
    let Some(program) = on_small_disk(folder.path(), 48 << 20) else {
        return;
    };
    let settings = "[limits]\njournal_bytes = 8388608\nfree_bytes = 25165824\nidle_ms = 100\n\
                    statement_ms = 60000\n";
    fs::write(folder.path().join("vat.toml"), settings).unwrap();
    let args = LISTEN.iter().chain(&["--config", "vat.toml"]);
    let mut vat = Vat::spawn_program(&program, folder.path(), args).ready(2);
    until(&vat, 200);
    let large = "CREATE TABLE t AS WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n \
                 WHERE i < 6) SELECT randomblob(1000000) FROM n";
    for name in ["a", "b", "c"] {
        vat.printed(&["sql", "Cell", name, large]);
    }
    let why = until(&vat, 503);
    assert!(why.contains("`limits.free_bytes` is 25165824"), "{why}");
    assert_eq!(probe(&vat, "/healthz").0, 503);
    assert_eq!(probe(&vat, "/livez").0, 200);
    assert!(number(&vat, "vatwerk_disk_free_bytes") < 25165824.0);
    for name in ["a", "b", "c"] {
        vat.printed(&["objects", "delete", "Cell", name]);
    }
    until(&vat, 200);
    // The log is written by a thread of its own.
    vat.until_logged("the disk is almost full");
    vat.until_logged("there is room on the disk again");
    vat.signal(libc::SIGTERM);
    assert_eq!(vat.wait(), Some(0), "{}", vat.errors());
}

#[test]
fn on_a_full_disk_what_does_not_fit_fails_and_is_told_once() {
    let folder = tempdir().unwrap();
    let Some(program) = on_small_disk(folder.path(), 32 << 20) else {
        return;
    };
    let settings = "[limits]\njournal_bytes = 8388608\nidle_ms = 100\nstatement_ms = 60000\n";
    fs::write(folder.path().join("vat.toml"), settings).unwrap();
    let args = LISTEN.iter().chain(&["--config", "vat.toml"]);
    let mut vat = Vat::spawn_program(&program, folder.path(), args).ready(2);
    vat.call("Counter", "a", "increment", "{}");
    let large = "CREATE TABLE t AS WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n \
                 WHERE i < 40) SELECT randomblob(1000000) FROM n";
    for _ in 0..6 {
        let told = vat.run(&["sql", "Cell", "large", large]);
        let told = told.failed(4);
        assert!(told.contains("storage-failed: "), "{told}");
    }
    // What is small, and what is there, goes on.
    assert_eq!(
        vat.call("Counter", "a", "increment", "{}"),
        r#"{"count":2}"#
    );
    assert_eq!(probe(&vat, "/livez").0, 200);
    let resets = "vatwerk_resets_total{class=\"Cell\",reason=\"storage\"}";
    assert_eq!(number(&vat, resets), 6.0);
    vat.signal(libc::SIGTERM);
    assert_eq!(vat.wait(), Some(0), "{}", vat.errors());
    let log = vat.errors();
    let told = log
        .lines()
        .filter(|line| line.contains("an object is reset"));
    let told: Vec<_> = told.collect();
    assert_eq!(told.len(), 1, "{log}");
    assert!(
        told[0].contains("class=\"Cell\"") && told[0].contains("storage-failed"),
        "{log}"
    );
}

#[test]
fn a_vat_that_drains_is_live_and_not_ready() {
    let folder = tempdir().unwrap();
    let program = crate::vat::example("held");
    fs::write(folder.path().join("vat.toml"), "drain_ms = 3600000\n").unwrap();
    let args = LISTEN.iter().chain(&["--config", "vat.toml"]);
    let mut vat = Vat::spawn_program(&program, folder.path(), args).ready(2);
    let mut call = vat.begin(&["call", "Held", "a", "reset", "{}"]);
    let began = Instant::now();
    while number(&vat, "vatwerk_calls_in_flight") == 0.0 {
        assert!(began.elapsed() < PATIENCE, "the call does not begin");
    }
    vat.signal(libc::SIGTERM);
    assert_eq!(until(&vat, 503), "stopping\n");
    assert_eq!(probe(&vat, "/livez").0, 200);
    assert_eq!(number(&vat, "vatwerk_draining"), 1.0);
    vat.signal(libc::SIGTERM);
    assert_eq!(vat.wait(), Some(0), "{}", vat.errors());
    call.wait().unwrap();
}

#[test]
fn a_start_without_the_journal_that_there_was_is_said() {
    let folder = tempdir().unwrap();
    let first = vat(folder.path());
    first.call("Counter", "a", "increment", "{}");
    first.kill();
    // As somebody who accepts the loss of what is in it.
    fs::remove_dir_all(folder.path().join("data/journal")).unwrap();
    fs::remove_file(folder.path().join("data/SEGMENTS")).unwrap();
    for is_gone in [true, false] {
        let vat = vat(folder.path());
        let log = vat.errors();
        assert_eq!(log.contains("its journal is gone"), is_gone, "{log}");
        vat.kill();
    }
}

#[test]
fn a_folder_that_is_new_is_said_to_be() {
    let folder = tempdir().unwrap();
    for is_new in [true, false] {
        let mut vat = vat(folder.path());
        let log = vat.errors();
        assert_eq!(log.contains("a new data folder"), is_new, "{log}");
        vat.signal(libc::SIGTERM);
        assert_eq!(vat.wait(), Some(0));
    }
    run(folder.path(), ["check", "--data", "data"]).printed();
}
