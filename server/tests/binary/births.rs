//! An object comes into being with its first write, whoever looks at it before.

use std::path::PathBuf;

use tempfile::tempdir;

use crate::vat::{Vat, ask, files, get, run};

const CLASSES: [&str; 3] = ["Cell", "ChatRoom", "Counter"];

/// Looks at objects that do not exist, over HTTP and over Cap'n Proto.
fn look(vat: &Vat) {
    let http = vat.told("http");
    for n in 0..100 {
        let page = get(http, &format!("/ChatRoom/{n}/"));
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
        let missing = get(http, &format!("/ChatRoom/{n}/nothing"));
        assert!(missing.starts_with("HTTP/1.1 404"), "{missing}");
        let history = ask(http, &format!("POST /ChatRoom/{n}/call/history"), "{}");
        assert!(history.ends_with(r#"{"lines":[]}"#), "{history}");
    }
    assert_eq!(
        vat.call("ChatRoom", "room", "history", "{}"),
        r#"{"lines":[]}"#
    );
    assert_eq!(vat.call("Counter", "c", "get", "{}"), r#"{"count":0}"#);
    vat.printed(&["sql", "Cell", "box", "SELECT 1"]);
    assert_ne!(vat.run(&["kv", "Cell", "box", "get", "k"]).code, None);
    assert_ne!(
        vat.run(&["sql", "Cell", "box", "SELECT nothing"]).code,
        Some(0)
    );
    assert_eq!(vat.printed(&["objects", "delete", "Cell", "box"]), "0\n");
    let shown = vat.printed(&["objects", "show", "ChatRoom", "room"]);
    assert!(shown.contains("exists\tfalse"), "{shown}");
    for class in CLASSES {
        assert_eq!(vat.printed(&["objects", "count", class]), "0\n", "{class}");
    }
}

#[test]
fn looks_leave_no_file_and_a_write_is_there_after_a_kill() {
    let folder = tempdir().unwrap();
    let serve = || {
        let args = ["--listen", "tcp:127.0.0.1:0", "--http", "127.0.0.1:0"];
        Vat::spawn(folder.path(), args).ready(2)
    };
    let objects = || -> Vec<PathBuf> {
        let objects = folder.path().join("data/objects");
        if objects.exists() {
            files(&objects)
        } else {
            Vec::new()
        }
    };
    for _ in 0..2 {
        let mut vat = serve();
        look(&vat);
        vat.signal(libc::SIGTERM);
        assert_eq!(vat.wait(), Some(0));
        assert_eq!(objects(), Vec::<PathBuf>::new());
        run(folder.path(), ["check", "--data", "data"]).printed();
    }
    let vat = serve();
    look(&vat);
    vat.kill();

    let vat = serve();
    look(&vat);
    let line = r#"{"author":"ann","text":"hello"}"#;
    let said = ask(vat.told("http"), "POST /ChatRoom/room/call/say", line);
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    vat.printed(&["kv", "Cell", "box", "put", "k", "v"]);
    vat.kill();

    let mut vat = serve();
    for (class, count) in CLASSES.into_iter().zip(["1\n", "1\n", "0\n"]) {
        assert_eq!(vat.printed(&["objects", "count", class]), count, "{class}");
    }
    let history = vat.call("ChatRoom", "room", "history", "{}");
    assert!(history.contains(r#""text":"hello""#), "{history}");
    assert_eq!(vat.printed(&["kv", "Cell", "box", "get", "k"]), "v\n");
    vat.signal(libc::SIGTERM);
    assert_eq!(vat.wait(), Some(0));
    assert_eq!(objects().len(), 2);
    run(folder.path(), ["check", "--data", "data"]).printed();
}
