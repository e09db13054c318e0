//! Alarms of the real binary: a class whose number counts down by itself.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use tempfile::{TempDir, tempdir};

use crate::vat::{PATIENCE, Vat, example, files};

/// Objects fall asleep between two alarms.
const SLEEPY: &str = "[limits]\nidle_ms = 1\n";

fn serve(folder: &Path) -> Vat {
    spawn(folder, &[]).ready(1)
}

/// Begins to serve, and does not wait for anything.
fn spawn(folder: &Path, args: &[&str]) -> Vat {
    std::fs::write(folder.join("sleepy.toml"), SLEEPY).unwrap();
    let usual = ["--listen", "unix:vat.sock", "--config", "sleepy.toml"];
    Vat::spawn_program(&example("countdown"), folder, usual.iter().chain(args))
}

/// Waits until no alarm is set any more, and wakes nobody to find out.
fn wait_until_none_is_set(vat: &Vat) {
    let began = Instant::now();
    while !vat.printed(&["alarms", "list"]).is_empty() {
        assert!(began.elapsed() < PATIENCE, "{}", vat.errors());
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn alarms_of_objects_asleep_and_of_a_killed_server_run_by_themselves() {
    let folder = tempdir().unwrap();
    let vat = serve(folder.path());
    for (name, steps) in [("egg", 5), ("pot", 3)] {
        let amount = format!(r#"{{"amount":{steps}}}"#);
        vat.call("Countdown", name, "increment", &amount);
    }
    assert_eq!(vat.printed(&["alarms", "list"]).lines().count(), 2);
    vat.kill();
    let vat = serve(folder.path());
    wait_until_none_is_set(&vat);
    let shown = vat.printed(&["objects", "show", "Countdown", "egg", "--output", "json"]);
    assert!(shown.contains("asleep"), "{shown}");
    for name in ["egg", "pot"] {
        let left = vat.call("Countdown", name, "get", "{}");
        assert_eq!(left, r#"{"count":0}"#);
    }
}

#[test]
fn what_cannot_be_retired_is_named_and_nothing_is_served() {
    let folder = tempdir().unwrap();
    for (class, reason) in [
        ("Counter", "while it is served"),
        ("Teapot", "never served"),
    ] {
        let args = ["--listen", "unix:vat.sock", "--retire", class];
        let mut vat = Vat::spawn(folder.path(), args);
        assert_eq!(vat.wait(), Some(1));
        let said = vat.errors();
        assert!(said.contains(class) && said.contains(reason), "{said}");
    }
}

/// Has the only alarm of the vat that was served from the folder, and stopped, failed so often already.
fn set_failures(folder: &Path, failures: u32) {
    let databases = files(&folder.join("data/objects"));
    let changed = databases.iter().filter(|file| {
        let database = rusqlite::Connection::open(file).unwrap();
        database.table_exists(None, "_vw_alarms").unwrap()
            && database
                .execute(
                    "UPDATE _vw_alarms SET retries = ?1, backoff = ?1",
                    [failures],
                )
                .unwrap()
                == 1
    });
    assert_eq!(changed.count(), 1);
}

/// A folder that was served until the alarm of its object `bomb`, which ends the process, had run, and then
/// with alarms off. That handler has failed so often already.
fn bombed(failures: u32) -> TempDir {
    let folder = tempdir().unwrap();
    let mut vat = serve(folder.path());
    vat.call("Countdown", "bomb", "increment", r#"{"amount":-1}"#);
    // Of the first time nobody knows, and the second may come before it listens.
    assert_eq!(vat.wait(), None);
    assert_eq!(spawn(folder.path(), &[]).wait(), None);

    // The way out.
    let args = ["--alarms", "off", "--metrics", "unix:metrics.sock"];
    let mut vat = spawn(folder.path(), &args).ready(2);
    assert!(vat.printed(&["alarms", "list"]).contains("bomb"));
    let said = vat.errors();
    assert!(
        said.contains("WARN") && said.contains("alarms are off"),
        "{said}"
    );
    let bomb = vat.call("Countdown", "bomb", "get", "{}");
    assert_eq!(bomb, r#"{"count":-1}"#);
    vat.signal(libc::SIGTERM);
    assert_eq!(vat.wait(), Some(0), "{}", vat.errors());
    set_failures(folder.path(), failures);
    folder
}

#[test]
fn a_handler_that_aborts_is_held_back_and_the_vat_serves() {
    // For more than half a minute.
    let folder = bombed(4);
    let vat = serve(folder.path());
    vat.until_logged("the vat's process ended");
    let egg = vat.call("Countdown", "egg", "increment", r#"{"amount":1}"#);
    assert_eq!(egg, r#"{"count":1}"#);
    assert!(vat.printed(&["alarms", "list"]).contains("bomb"));
}

#[test]
fn a_handler_that_aborts_again_and_again_is_given_up() {
    let folder = bombed(6);
    let vat = serve(folder.path());
    wait_until_none_is_set(&vat);
    vat.until_logged("is given up");
    let said = vat.errors();
    let given_up = said.lines().find(|line| line.contains("is given up"));
    let given_up = given_up.unwrap();
    assert!(
        given_up.contains("ERROR") && given_up.contains("class=\"Countdown\""),
        "{given_up}"
    );
    let bomb = vat.call("Countdown", "bomb", "get", "{}");
    assert_eq!(bomb, r#"{"count":-1}"#);
}
