//! A vat whose thread an object holds is still seen, and still ends.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    os::unix::{ffi::OsStringExt, fs::OpenOptionsExt},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use tempfile::tempdir;

use crate::vat::{PATIENCE, Vat, example};

const LONG: &str = "{\"amount\":3600000}";

/// A vat whose first line tells of calls, and whose second of operators.
fn vat(folder: &Path, settings: &str) -> Vat {
    fs::write(folder.join("vat.toml"), settings).unwrap();
    let listen = ["--listen", "tcp:127.0.0.1:0", "--metrics", "127.0.0.1:0"];
    let args = ["--config", "vat.toml"].iter().chain(&listen);
    Vat::spawn_program(&example("held"), folder, args).ready(2)
}

fn ask(vat: &Vat, path: &str) -> String {
    let address = vat.lines[1].strip_prefix("listening metrics ").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Asks until the vat is healthy, or is not.
fn until(vat: &Vat, status: &str) -> String {
    let began = Instant::now();
    loop {
        let answer = ask(vat, "/healthz");
        if answer.starts_with(&format!("HTTP/1.1 {status} ")) {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "not {status}: {answer}");
    }
}

#[test]
fn a_vat_that_is_held_answers_operators_and_ends_when_it_is_told_to() {
    for (drain_ms, signals) in [(1000, 1), (3_600_000, 2)] {
        let folder = tempdir().unwrap();
        let settings = format!("drain_ms = {drain_ms}\n[limits]\nheld_ms = 100\n");
        let mut vat = vat(folder.path(), &settings);
        assert_eq!(
            vat.call("Held", "a", "increment", "{\"amount\":1}"),
            r#"{"count":1}"#
        );
        let mut call = vat.begin(&["call", "Held", "b", "increment", LONG]);
        let answer = until(&vat, "503");
        assert!(
            answer.contains(" of class Held, in increment\n"),
            "{answer}"
        );
        let numbers = ask(&vat, "/metrics");
        assert!(
            numbers.contains("vatwerk_calls_total{class=\"Held\",code=\"ok\"} 1\n"),
            "{numbers}"
        );
        vat.until_logged("a turn holds the vat's thread");
        for signal in 0..signals {
            vat.signal(libc::SIGTERM);
            if signal == 0 {
                vat.until_logged("stopping");
            }
        }
        assert_eq!(vat.wait(), Some(1), "{}", vat.errors());
        call.wait().unwrap();
        let log = vat.errors();
        assert!(
            log.contains("the vat is to stop and its thread is held"),
            "{log}"
        );
        assert!(log.contains("stopped without draining"), "{log}");
        assert!(log.contains("of class Held, in increment"), "{log}");

        // What was acknowledged is there, and the turn that was cut off has not happened.
        let vat = self::vat(folder.path(), &settings);
        assert_eq!(vat.call("Held", "a", "get", "{}"), r#"{"count":1}"#);
        assert_eq!(vat.call("Held", "b", "get", "{}"), r#"{"count":0}"#);
    }
}

#[test]
fn a_vat_ends_though_another_of_its_threads_does_not() {
    for (drain_ms, signals, end) in [(100, 1, " stopped\n"), (3_600_000, 2, "without draining\n")] {
        let folder = tempdir().unwrap();
        let mut vat = vat(folder.path(), &format!("drain_ms = {drain_ms}\n"));
        let mut call = vat.begin(&["call", "Held", "a", "reset", "{}"]);
        let busy = "vatwerk_calls_in_flight 1\n";
        let began = Instant::now();
        while !ask(&vat, "/metrics").contains(busy) {
            assert!(began.elapsed() < PATIENCE, "the call does not begin");
        }
        for signal in 0..signals {
            vat.signal(libc::SIGTERM);
            if signal == 0 {
                vat.until_logged("stopping");
            }
        }
        assert_eq!(vat.wait(), Some(0), "{}", vat.errors());
        assert!(vat.errors().contains(end), "{}", vat.errors());
        call.wait().unwrap();
    }
}

/// A vat that is starting, and waits until its file `format` is written.
fn starting(folder: &Path) -> Vat {
    let data = folder.join("data");
    fs::create_dir(&data).unwrap();
    let format = CString::new(data.join("format").into_os_string().into_vec()).unwrap();
    // SAFETY: it is a text that ends with a zero.
    assert_eq!(unsafe { libc::mkfifo(format.as_ptr(), 0o600) }, 0);
    let vat = Vat::spawn_program(&example("held"), folder, ["--listen", "unix:vat.sock"]);
    let began = Instant::now();
    // The folder is taken after the signals.
    while !data.join("LOCK").exists() {
        assert!(began.elapsed() < PATIENCE, "{}", vat.errors());
        thread::sleep(Duration::from_millis(10));
    }
    vat
}

#[test]
fn a_vat_that_is_starting_stops_when_it_has_or_at_the_second_signal() {
    let folder = tempdir().unwrap();
    let mut vat = starting(folder.path());
    vat.signal(libc::SIGTERM);
    vat.until_logged("the vat is starting");
    vat.signal(libc::SIGTERM);
    assert_eq!(vat.wait(), Some(1), "{}", vat.errors());
    let log = vat.errors();
    assert!(log.contains("stopped while it was starting"), "{log}");

    let folder = tempdir().unwrap();
    let mut vat = starting(folder.path());
    vat.signal(libc::SIGTERM);
    vat.until_logged("the vat is starting");
    // Whether the vat reads it already or not: only without waiting may it be opened if nobody does.
    let began = Instant::now();
    let mut format = loop {
        let mut options = File::options();
        let options = options.write(true).custom_flags(libc::O_NONBLOCK);
        match options.open(folder.path().join("data/format")) {
            Ok(format) => break format,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        thread::sleep(Duration::from_millis(5));
    };
    format.write_all(b"vatwerk 3\n").unwrap();
    drop(format);
    assert_eq!(vat.wait(), Some(0), "{}", vat.errors());
    assert!(vat.errors().ends_with("stopped\n"), "{}", vat.errors());
}

#[test]
fn a_turn_that_was_long_is_logged_and_the_vat_goes_on() {
    let folder = tempdir().unwrap();
    let mut vat = vat(
        folder.path(),
        "[limits]\nlong_turn_ms = 50\nheld_ms = 100\n",
    );
    vat.call("Held", "a", "increment", "{\"amount\":10}");
    assert!(!vat.errors().contains("longer than"), "{}", vat.errors());
    vat.call("Held", "a", "increment", "{\"amount\":300}");
    let log = vat.errors();
    assert_eq!(log.matches("`limits.long_turn_ms`").count(), 1, "{log}");
    assert!(
        log.contains("class=\"Held\"") && log.contains("method=\"increment\""),
        "{log}"
    );
    until(&vat, "200");
    let numbers = ask(&vat, "/metrics");
    let long = "vatwerk_long_turns_total{class=\"Held\",method=\"increment\"} 1\n";
    assert!(numbers.contains(long), "{numbers}");
    vat.signal(libc::SIGTERM);
    assert_eq!(vat.wait(), Some(0), "{}", vat.errors());
}
