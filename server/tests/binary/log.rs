//! The log of a vat: whatever becomes of stderr, the vat goes on, and panics are records like others.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    path::Path,
    process::Stdio,
    thread,
    time::Instant,
};

use serde_json::Value;
use tempfile::tempdir;

use crate::vat::{PATIENCE, Vat, ask, example, get};

/// A vat of the class `Held`, with metrics and HTTP, that logs to `log`.
fn vat(folder: &Path, more: &[&str], filter: &str, log: impl Into<Stdio>) -> Vat {
    let listen = ["--listen", "tcp:127.0.0.1:0", "--metrics", "127.0.0.1:0"];
    let args = listen.iter().chain(&["--http", "127.0.0.1:0"]).chain(more);
    let args = args.map(OsString::from).collect();
    Vat::spawn_logging(&example("held"), folder, args, filter, log).ready(3)
}

/// Calls the object `a`.
fn call(vat: &Vat, method: &str, params: &str) -> String {
    ask(
        vat.told("http"),
        &format!("POST /Held/a/call/{method}"),
        params,
    )
}

/// The number of records that the log has lost.
fn lost(vat: &Vat) -> u64 {
    let text = get(vat.told("metrics"), "/metrics");
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix("vatwerk_log_records_lost_total "));
    value.expect("the metric").parse().unwrap()
}

/// Calls a vat until its log has lost something.
fn until_lost(vat: &Vat) {
    let began = Instant::now();
    while lost(vat) == 0 {
        assert!(began.elapsed() < PATIENCE, "nothing is lost");
        for _ in 0..50 {
            assert!(call(vat, "get", "{}").starts_with("HTTP/1.1 200 "));
        }
    }
}

/// Uses a vat whose log goes nowhere: objects work and fail as ever, and it stops as it should.
fn goes_on(mut vat: Vat) {
    until_lost(&vat);
    let panicked = call(&vat, "increment", "{\"amount\":-1}");
    assert!(panicked.contains("object-reset"), "{panicked}");
    let counted = call(&vat, "increment", "{\"amount\":1}");
    assert!(counted.ends_with("{\"count\":1}"), "{counted}");
    vat.signal(libc::SIGTERM);
    assert_eq!(vat.wait(), Some(0));
}

#[test]
fn a_vat_goes_on_if_its_log_cannot_be_written() {
    let folder = tempdir().unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    goes_on(vat(folder.path(), &[], "trace", full));
}

#[test]
fn a_vat_goes_on_if_whatever_reads_its_log_has_ended() {
    let folder = tempdir().unwrap();
    let (read, log) = io::pipe().unwrap();
    let vat = vat(folder.path(), &[], "trace", log);
    drop(read);
    goes_on(vat);
}

#[test]
fn a_vat_goes_on_if_whatever_reads_its_log_does_not_read() {
    let folder = tempdir().unwrap();
    let (read, log) = io::pipe().unwrap();
    goes_on(vat(folder.path(), &[], "trace", log));
    drop(read);
}

#[test]
fn after_records_were_lost_the_log_says_how_many() {
    let folder = tempdir().unwrap();
    let (mut read, log) = io::pipe().unwrap();
    let mut vat = vat(folder.path(), &[], "trace", log);
    until_lost(&vat);
    let reading = thread::spawn(move || {
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        text
    });
    call(&vat, "get", "{}");
    vat.signal(libc::SIGTERM);
    assert_eq!(vat.wait(), Some(0));
    let text = reading.join().unwrap();
    assert!(text.contains("records of the log were lost"), "{text}");
}

#[test]
fn a_panic_of_an_object_is_one_record_in_the_format_of_the_log() {
    let folder = tempdir().unwrap();
    let log = File::create(folder.path().join("stderr")).unwrap();
    let mut vat = vat(folder.path(), &["--log-format", "json"], "info", log);
    let panicked = call(&vat, "increment", "{\"amount\":-1}");
    assert!(panicked.contains("object-reset"), "{panicked}");
    vat.signal(libc::SIGTERM);
    assert_eq!(vat.wait(), Some(0));
    let text = vat.errors();
    let records: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no record: {line}")))
        .collect();
    let panics: Vec<_> = records
        .iter()
        .filter(|record| record.to_string().contains("a negative time"))
        .collect();
    assert_eq!(panics.len(), 1, "{text}");
    let fields = &panics[0]["fields"];
    assert_eq!(panics[0]["level"], "ERROR");
    assert_eq!(fields["class"], "Held");
    let place = fields["place"].as_str().unwrap();
    assert!(place.contains("held.rs:"), "{place}");
}
