//! Failures that are not the client's leave a trace: a record in the log, once, and a number.

use std::{ffi::OsString, fs, path::Path};

use serde_json::Value;
use tempfile::tempdir;

use crate::vat::{Vat, ask, example, files, get};

/// A vat of the class `Held`, with HTTP and metrics, whose log is JSON.
fn vat(folder: &Path) -> Vat {
    let args = ["--listen", "tcp:127.0.0.1:0", "--metrics", "127.0.0.1:0"];
    let args = args
        .iter()
        .chain(&["--http", "127.0.0.1:0", "--log-format", "json"]);
    let args: Vec<_> = args.map(OsString::from).collect();
    let log = fs::File::create(folder.join("stderr")).unwrap();
    Vat::spawn_logging(&example("held"), folder, args, "info", log).ready(3)
}

/// Asks for a page of an object; the answer without the head.
fn page(vat: &Vat, path: &str) -> String {
    let answer = get(vat.told("http"), path);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap();
    format!("{status} {body}")
}

fn call(vat: &Vat, name: &str) -> String {
    let path = format!("/Held/{name}/call/increment");
    ask(vat.told("http"), &format!("POST {path}"), "{\"amount\":1}")
}

fn number(vat: &Vat, name: &str) -> u64 {
    let text = get(vat.told("metrics"), "/metrics");
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

/// Ends the vat, and returns the records of its log at that level that have a reason.
fn warnings(mut vat: Vat) -> Vec<Value> {
    vat.signal(libc::SIGTERM);
    assert_eq!(vat.wait(), Some(0), "{}", vat.errors());
    let log = vat.errors();
    let records = log.lines().map(|line| serde_json::from_str(line).unwrap());
    let mut records: Vec<Value> = records.collect();
    records.retain(|it| it["level"] == "WARN" && it["fields"]["reason"].is_string());
    records.into_iter().map(|it| it["fields"].clone()).collect()
}

#[test]
fn a_request_that_fails_is_logged_with_class_id_and_reason_and_counted() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path());
    for _ in 0..5 {
        let told = page(&vat, "/Held/a/fail");
        assert!(told.starts_with("500 "), "{told}");
        assert!(
            !told.contains("the well"),
            "what is inside is not told: {told}"
        );
    }
    assert!(page(&vat, "/Held/b/fail").starts_with("500 "));
    // What the client does wrong is not a failure of the vat.
    assert!(page(&vat, "/Nobody/b/fail").starts_with("404 "));
    let failures = "vatwerk_http_failures_total{class=\"Held\",code=\"application-failed\"}";
    assert_eq!(number(&vat, failures), 6);
    let calls = "vatwerk_calls_total{class=\"Held\",code=\"application-failed\"}";
    assert_eq!(number(&vat, calls), 6);
    let told = warnings(vat);
    assert_eq!(told.len(), 2, "{told:?}");
    for (told, name) in told.iter().zip(["a", "b"]) {
        assert_eq!(told["class"], "Held");
        assert_eq!(told["name"], name);
        assert_eq!(told["id"].as_str().unwrap().len(), 64);
        assert_eq!(told["status"], 500);
        assert_eq!(told["reason"], "application-failed: the well is dry");
    }
}

#[test]
fn an_answer_that_breaks_off_is_a_failure_too() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path());
    let told = get(vat.told("http"), "/Held/a/half");
    assert!(
        !told.ends_with("0\r\n\r\n"),
        "it is not taken for whole: {told}"
    );
    let failures = "vatwerk_http_failures_total{class=\"Held\",code=\"application-failed\"}";
    assert_eq!(number(&vat, failures), 1);
    let told = warnings(vat);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["reason"], "application-failed: the well is dry");
    assert_eq!(told[0]["name"], "a");
}

#[test]
fn an_object_that_does_not_wake_is_logged_once_and_counted_each_time() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path());
    for _ in 0..4 {
        let answer = call(&vat, "unwilling");
        assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
        assert!(answer.contains("activation-failed"), "{answer}");
        let told = page(&vat, "/Held/unwilling/");
        assert!(told.starts_with("500 "), "{told}");
    }
    for name in ["activation_failures", "calls", "http_failures"] {
        let name = format!("vatwerk_{name}_total{{class=\"Held\",code=\"activation-failed\"}}");
        assert_eq!(number(&vat, &name), 8, "{name}");
    }
    let told = warnings(vat);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["class"], "Held");
    assert_eq!(told[0]["id"].as_str().unwrap().len(), 64);
    assert_eq!(told[0]["reason"], "activation-failed: it does not want to");
}

#[test]
fn a_damaged_database_is_told_as_what_it_is() {
    let folder = tempdir().unwrap();
    let mut first = vat(folder.path());
    assert!(call(&first, "a").ends_with("{\"count\":1}"));
    first.signal(libc::SIGTERM);
    assert_eq!(first.wait(), Some(0), "{}", first.errors());
    let mut objects = files(&folder.path().join("data/objects"));
    let file = objects.pop().unwrap();
    let whole = fs::read(&file).unwrap();
    // Damaged, none, empty, gone.
    for damage in ["damaged", "none", "empty", "gone"] {
        match damage {
            "damaged" => {
                let mut spoilt = whole.clone();
                spoilt[4096..].fill(0xff);
                fs::write(&file, spoilt).unwrap();
            }
            "none" => fs::write(&file, vec![b'x'; whole.len()]).unwrap(),
            "empty" => fs::write(&file, "").unwrap(),
            _ => fs::remove_file(&file).unwrap(),
        }
        let vat = vat(folder.path());
        for _ in 0..3 {
            let answer = call(&vat, "a");
            assert!(answer.starts_with("HTTP/1.1 500 "), "{damage}: {answer}");
            assert!(answer.contains("\"storage-damaged\""), "{damage}: {answer}");
            assert!(answer.contains("damaged or gone"), "{damage}: {answer}");
        }
        let failures = "vatwerk_activation_failures_total{class=\"Held\",code=\"storage-damaged\"}";
        assert_eq!(number(&vat, failures), 3, "{damage}");
        let told = warnings(vat);
        assert_eq!(told.len(), 1, "{damage}: {told:?}");
        let reason = told[0]["reason"].as_str().unwrap();
        assert!(
            reason.starts_with("storage-damaged: "),
            "{damage}: {reason}"
        );
        assert_eq!(told[0]["class"], "Held");
    }
    // Put back, it goes on.
    fs::write(&file, whole).unwrap();
    assert!(call(&vat(folder.path()), "a").ends_with("{\"count\":2}"));
}
