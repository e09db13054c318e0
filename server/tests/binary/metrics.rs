//! What an operator sees of a vat from outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::TcpStream,
};

use tempfile::{TempDir, tempdir};

use crate::vat::{Vat, run};

/// A vat whose first line tells of calls, and whose second of metrics. Its objects stay awake.
fn vat(folder: &TempDir) -> Vat {
    let settings = "[limits]\nidle_ms = 600000\n";
    fs::write(folder.path().join("awake.toml"), settings).unwrap();
    let listen = ["--listen", "tcp:127.0.0.1:0", "--metrics", "127.0.0.1:0"];
    let args = ["--config", "awake.toml"].iter().chain(&listen);
    Vat::spawn(folder.path(), args).ready(2)
}

fn connect(vat: &Vat) -> TcpStream {
    let address = vat.lines[1].strip_prefix("listening metrics ").unwrap();
    TcpStream::connect(address).unwrap()
}

/// The whole answer.
fn ask(vat: &Vat, request: &str) -> String {
    let mut stream = connect(vat);
    write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The value of a number without labels.
fn number(answer: &str, name: &str) -> f64 {
    let line = answer.lines().find(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(' '))
    });
    let value = line.and_then(|line| line.split(' ').next_back());
    value
        .unwrap_or_else(|| panic!("{name}\n{answer}"))
        .parse()
        .unwrap()
}

#[test]
fn a_vat_that_works_shows_it_in_numbers() {
    let folder = tempdir().unwrap();
    let vat = vat(&folder);
    let first = ask(&vat, "GET /metrics");
    vat.call("Counter", "somebody", "increment", "{}");
    let second = ask(&vat, "GET /metrics");
    assert!(second.starts_with("HTTP/1.1 200 OK\r\n"), "{second}");
    assert!(
        second.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{second}"
    );
    let version = concat!(
        "vatwerk_build_info{version=\"",
        env!("CARGO_PKG_VERSION"),
        "\"} 1\n"
    );
    assert!(second.contains(version), "{second}");
    assert!(second.contains("class=\"Counter\""), "{second}");
    assert!(!second.contains("somebody"), "{second}");
    let grew = |name| number(&second, name) - number(&first, name);
    assert_eq!(grew("vatwerk_connections_total"), 1.0);
    assert_eq!(grew("vatwerk_objects_awake"), 1.0);
    assert!(grew("vatwerk_commits_total") > 0.0);
    assert!(number(&second, "vatwerk_journal_bytes") > 0.0);
    assert!(number(&second, "vatwerk_start_time_seconds") > 1e9);
}

#[test]
fn nothing_else_is_answered() {
    let folder = tempdir().unwrap();
    let vat = vat(&folder);
    for (request, status) in [
        ("GET /healthz", "200 OK"),
        ("GET /", "404 Not Found"),
        ("GET /metrics/Counter", "404 Not Found"),
        ("DELETE /metrics", "405 Method Not Allowed"),
    ] {
        let answer = ask(&vat, request);
        let expected = format!("HTTP/1.1 {status}\r\n");
        assert!(answer.starts_with(&expected), "{request}: {answer}");
    }
}

#[test]
fn those_that_stall_keep_nobody_from_asking() {
    let folder = tempdir().unwrap();
    let vat = vat(&folder);
    let stalled: Vec<TcpStream> = (0..15)
        .map(|_| {
            let mut stream = connect(&vat);
            write!(stream, "GET /metrics HTTP/1.1\r\nHost").unwrap();
            stream
        })
        .collect();
    for _ in 0..2 {
        assert!(ask(&vat, "GET /metrics").contains("vatwerk_build_info"));
    }
    vat.call("Counter", "x", "get", "{}");
    drop(stalled);
}

#[test]
fn numbers_are_for_this_machine_unless_told_otherwise_and_may_be_asked_for_in_the_settings() {
    let folder = tempdir().unwrap();
    let exposed = ["serve", "--listen", "tcp:127.0.0.1:0", "--http", "none"];
    let exposed = exposed.iter().chain(&["--metrics", "0.0.0.0:0"]);
    let error = run(folder.path(), exposed).failed(1);
    assert!(error.contains("--metrics-insecure"), "{error}");
    let settings = "listen = [\"tcp:127.0.0.1:0\"]\nmetrics = \"127.0.0.1:0\"\n";
    fs::write(folder.path().join("vat.toml"), settings).unwrap();
    let vat = Vat::spawn(folder.path(), ["--config", "vat.toml"]).ready(2);
    assert!(ask(&vat, "GET /healthz").ends_with("\r\n\r\nok\n"));
}

/// Every name of a number in a text: a word that starts as the numbers of a vat, or of its process, do.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("vatwerk_") || word.starts_with("process_"));
    ours.collect()
}

#[test]
fn the_dashboard_and_the_alerts_name_numbers_that_there_are() {
    /// Numbers that are not there before one of their labels is: tests of `metrics` have them.
    const LATER: [&str; 3] = [
        "vatwerk_http_failures_total",
        "vatwerk_long_turns_total",
        "vatwerk_service_restarts_total",
    ];
    let folder = tempdir().unwrap();
    let vat = vat(&folder);
    let answer = ask(&vat, "GET /metrics");
    let described = answer.lines().filter_map(|line| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        Some((name, kind))
    });
    let described: BTreeMap<&str, &str> = described.collect();
    let exists = |name: &str| {
        let parts = ["_bucket", "_sum", "_count"].iter();
        let mut wholes = parts.filter_map(|part| name.strip_suffix(part));
        described.contains_key(name)
            || LATER.contains(&name)
            || wholes.any(|whole| described.get(whole) == Some(&"histogram"))
    };
    let dashboard = include_str!("../../deploy/grafana.json");
    serde_json::from_str::<serde_json::Value>(dashboard).unwrap();
    for text in [dashboard, include_str!("../../deploy/alerts.yml")] {
        let names = names(text);
        assert!(names.len() > 10, "{names:?}");
        for name in names {
            assert!(exists(name), "{name}\n{answer}");
        }
    }
    // The numbers of the vat's own settings.
    for limit in ["limits.calls_per_vat", "limits.resident_objects"] {
        let limit = format!("vatwerk_limit{{setting=\"{limit}\"}}");
        assert!(answer.contains(&limit), "{limit}");
    }
}
