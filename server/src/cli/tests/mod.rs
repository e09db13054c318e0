//! The verbs against a vat of the tests' own, over a real socket.

mod fake;

use std::io;

use capnp_rpc::{RpcSystem, new_client, rpc_twoparty_capnp::Side, twoparty};
use clap::Parser;
use serde_json::{Value, json};
use tokio::{net::UnixListener, task::LocalSet};
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};
use vatwerk::vat_capnp::vat;

use super::{Failure, args::ClientVerb, perform};
use fake::{Fake, Pairs};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    verb: ClientVerb,
}

/// What each of the command lines prints, or how it fails. They share one vat.
fn verbs(lines: &[&[&str]]) -> Vec<Result<String, Failure>> {
    on_a_vat(lines, async |cli| {
        let mut out = Vec::new();
        perform(&cli.verb, &mut out).await?;
        Ok(String::from_utf8(out).unwrap())
    })
}

fn on_a_vat<T>(lines: &[&[&str]], run: impl AsyncFn(Cli) -> T) -> Vec<T> {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("vat.sock");
    let address = format!("unix:{}", socket.display());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async move {
        let listener = UnixListener::bind(socket).unwrap();
        tokio::task::spawn_local(async move {
            let pairs = Pairs::default();
            loop {
                let (reader, writer) = listener.accept().await.unwrap().0.into_split();
                let network = twoparty::VatNetwork::new(
                    reader.compat(),
                    writer.compat_write(),
                    Side::Server,
                    Default::default(),
                );
                let vat: vat::Client = new_client(Fake(pairs.clone()));
                let rpc = RpcSystem::new(Box::new(network), Some(vat.client));
                tokio::task::spawn_local(rpc);
            }
        });
        let mut outcomes = Vec::new();
        for line in lines {
            let words = ["vatwerk"].iter().chain(*line);
            let connect = ["--connect", &address];
            let cli = Cli::try_parse_from(words.chain(&connect)).unwrap();
            outcomes.push(run(cli).await);
        }
        outcomes
    })
}

/// A pipe that nobody reads.
struct BrokenPipe;

impl io::Write for BrokenPipe {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let lines: [&[&str]; 1] = [&["classes"]];
    let failure = on_a_vat(&lines, async |cli| {
        perform(&cli.verb, &mut BrokenPipe).await
    });
    let failure = failure.into_iter().next().unwrap().unwrap_err();
    assert_eq!(failure.message(), None);
    let success = std::process::ExitCode::SUCCESS;
    assert_eq!(format!("{:?}", failure.exit_code()), format!("{success:?}"));
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Like [`verbs`], for those that must succeed.
fn printed(lines: &[&[&str]]) -> Vec<String> {
    let outcomes = verbs(lines).into_iter();
    outcomes.map(|outcome| outcome.unwrap()).collect()
}

fn exit_code(failure: &Failure) -> String {
    format!("{:?}", failure.exit_code())
}

#[test]
fn what_is_not_done_within_the_timeout_is_given_up() {
    let hangs = ["call", "Counter", "x", "increment", r#"{"amount": -1}"#];
    let soon = ["--timeout", "0.05"];
    let outcomes = verbs(&[
        &[&hangs[..], &soon].concat(),
        &["classes", "--timeout", "60"],
    ]);
    let [failure, done] = outcomes.try_into().unwrap();
    let failure: Failure = failure.unwrap_err();
    let message = failure.message().unwrap();
    assert!(message.starts_with("error: disconnected: "), "{message}");
    assert!(message.contains("0.05 s (`--timeout`)"), "{message}");
    assert_eq!(
        exit_code(&failure),
        format!("{:?}", std::process::ExitCode::from(5))
    );
    done.unwrap();
}

#[test]
fn a_vat_that_does_not_answer_within_the_timeout_is_not_connected_to() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("vat.sock");
    // Takes connections, and says nothing.
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let address = format!("unix:{}", socket.display());
    let words = [
        "vatwerk",
        "classes",
        "--timeout",
        "0.05",
        "--connect",
        &address,
    ];
    let cli = Cli::try_parse_from(words).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let done = LocalSet::new().block_on(&runtime, perform(&cli.verb, &mut Vec::new()));
    let failure = done.unwrap_err();
    assert!(matches!(failure, Failure::Connect(_)), "{failure}");
    assert_eq!(
        exit_code(&failure),
        format!("{:?}", std::process::ExitCode::from(3))
    );
}

#[test]
fn a_timeout_is_a_number_of_seconds_above_zero() {
    for wrong in ["0", "-1", "soon", "NaN", "1e999"] {
        let timeout = format!("--timeout={wrong}");
        assert!(
            Cli::try_parse_from(["vatwerk", "classes", &timeout]).is_err(),
            "{wrong}"
        );
    }
    assert!(Cli::try_parse_from(["vatwerk", "classes", "--timeout=2.5"]).is_ok());
}

#[test]
fn call_prints_one_line_of_json() {
    let calls = verbs(&[
        &["call", "Counter", "x", "increment", r#"{"amount": 5}"#],
        &["call", "Counter", "x", "increment"],
        &["call", "Counter", "x", "reset"],
        &["call", "Counter", "x", "get"],
        &["call", "Counter", "x", "increment", r#"{"amount": "five"}"#],
        &["call", "Counter", "x", "jump"],
        &["call", "Chat", "x", "post"],
        &["call", "Counter", "x", "identify"],
    ]);
    let texts = calls.iter().map(|call| match call {
        Ok(text) => text.clone(),
        Err(failure) => failure.message().unwrap(),
    });
    let texts: Vec<_> = texts.collect();
    assert_eq!(texts[0], "{\"count\":5}\n");
    assert_eq!(texts[1], "{\"count\":1}\n");
    assert_eq!(texts[2], "{}\n");
    assert_eq!(texts[3], "error: storage-failed: no space");
    assert!(
        texts[4].starts_with("error: invalid-argument: "),
        "{}",
        texts[4]
    );
    assert!(
        texts[4].contains("increment(amount :Int64 = 1)"),
        "{}",
        texts[4]
    );
    assert_eq!(
        texts[5],
        "error: unimplemented: `Counter` has no method `jump`; it has: increment, get, reset"
    );
    assert!(texts[6].starts_with("error: not-found: no class `Chat` here"));
    // It is known, but the fake does not have it.
    assert!(
        texts[7].starts_with("error: unimplemented: "),
        "{}",
        texts[7]
    );
}

#[test]
fn kv_reads_what_it_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("blob").display().to_string();
    std::fs::write(&path, [0, 159]).unwrap();
    let copy = dir.path().join("copy").display().to_string();
    let out = printed(&[
        &["kv", "Cell", "x", "put", "b", "some text"],
        &["kv", "Cell", "x", "put", "c", "--json", r#"{"n": 1}"#],
        &["kv", "Cell", "x", "put", "a", "--file", &path],
        &["kv", "Cell", "x", "get", "b"],
        &["kv", "Cell", "x", "get", "c"],
        &["kv", "Cell", "x", "get", "a", "--file", &copy],
        &["kv", "Cell", "x", "list"],
        &["kv", "Cell", "x", "list", "--reverse", "--output", "json"],
        &["kv", "Cell", "x", "list", "--start", "b", "--end", "c"],
        &[
            "kv", "Cell", "x", "list", "--prefix", "z", "--output", "json",
        ],
        &["kv", "Cell", "x", "list", "--limit", "1"],
        &["kv", "Cell", "x", "delete", "a", "c", "missing"],
        &["kv", "Cell", "x", "list"],
    ]);
    assert_eq!(out[..3], ["", "", ""]);
    assert_eq!(out[3], "some text\n");
    assert_eq!(out[4], "{\"n\":1}\n");
    assert_eq!(std::fs::read(copy).unwrap(), [0, 159]);
    assert_eq!(out[6], "a\t\"AJ8=\"\nb\t\"some text\"\nc\t{\"n\":1}\n");
    let reversed = parse(&out[7]);
    let keys: Vec<_> = reversed
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["key"])
        .collect();
    assert_eq!(keys, ["c", "b", "a"]);
    assert_eq!(out[8], "b\t\"some text\"\n");
    assert_eq!(out[9], "[]\n");
    assert_eq!(out[10], "a\t\"AJ8=\"\n");
    assert_eq!(out[11], "2\n");
    assert_eq!(out[12], "b\t\"some text\"\n");
}

#[test]
fn kv_and_sql_say_why_they_fail() {
    let failed = verbs(&[
        &["kv", "Cell", "x", "get", "nothing"],
        &["kv", "Counter", "x", "get", "nothing"],
        &["sql", "Counter", "x", "SELECT 1"],
        &["sql", "Cell", "x", ""],
    ]);
    let texts = failed
        .into_iter()
        .map(|f| f.unwrap_err().message().unwrap());
    let texts: Vec<_> = texts.collect();
    assert_eq!(texts[0], "error: not-found: no key \"nothing\"");
    for text in &texts[1..3] {
        assert!(
            text.starts_with("error: unimplemented: objects of `Counter`"),
            "{text}"
        );
    }
    assert_eq!(texts[3], "error: sql-failed: no statement");
}

#[test]
fn sql_loses_nothing() {
    let query = ["sql", "Cell", "x", "SELECT ?, ?, ?, ?"];
    let params = [
        "-9223372036854775808",
        "\"text\"",
        "null",
        r#"{"base64":"AP8="}"#,
    ];
    let params = params.iter().flat_map(|param| ["--param", param]);
    let text: Vec<_> = query.into_iter().chain(params).collect();
    let json: Vec<_> = text.iter().copied().chain(["--output", "json"]).collect();
    let out = printed(&[&text, &json]);
    for cell in ["-9223372036854775808", "text", "x'00ff'"] {
        assert!(out[0].contains(cell), "{}", out[0]);
    }
    assert_eq!(
        out[1],
        "[\n{\"c\":-9223372036854775808,\"c:2\":\"text\",\"c:3\":null,\"c:4\":\"AP8=\"}\n]\n"
    );
}

#[test]
fn listings_go_through_all_pages() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().display().to_string();
    let out = printed(&[
        &["objects", "list", "Counter"],
        &[
            "objects", "list", "Counter", "--limit", "1", "--output", "json",
        ],
        &["classes"],
        &["schema", "export", &folder],
        &["alarms", "list"],
        &["alarms", "list", "--limit", "1", "--output", "json"],
    ]);
    let (one, zero) = ("01".repeat(32), "00".repeat(32));
    assert_eq!(out[0], format!("a\t{one}\t5\t6\t4096\n\t{zero}\t5\t\t\n"));
    let listed = json!([
        {"name": "a", "id": one, "createdMs": 5, "writtenMs": 6, "bytes": 4096}
    ]);
    assert_eq!(parse(&out[1]), listed);
    assert_eq!(
        out[2],
        "Cell\t@0xe48c9cf682361897\t0\nCounter\t@0xb8f725b103f79538\t1\n"
    );
    assert!(dir.path().join("vatwerk/storage.capnp").exists());
    assert_eq!(
        std::fs::read(dir.path().join("vat.cgr")).unwrap(),
        vatwerk::CODE_GENERATOR_REQUEST
    );
    assert_eq!(out[4], format!("7\tCounter\ta\t{one}\n8\t\t\t{zero}\n"));
    let first = json!([{"dueMs": 7, "className": "Counter", "name": "a", "id": one}]);
    assert_eq!(parse(&out[5]), first);
}

#[test]
fn objects_go_by_name_or_by_id() {
    let id = "0f".repeat(32);
    let out = printed(&[
        &["objects", "count", "Counter"],
        &[
            "objects", "count", "Counter", "--prefix", "abc", "--output", "json",
        ],
        &["objects", "delete", "Counter", "-x"],
        &[
            "objects", "delete", "Counter", "--id", &id, "--output", "json",
        ],
        &["objects", "reset", "Counter", "-x"],
        &[
            "objects", "reset", "Counter", "--id", &id, "--output", "json",
        ],
        &["objects", "show", "Counter", "-x"],
        &[
            "objects", "show", "Counter", "--id", &id, "--output", "json",
        ],
    ]);
    assert_eq!(
        out[..6],
        [
            "0\n",
            "{\"count\":3}\n",
            "1\n",
            "{\"deleted\":0}\n",
            "1\n",
            "{\"reset\":0}\n"
        ]
    );
    let shown: Vec<_> = out[6].lines().collect();
    let one = format!("id\t{}", "01".repeat(32));
    assert_eq!(
        shown,
        [
            "name\t-x",
            &one,
            "createdMs\t5",
            "writtenMs\t",
            "bytes\t",
            "fileBytes\t0",
            "exists\ttrue",
            "state\tawake",
            "inFlight\t0",
            "queued\t2",
            "heldCapabilities\t0",
            "webSockets\t0",
            "alarmMs\t7",
            "activatedMs\t6",
            "resets\t0",
        ]
    );
    let absent = json!({
        "name": null, "id": id, "createdMs": null, "writtenMs": null, "bytes": null,
        "fileBytes": 0, "exists": false, "state": "asleep", "inFlight": 0, "queued": 0, "heldCapabilities": 0, "webSockets": 0,
        "alarmMs": null, "activatedMs": null, "resets": 0,
    });
    assert_eq!(parse(&out[7]), absent);
}

#[test]
fn bad_usage_is_refused_before_anything_is_called() {
    for line in [
        &["call", "Counter", "x", "get", "{"][..],
        &["kv", "Cell", "x", "put", "key"],
        &["kv", "Cell", "x", "put", "key", "text", "--json", "1"],
        &["kv", "Cell", "x", "delete"],
        &["kv", "Cell", "x", "list", "--limit", "0"],
        &["classes", "--output", "xml"],
        &["objects", "show", "Counter"],
        &[
            "objects",
            "delete",
            "Counter",
            "x",
            "--id",
            &"0f".repeat(32),
        ],
        &["objects", "delete", "Counter", "--id", "0f"],
    ] {
        let parsed = Cli::try_parse_from(["vatwerk"].iter().chain(line));
        assert_eq!(parsed.err().unwrap().exit_code(), 2, "{line:?}");
    }
}
