//! Alarms of the real binary: a class whose number counts down by itself.

use std::{path::Path, thread, time::Duration};

use tempfile::tempdir;

use crate::vat::{Vat, example};

/// Objects fall asleep between two alarms.
const SLEEPY: &str = "[limits]\nidle_ms = 1\n";

fn serve(folder: &Path) -> Vat {
    std::fs::write(folder.join("sleepy.toml"), SLEEPY).unwrap();
    let args = ["--listen", "unix:vat.sock", "--config", "sleepy.toml"];
    Vat::spawn_program(&example("countdown"), folder, args).ready(1)
}

/// Waits until no alarm is set any more, and wakes nobody to find out.
fn wait_until_none_is_set(vat: &Vat) {
    while !vat.printed(&["alarms", "list"]).is_empty() {
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
