//! The verbs that talk to a vat.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
    rc::Rc,
    sync::mpsc,
    thread,
};

use capnp::capability::FromClientHook;
use serde_json::{Value, json};
use tempfile::tempdir;
use vatwerk::{
    cell_capnp::cell,
    storage_capnp::{entry_sink, operations},
};
use vatwerk_client::LocalClient;

use crate::vat::{Vat, binary, ended, limited, run};

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn call_takes_and_prints_json() {
    let folder = tempdir().unwrap();
    let vat = Vat::start(folder.path());
    // Defaults, extremes, and results without members.
    let calls = [
        ("increment", "{}", r#"{"count":1}"#),
        ("increment", r#"{"amount":null}"#, r#"{"count":2}"#),
        ("reset", "{}", "{}"),
        ("get", "{}", r#"{"count":0}"#),
        (
            "increment",
            r#"{"amount":9223372036854775807}"#,
            r#"{"count":9223372036854775807}"#,
        ),
        ("reset", "{}", "{}"),
        (
            "increment",
            r#"{"amount":"-9223372036854775808"}"#,
            r#"{"count":-9223372036854775808}"#,
        ),
    ];
    for (method, params, answer) in calls {
        assert_eq!(vat.call("Counter", "x", method, params), answer, "{method}");
    }
    // Lists, Data and unions, in parameters and results.
    let entries =
        r#"{"entries":[{"key":"a","value":"AP8="},{"key":"b"},{"key":"c","value":"YQ=="}]}"#;
    assert_eq!(vat.call("Cell", "x", "putMultiple", entries), "{}");
    let answer = vat.call("Cell", "x", "get", r#"{"key":"a"}"#);
    assert_eq!(answer, r#"{"value":{"bytes":"AP8="}}"#);
    let answer = vat.call("Cell", "x", "get", r#"{"key":"nothing"}"#);
    assert_eq!(answer, r#"{"value":{"none":null}}"#);
    let range = r#"{"range":{"from":{"startAfter":"a"},"limit":{"entries":1}}}"#;
    assert_eq!(
        parse(&vat.call("Cell", "x", "page", range))["entries"],
        json!([{"key": "b", "value": ""}])
    );
    // A capability cannot be printed, but that it is there can.
    let answer = vat.call("Cell", "x", "sql", "{}");
    assert_eq!(answer, r#"{"sql":{"$capability":"Sql"}}"#);
    // What every object answers.
    let who = parse(&vat.call("Counter", "x", "identify", "{}"));
    assert_eq!(who["objectName"], "x");
    assert_eq!(who["className"], "Counter");
}

#[test]
fn a_call_prints_integers_of_64_bits_as_asked() {
    let folder = tempdir().unwrap();
    let vat = Vat::start(folder.path());
    let params = r#"{"amount":"9223372036854775807"}"#;
    for (form, count) in [
        (&["--int64", "string"][..], "\"9223372036854775807\""),
        (&["--int64", "number"], "9223372036854775807"),
        (&[], "9223372036854775807"),
    ] {
        let call = ["call", "Counter", "x", "increment", params];
        let told = vat.run(&[&call[..], form].concat()).printed();
        assert_eq!(told, format!("{{\"count\":{count}}}\n"), "{form:?}");
        vat.call("Counter", "x", "reset", "{}");
    }
    let refused = ["call", "Counter", "x", "get", "--int64", "text"];
    let said = vat.run(&refused).failed(2);
    assert!(said.contains("number or string"), "{said}");
}

#[test]
fn a_call_that_fails_says_why_and_leaves_nothing() {
    let folder = tempdir().unwrap();
    let vat = Vat::start(folder.path());
    let cases = [
        (
            ["Counter", "x", "jump", "{}"],
            "unimplemented: ",
            "increment, get, reset",
        ),
        (
            ["Chat", "x", "get", "{}"],
            "not-found: ",
            "Cell, ChatRoom, Counter",
        ),
        (
            ["Counter", "x", "increment", r#"{"amount":"five"}"#],
            "invalid-argument: ",
            "increment(amount :Int64 = 1)",
        ),
        (
            ["Counter", "x", "increment", r#"{"amuont":5}"#],
            "invalid-argument: ",
            "amuont",
        ),
        (
            [
                "Counter",
                "x",
                "increment",
                r#"{"amount":9223372036854775808}"#,
            ],
            "invalid-argument: ",
            "9223372036854775808",
        ),
        (["Counter", "", "get", "{}"], "invalid-argument: ", "name"),
        (
            ["Cell", "x", "put", r#"{"key":"k","value":"?"}"#],
            "invalid-argument: ",
            "base64",
        ),
        (
            ["Cell", "x", "list", r#"{"sink":5}"#],
            "invalid-argument: ",
            "capability",
        ),
    ];
    for (call, code, said) in cases {
        let exit = if code == "unimplemented: " { 6 } else { 1 };
        let error = vat.run(&[&["call"], &call[..]].concat()).failed(exit);
        assert!(error.starts_with(&format!("error: {code}")), "{error}");
        assert!(error.contains(said), "{call:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let long = "n".repeat(1025);
    let error = vat.run(&["call", "Counter", &long, "get"]).failed(1);
    assert!(
        error.contains("limit-exceeded") || error.contains("invalid-argument"),
        "{error}"
    );
    let top = r#"{"amount":9223372036854775807}"#;
    vat.call("Counter", "x", "increment", top);
    let error = vat.run(&["call", "Counter", "x", "increment"]).failed(1);
    assert!(error.starts_with("error: invalid-argument: "), "{error}");
    assert_eq!(
        vat.call("Counter", "x", "get", "{}"),
        r#"{"count":9223372036854775807}"#
    );
    assert_eq!(vat.printed(&["kv", "Cell", "x", "list"]), "");
}

#[test]
fn kv() {
    let folder = tempdir().unwrap();
    let vat = Vat::start(folder.path());
    fs::write(folder.path().join("bytes"), [0, 159, 255]).unwrap();
    let kv = |args: &[&str]| vat.printed(&[&["kv", "Cell", "box"], args].concat());
    for put in [
        &["put", "greeting", "hello, world"][..],
        &["put", "json", "--json", r#"{"n":[1,2.5,null]}"#],
        &["put", "bytes", "--file", "bytes"],
        &["put", "negative", "-1"],
        &["put", "", "the empty key"],
    ] {
        assert_eq!(kv(put), "");
    }
    assert_eq!(kv(&["get", "greeting"]), "hello, world\n");
    assert_eq!(
        kv(&["get", "greeting", "--output", "json"]),
        "\"hello, world\"\n"
    );
    assert_eq!(kv(&["get", "json"]), "{\"n\":[1,2.5,null]}\n");
    assert_eq!(kv(&["get", "negative"]), "-1\n");
    assert_eq!(kv(&["get", ""]), "the empty key\n");
    kv(&["get", "bytes", "--file", "copy"]);
    assert_eq!(fs::read(folder.path().join("copy")).unwrap(), [0, 159, 255]);
    assert_eq!(
        kv(&["list", "--start", "b", "--end", "json"]),
        "bytes\t\"AJ//\"\ngreeting\t\"hello, world\"\n"
    );
    let listed = parse(&kv(&[
        "list",
        "--reverse",
        "--limit",
        "2",
        "--output",
        "json",
    ]));
    assert_eq!(
        listed,
        json!([{"key": "negative", "value": "-1"}, {"key": "json", "value": {"n": [1, 2.5, null]}}])
    );
    assert_eq!(kv(&["list", "--prefix", "z", "--output", "json"]), "[]\n");
    assert_eq!(kv(&["delete", "greeting", "json", "missing"]), "2\n");
    let error = vat.run(&["kv", "Cell", "box", "get", "json"]).failed(1);
    assert!(error.starts_with("error: not-found: "), "{error}");
    let long = "k".repeat(2049);
    let error = vat.run(&["kv", "Cell", "box", "put", &long, "v"]).failed(1);
    assert!(error.starts_with("error: limit-exceeded: "), "{error}");
    let error = vat.run(&["kv", "Counter", "box", "list"]).failed(6);
    assert!(error.starts_with("error: unimplemented: "), "{error}");
    let error = vat
        .run(&["kv", "Cell", "box", "put", "k", "--file", "missing"])
        .failed(1);
    assert!(error.contains("missing"), "{error}");
}

#[test]
fn sql() {
    let folder = tempdir().unwrap();
    let vat = Vat::start(folder.path());
    let sql = |args: &[&str]| vat.run(&[&["sql", "Cell", "box"], args].concat());
    sql(&["CREATE TABLE t (id INTEGER PRIMARY KEY, data)"]).printed();
    let inserted = sql(&[
        "INSERT INTO t (data) VALUES (?), (?), (?), (?)",
        "--param",
        "9223372036854775807",
        "--param",
        "\"text\"",
        "--param",
        "null",
        "--param",
        r#"{"base64":"AP8="}"#,
    ]);
    assert_eq!(inserted.err, "4 rows written\n");
    assert_eq!(inserted.printed(), "");
    let rows = sql(&["SELECT * FROM t ORDER BY id", "--output", "json"]).printed();
    assert_eq!(
        parse(&rows),
        json!([
            {"id": 1, "data": i64::MAX},
            {"id": 2, "data": "text"},
            {"id": 3, "data": null},
            {"id": 4, "data": "AP8="},
        ])
    );
    let table = sql(&["SELECT * FROM t WHERE id < 3"]).printed();
    for cell in ["id", "data", "9223372036854775807", "text"] {
        assert!(table.contains(cell), "{table}");
    }
    assert_eq!(
        sql(&["SELECT 1 WHERE 0", "--output", "json"]).printed(),
        "[]\n"
    );
    for (query, code) in [
        ("SELEC 1", "sql-failed"),
        ("SELECT * FROM missing", "sql-failed"),
        ("INSERT INTO t (id) VALUES (1)", "sql-failed"),
        ("CREATE TABLE _vw_mine (a)", "sql-refused"),
        ("BEGIN", "sql-refused"),
        ("ATTACH 'other' AS other", "sql-refused"),
        ("SELECT ?", "invalid-argument"),
        ("", "invalid-argument"),
    ] {
        let error = sql(&[query]).failed(1);
        assert!(
            error.starts_with(&format!("error: {code}: ")),
            "{query}: {error}"
        );
    }
    assert!(!folder.path().join("other").exists());
    sql(&["SELECT ?", "--param", "[1]"]).failed(2);
}

#[test]
fn objects_and_classes() {
    let folder = tempdir().unwrap();
    let vat = Vat::start(folder.path());
    for name in ["user-2", "user-1", "other"] {
        vat.call("Counter", name, "increment", "{}");
    }
    let names = |args: &[&str]| {
        let text = vat.printed(&[&["objects", "list", "Counter"], args].concat());
        let names = text
            .lines()
            .map(|line| line.split('\t').next().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["other", "user-1", "user-2"]);
    assert_eq!(names(&["--prefix", "user-"]), ["user-1", "user-2"]);
    assert_eq!(names(&["--limit", "1"]), ["other"]);
    let listed = vat.printed(&["objects", "list", "Counter", "--output", "json"]);
    let listed = parse(&listed);
    assert_eq!(listed[1]["name"], "user-1");
    assert_eq!(listed[1]["id"].as_str().unwrap().len(), 64);
    assert_eq!(
        vat.printed(&["objects", "list", "Cell", "--output", "json"]),
        "[]\n"
    );
    let error = vat.run(&["objects", "list", "Chat"]).failed(1);
    assert!(error.starts_with("error: not-found: "), "{error}");
    assert_eq!(
        vat.printed(&["classes"]),
        "Cell\t@0xe48c9cf682361897\t0\nChatRoom\t@0x91002ba4c30e14a2\t0\nCounter\t@0xb8f725b103f79538\t3\n"
    );
    let classes = parse(&vat.printed(&["classes", "--output", "json"]));
    assert_eq!(
        classes[2],
        json!({"className": "Counter", "interfaceId": "0xb8f725b103f79538", "objectCount": 3})
    );
}

#[test]
fn objects_are_counted_shown_and_deleted() {
    let folder = tempdir().unwrap();
    let vat = Vat::start(folder.path());
    for name in ["user-2", "user-1", "other"] {
        vat.call("Counter", name, "increment", "{}");
    }
    assert_eq!(vat.printed(&["objects", "count", "Counter"]), "3\n");
    let count = ["objects", "count", "Counter", "--prefix", "user-"];
    let json = ["--output", "json"];
    assert_eq!(
        vat.printed(&[&count[..], &json].concat()),
        "{\"count\":2}\n"
    );
    let show = |which: &[&str]| {
        let shown = vat.printed(&[&["objects", "show", "Counter"], which, &json].concat());
        parse(&shown)
    };
    let shown = show(&["user-1"]);
    assert_eq!(shown["exists"], true);
    assert_eq!(shown["alarmMs"], Value::Null);
    assert!(shown["bytes"].as_u64().unwrap() > 0, "{shown}");
    assert!(shown["writtenMs"].as_i64() >= shown["createdMs"].as_i64());
    let text = vat.printed(&["objects", "show", "Counter", "user-1"]);
    assert!(
        text.starts_with("name\tuser-1\nid\t") && text.contains("exists\ttrue\n"),
        "{text}"
    );
    let id = shown["id"].as_str().unwrap();
    assert_eq!(show(&["--id", id])["name"], "user-1");

    let delete = |which: &[&str]| vat.printed(&[&["objects", "delete", "Counter"], which].concat());
    assert_eq!(delete(&["user-1"]), "1\n");
    assert_eq!(delete(&["user-1"]), "0\n");
    assert_eq!(show(&["--id", id])["exists"], false);
    assert_eq!(vat.printed(&["objects", "count", "Counter"]), "2\n");
    assert_eq!(vat.call("Counter", "user-1", "get", "{}"), r#"{"count":0}"#);
    assert_eq!(delete(&["--id", id]), "0\n");
    vat.call("Counter", "user-1", "increment", "{}");
    assert_eq!(delete(&["--id", id]), "1\n");
    let refused = vat.run(&["objects", "delete", "Cell", "--id", id]);
    let error = refused.failed(1);
    assert!(error.starts_with("error: invalid-argument: "), "{error}");

    vat.kill();
    let vat = Vat::start(folder.path());
    let listed = vat.printed(&["objects", "list", "Counter"]);
    let names: Vec<_> = listed.lines().map(|line| line.split('\t').next()).collect();
    assert_eq!(names, [Some("other"), Some("user-2")]);
    // No class that the binary brings along takes alarms.
    assert_eq!(vat.printed(&["alarms", "list"]), "");
    assert_eq!(vat.printed(&["alarms", "list", "--output", "json"]), "[]\n");
}

/// Takes entries, and never says that it has.
struct Stuck;

impl entry_sink::Server for Stuck {
    async fn write(self: Rc<Self>, _: entry_sink::WriteParams) -> capnp::Result<()> {
        std::future::pending().await
    }
}

#[test]
fn an_object_that_is_stuck_is_reset() {
    let folder = tempdir().unwrap();
    let vat = Vat::start(folder.path());
    vat.printed(&["kv", "Cell", "box", "put", "k", "old"]);
    let reset = |which: &[&str]| vat.printed(&[&["objects", "reset", "Cell"], which].concat());
    let address = vat.address(0);
    // A client that has opened a transaction, and is sent a list that it does not take.
    let (open, is_open) = mpsc::channel();
    let client = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async move {
            let client = LocalClient::connect(&address).await.unwrap();
            let cell: cell::Client = client.namespace::<cell::Client>().get("box");
            let cell: operations::Client = cell.cast_to();
            let opened = cell.transaction_request().send().promise.await.unwrap();
            let transaction = opened.get().unwrap().get_transaction().unwrap();
            let within: operations::Client = transaction.cast_to();
            let mut list = within.list_request();
            list.get().set_sink(capnp_rpc::new_client(Stuck));
            let list = list.send().promise;
            open.send(()).unwrap();
            list.await.err().unwrap()
        })
    });
    is_open.recv().unwrap();
    // A write that has to wait for it.
    let waiting = binary(folder.path())
        .args(["kv", "--connect", &vat.address(0)])
        .args(["Cell", "box", "put", "k", "new"])
        .spawn()
        .map(limited)
        .unwrap();
    let is_queued = || {
        let show = ["objects", "show", "Cell", "box", "--output", "json"];
        let shown = parse(&vat.printed(&show));
        (shown["inFlight"].as_u64(), shown["queued"].as_u64()) == (Some(2), Some(1))
    };
    assert!((0..1000).any(|_| is_queued()));
    assert_eq!(reset(&["box"]), "1\n");
    let error = client.join().unwrap();
    assert!(error.extra.contains("object-reset: an operator"), "{error}");
    assert!(waiting.wait_with_output().unwrap().status.success());
    assert_eq!(vat.printed(&["kv", "Cell", "box", "get", "k"]), "new\n");
    assert_eq!(reset(&["never", "--output", "json"]), "{\"reset\":0}\n");
    assert_eq!(vat.printed(&["objects", "count", "Cell"]), "1\n");
}

#[test]
fn schema_export() {
    let folder = tempdir().unwrap();
    // The files are in the binary: no vat is asked.
    run(folder.path(), ["schema", "export", "files"]).printed();
    for (path, text) in vatwerk::SCHEMA_FILES {
        let file = fs::read_to_string(folder.path().join("files").join(path));
        assert_eq!(file.unwrap(), *text, "{path}");
    }
    let vat = Vat::start(folder.path());
    vat.printed(&["schema", "export", "compiled"]);
    let compiled = fs::read(folder.path().join("compiled/vat.cgr")).unwrap();
    let schemas = vatwerk::json::Schemas::load(&compiled).unwrap();
    assert!(schemas.interface_named("Counter").is_some());
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let folder = tempdir().unwrap();
    let vat = Vat::start(folder.path());
    // More than a pipe holds.
    let value = "v".repeat(100_000);
    for key in ["a", "b", "c"] {
        vat.printed(&["kv", "Cell", "x", "put", key, &value]);
    }
    let mut list = binary(folder.path())
        .args(["kv", "Cell", "x", "list", "--connect", &vat.address(0)])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map(limited)
        .unwrap();
    let mut line = String::new();
    let mut reader = BufReader::new(list.stdout.take().unwrap());
    reader.read_line(&mut line).unwrap();
    drop(reader);
    let ended = list.wait_with_output().unwrap();
    assert!(line.starts_with("a\t"));
    assert_eq!(String::from_utf8(ended.stderr).unwrap(), "");
    assert_eq!(ended.status.code(), Some(0));
}

#[test]
fn the_environment_says_where_the_vat_is_unless_it_is_empty() {
    let folder = tempdir().unwrap();
    let _vat = Vat::listening(folder.path(), &["unix:data/vat.sock"]);
    let classes = |connect: &str| {
        let mut command = binary(folder.path());
        command.arg("classes").env("VATWERK_CONNECT", connect);
        ended(&mut command).code
    };
    assert_eq!(classes(""), Some(0));
    assert_eq!(classes("unix:data/vat.sock"), Some(0));
    assert_eq!(classes("unix:missing.sock"), Some(3));
    assert_eq!(classes("nonsense"), Some(2));
}

#[test]
fn values_may_start_with_a_hyphen() {
    let folder = tempdir().unwrap();
    let vat = Vat::start(folder.path());
    // Not at the end, where it may follow a `--`.
    let address = vat.address(0);
    let start = ["kv", "--connect", &address, "Cell", "-x"];
    let kv = |args: &[&str]| run(folder.path(), start.iter().chain(args)).printed();
    kv(&["put", "-key", "-abc", "--output", "text"]);
    kv(&["put", "--key", "--hello"]);
    kv(&["put", "--", "--json", "--file"]);
    assert_eq!(kv(&["get", "-key"]), "-abc\n");
    assert_eq!(kv(&["get", "--output", "json", "--key"]), "\"--hello\"\n");
    assert_eq!(kv(&["list", "--prefix=--j"]), "--json\t\"--file\"\n");
    assert_eq!(kv(&["delete", "--", "-key", "--key"]), "2\n");
    vat.call("Counter", "-x", "increment", "{}");
    for (verb, printed) in [("show", "name\t-x\n"), ("delete", "1\n")] {
        let start = ["objects", "--connect", &address, verb, "Counter", "-x"];
        let out = run(folder.path(), start).printed();
        assert!(out.starts_with(printed), "{out}");
    }
    let query = "-- a comment\nSELECT 1 AS one";
    let sql = ["sql", "Cell", "-x", query, "--output", "json"];
    assert_eq!(vat.printed(&sql), "[\n{\"one\":1}\n]\n");
    let sql = [
        "sql",
        "Cell",
        "-x",
        "--output",
        "json",
        "--SELECT 2\nSELECT 1 AS one",
    ];
    assert_eq!(vat.printed(&sql), "[\n{\"one\":1}\n]\n");
}

#[test]
fn what_is_stored_does_not_steer_the_terminal() {
    let folder = tempdir().unwrap();
    let vat = Vat::start(folder.path());
    let evil = "\u{1b}[2J\t\n\u{9b}2J";
    let escaped = r"\u{1b}[2J\t\n\u{9b}2J";
    vat.printed(&["kv", "Cell", "x", "put", evil, evil]);
    assert_eq!(
        vat.printed(&["kv", "Cell", "x", "list"]),
        format!("{escaped}\t\"{}\"\n", r"\u001b[2J\t\n\u009b2J")
    );
    let listed = vat.printed(&["kv", "Cell", "x", "list", "--output", "json"]);
    assert_eq!(parse(&listed), json!([{"key": evil, "value": evil}]));
    assert!(!listed.contains(['\u{1b}', '\u{9b}']));
    // This one is as it is.
    assert_eq!(
        vat.printed(&["kv", "Cell", "x", "get", evil]),
        format!("{evil}\n")
    );

    vat.call("Counter", evil, "increment", "{}");
    let objects = vat.printed(&["objects", "list", "Counter"]);
    assert!(objects.starts_with(&format!("{escaped}\t")), "{objects}");
    assert_eq!(objects.lines().count(), 1);

    let table = vat.printed(&["sql", "Cell", "x", &format!("SELECT 1 AS \"{evil}\"")]);
    assert!(table.contains(r"\u{1b}[2J"), "{table}");
    assert!(!table.contains(['\u{1b}', '\u{9b}']), "{table}");
    let error = vat
        .run(&["sql", "Cell", "x", &format!("SELECT * FROM \"{evil}\"")])
        .failed(1);
    assert!(error.contains(escaped), "{error}");
    assert_eq!(error.lines().count(), 1);
}

#[test]
fn what_json_has_no_form_for() {
    let folder = tempdir().unwrap();
    let vat = Vat::start(folder.path());
    let query = "SELECT 9e999 AS a, -9e999 AS b";
    let rows = vat.printed(&["sql", "Cell", "x", query, "--output", "json"]);
    assert_eq!(parse(&rows), json!([{"a": "Infinity", "b": "-Infinity"}]));
    let table = vat.printed(&["sql", "Cell", "x", query]);
    assert!(table.contains("-Infinity"), "{table}");
    // A simple value of CBOR, and a float that is not finite.
    for (value, read) in [("4A==", r#"{"$bytes":"4A=="}"#), ("+fwA", r#""-Infinity""#)] {
        let put = format!(r#"{{"key":"k","value":"{value}"}}"#);
        vat.call("Cell", "x", "put", &put);
        let got = vat.printed(&["kv", "Cell", "x", "get", "k"]);
        assert_eq!(got, format!("{read}\n"));
    }
}

#[test]
fn a_file_may_be_as_large_as_help_says() {
    let folder = tempdir().unwrap();
    let vat = Vat::start(folder.path());
    let put = ["kv", "Cell", "x", "put", "k", "--file", "file"];
    let limit = vatwerk::limit_capnp::MAX_VALUE_BYTES as usize;
    assert_eq!(limit, 2 << 20);
    fs::write(folder.path().join("file"), vec![7; limit - 5]).unwrap();
    vat.printed(&put);
    fs::write(folder.path().join("file"), vec![7; limit - 4]).unwrap();
    let error = vat.run(&put).failed(1);
    assert!(error.starts_with("error: limit-exceeded: "), "{error}");
}
