//! What the command line says of itself.

use tempfile::tempdir;

use crate::vat::{binary, ended, run};

#[test]
fn every_verb_has_help_that_says_what_it_takes() {
    let folder = tempdir().unwrap();
    let client = ["--connect", "--output", "--timeout", "VATWERK_CONNECT"];
    let verbs: [(&[&str], &[&str]); 22] = [
        (
            &[],
            &[
                "serve",
                "call",
                "kv",
                "sql",
                "objects",
                "alarms",
                "classes",
                "schema",
                "check",
                "Exit codes",
                "--prefix=-a",
            ],
        ),
        (
            &["serve"],
            &[
                "--data",
                "VATWERK_DATA",
                "--listen",
                "tcp:127.0.0.1:7447",
                "unix:DATA/vat.sock",
                "--metrics",
                "/healthz",
                "--listen-insecure",
                "--http-insecure",
                "--metrics-insecure",
                "--config",
                "--log-format",
            ],
        ),
        (&["call"], &["<CLASS>", "<NAME>", "<METHOD>", "JSON"]),
        (&["call"], &client),
        (&["kv"], &["get", "put", "delete", "list", "Cell"]),
        (&["kv"], &client),
        (
            &["kv", "C", "n", "put"],
            &[
                "vatwerk kv <CLASS> <NAME> put [OPTIONS] <KEY> <TEXT|--json <JSON>|--file <PATH>>",
                "2 MiB",
                "twice",
            ],
        ),
        (&["kv", "C", "n", "get"], &["$bytes", "$map", "Infinity"]),
        (
            &["kv", "C", "n", "list"],
            &["--prefix", "--start", "--end", "--reverse", "--limit"],
        ),
        (
            &["sql"],
            &[
                "[QUERY]", "--param", "base64", "--file", "--dump", "--csv", "BEGIN",
            ],
        ),
        (&["sql"], &client),
        (&["objects"], &["list", "count", "show", "delete", "reset"]),
        (
            &["objects", "list"],
            &["--prefix", "--limit", "--connect", "10 s"],
        ),
        (&["objects", "count"], &["--prefix", "--output"]),
        (
            &["objects", "show"],
            &["[OPTIONS] <CLASS> <NAME|--id <HEX>>", "asleep"],
        ),
        (
            &["objects", "delete"],
            &["[OPTIONS] <CLASS> <NAME|--id <HEX>>", "1 or 0"],
        ),
        (
            &["objects", "reset"],
            &[
                "[OPTIONS] <CLASS> <NAME|--id <HEX>>",
                "1 or 0",
                "object-reset",
            ],
        ),
        (&["alarms"], &client),
        (&["alarms", "list"], &["--limit", "--connect"]),
        (&["classes"], &client),
        (
            &["check"],
            &[
                "--data",
                "VATWERK_DATA",
                "--output",
                "journal",
                "damaged: ",
                "note: ",
            ],
        ),
        (&["schema", "export"], &["<DIR>", "--connect", "--timeout"]),
    ];
    for (verb, mentions) in verbs {
        let help = run(folder.path(), verb.iter().chain(&["--help"])).printed();
        for mentioned in mentions {
            assert!(help.contains(mentioned), "{verb:?} {mentioned}:\n{help}");
        }
    }
}

#[test]
fn version() {
    let folder = tempdir().unwrap();
    let version = run(folder.path(), ["--version"]).printed();
    assert_eq!(
        version,
        concat!("vatwerk ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn bad_usage_is_exit_code_2_and_says_what_is_right() {
    let folder = tempdir().unwrap();
    let cases: [(&[&str], &str); 13] = [
        (&[], "Usage"),
        (&["sevre"], "serve"),
        (&["call", "Counter"], "<METHOD>"),
        (&["call", "Counter", "x", "get", "{"], "not JSON"),
        (&["serve", "--listen", "7447"], "tcp:HOST:PORT"),
        (
            &["kv", "Cell", "x", "put", "key"],
            "put [OPTIONS] <KEY> <TEXT|",
        ),
        (
            &[
                "kv",
                "Cell",
                "x",
                "put",
                "k",
                "--json",
                "[99999999999999999999]",
            ],
            "99999999999999999999 does not fit",
        ),
        (
            &["call", "C", "x", "get", r#"{"a":[-9223372036854775809]}"#],
            "-9223372036854775809 does not fit",
        ),
        (
            &["sql", "Cell", "x", "q", "--param", "-9223372036854775809"],
            "-9223372036854775809 does not fit",
        ),
        (
            &["sql", "Cell", "x", "q", "--param", "9223372036854775808"],
            "too large",
        ),
        (&["classes", "--output", "xml"], "json"),
        (&["objects", "show", "Counter"], "<CLASS> <NAME|--id <HEX>>"),
        (
            &["objects", "delete", "Counter", "--id", "abc"],
            "hexadecimal",
        ),
    ];
    for (args, said) in cases {
        let error = run(folder.path(), args).failed(2);
        assert!(error.contains(said), "{args:?}: {error}");
    }
}

#[test]
fn usage_does_not_demand_what_the_environment_says() {
    let folder = tempdir().unwrap();
    for args in [&["kv", "Cell", "x", "get"][..], &["classes", "extra"]] {
        let mut command = binary(folder.path());
        command.args(args).env("VATWERK_CONNECT", "tcp:127.0.0.1:1");
        let error = ended(&mut command).err;
        assert!(error.contains("Usage"), "{error}");
        assert!(!error.contains("--connect"), "{error}");
    }
}
