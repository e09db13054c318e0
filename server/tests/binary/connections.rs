//! How many connections a vat takes, and what becomes of them when it is told to stop.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use tempfile::tempdir;

use crate::vat::{PATIENCE, Vat, example, get};

const LISTEN: [&str; 6] = [
    "--listen",
    "tcp:127.0.0.1:0",
    "--http",
    "127.0.0.1:0",
    "--metrics",
    "127.0.0.1:0",
];

fn number(vat: &Vat, name: &str) -> u64 {
    let text = get(vat.told("metrics"), "/metrics");
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.expect(name).parse().unwrap()
}

/// Waits until a number is so large.
fn until(vat: &Vat, name: &str, least: u64) {
    let began = Instant::now();
    while number(vat, name) < least {
        assert!(began.elapsed() < PATIENCE, "{name} stays below {least}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whether the vat has closed a connection on which it has nothing to say.
fn is_refused(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    match stream.read(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

fn rpc(vat: &Vat) -> &str {
    vat.told("tcp")
}

fn connect(address: &str) -> TcpStream {
    TcpStream::connect(address.replace(' ', ":")).unwrap()
}

#[test]
fn connections_over_a_limit_are_refused_at_once_and_the_log_names_the_setting() {
    let folder = tempdir().unwrap();
    let settings = "[limits]\nconnections = 2\n[http]\nconnections = 2\n";
    fs::write(folder.path().join("vat.toml"), settings).unwrap();
    let args = LISTEN.iter().chain(&["--config", "vat.toml"]);
    let vat = Vat::spawn(folder.path(), args).ready(3);
    for (address, prefix, key) in [
        (rpc(&vat), "vatwerk_", "`limits.connections`"),
        (
            vat.told("http"),
            "vatwerk_http_",
            "`connections` in the section `[http]`",
        ),
    ] {
        let held: Vec<_> = (0..2).map(|_| connect(address)).collect();
        until(&vat, &format!("{prefix}connections"), 2);
        for _ in 0..3 {
            assert!(is_refused(&connect(address)));
        }
        let refused = format!("{prefix}connections_refused_total");
        assert_eq!(number(&vat, &refused), 3);
        let log = vat.errors();
        let told = log
            .lines()
            .filter(|line| line.contains(key) && line.contains("WARN"));
        assert_eq!(told.count(), 1, "{log}");
        drop(held);
    }
    // There is room again.
    let began = Instant::now();
    while number(&vat, "vatwerk_connections") > 0 {
        assert!(began.elapsed() < PATIENCE);
    }
    vat.call("Counter", "a", "increment", "{}");
}

/// A program that is the binary with few file descriptors.
fn with_few_files(folder: &Path, files: u32) -> PathBuf {
    let binary = env!("CARGO_BIN_EXE_vatwerk");
    let script = format!("#!/bin/sh\nulimit -n {files}\nexec {binary} \"$@\"\n");
    let path = folder.join("vatwerk");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn connections_do_not_take_the_files_that_objects_need() {
    let folder = tempdir().unwrap();
    let program = with_few_files(folder.path(), 128);
    // Objects sleep at once, so that their files are written.
    fs::write(folder.path().join("vat.toml"), "[limits]\nidle_ms = 10\n").unwrap();
    let args = LISTEN.iter().chain(&["--config", "vat.toml"]);
    let mut vat = Vat::spawn_program(&program, folder.path(), args).ready(3);
    assert!(vat.errors().contains("connections=48"), "{}", vat.errors());
    let held: Vec<_> = (0..47).map(|_| connect(vat.told("http"))).collect();
    until(&vat, "vatwerk_http_connections", 47);
    // The last place is for calls, one after the other, each on a connection of its own.
    for name in 0..20 {
        let name = format!("n{name}");
        assert_eq!(
            vat.call("Counter", &name, "increment", "{}"),
            r#"{"count":1}"#
        );
    }
    let last = connect(rpc(&vat));
    until(&vat, "vatwerk_connections", 1);
    let refused: Vec<_> = (0..100).map(|_| connect(vat.told("http"))).collect();
    assert!(refused.iter().all(is_refused));
    assert_eq!(number(&vat, "vatwerk_http_connections_refused_total"), 100);
    let log = vat.errors();
    assert!(log.contains("the limit of open files"), "{log}");
    assert!(!log.contains("no connections are taken"), "{log}");
    drop((held, last));
    let began = Instant::now();
    while number(&vat, "vatwerk_connections") + number(&vat, "vatwerk_http_connections") > 0 {
        assert!(began.elapsed() < PATIENCE);
    }
    for name in 0..20 {
        let name = format!("n{name}");
        assert_eq!(vat.call("Counter", &name, "get", "{}"), r#"{"count":1}"#);
    }
    vat.signal(libc::SIGTERM);
    assert_eq!(vat.wait(), Some(0), "{}", vat.errors());
}

#[test]
fn signals_that_mean_nothing_to_a_vat_do_not_end_it() {
    let folder = tempdir().unwrap();
    let mut vat = Vat::start(folder.path());
    for (signal, name) in [
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGUSR1, "SIGUSR1"),
        (libc::SIGUSR2, "SIGUSR2"),
    ] {
        vat.signal(signal);
        vat.until_logged(name);
        vat.call("Counter", "a", "increment", "{}");
    }
    assert_eq!(vat.call("Counter", "a", "get", "{}"), r#"{"count":3}"#);
    vat.signal(libc::SIGTERM);
    assert_eq!(vat.wait(), Some(0), "{}", vat.errors());
}

/// Asks for a page, and reads the head of the answer and the first event, if it has one.
fn open(vat: &Vat, path: &str, more: &str, first: &str) -> BufReader<TcpStream> {
    let mut stream = connect(vat.told("http"));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n"
    )
    .unwrap();
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while !first.is_empty() && line.trim() != first {
        line.clear();
        assert_ne!(stream.read_line(&mut line).unwrap(), 0, "{path} ends");
    }
    stream
}

#[test]
fn a_vat_with_open_streams_of_all_kinds_stops_and_tells_those_that_it_can() {
    let folder = tempdir().unwrap();
    let mut vat = Vat::spawn_program(&example("held"), folder.path(), LISTEN).ready(3);
    let handshake = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let ready = "data: ready";
    let mut polite = open(&vat, "/Held/a/until-the-end", "", ready);
    let _endless = open(&vat, "/Held/a/for-ever", "", ready);
    let _poll = open(&vat, "/Held/a/wait", "", "");
    let mut socket = open(&vat, "/Held/a/socket", handshake, "connection: Upgrade");
    let _idle = connect(vat.told("http"));
    let _held = connect(rpc(&vat));
    let mut call = vat.begin(&["call", "Held", "b", "reset", "{}"]);
    until(&vat, "vatwerk_calls_in_flight", 4);
    vat.signal(libc::SIGTERM);
    // Whoever listens for it has a last word, and the end of the answer.
    let mut rest = String::new();
    polite.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: the end\n"), "{rest}");
    assert!(rest.ends_with("0\r\n\r\n"), "{rest}");
    // A WebSocket is told 1001 (0x03e9).
    let mut frame = Vec::new();
    let _ = socket.read_to_end(&mut frame);
    let close = frame
        .windows(4)
        .any(|bytes| bytes[0] == 0x88 && bytes[2..] == [0x03, 0xe9]);
    assert!(close, "{frame:?}");
    assert_eq!(vat.wait(), Some(0), "{}", vat.errors());
    let log = vat.errors();
    assert!(log.contains("calls were still running"), "{log}");
    assert!(log.ends_with("stopped\n"), "{log}");
    call.wait().unwrap();
}
