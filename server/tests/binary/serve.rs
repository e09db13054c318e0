//! How a vat starts, where it listens, and how it stops.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
};

use tempfile::tempdir;

use crate::vat::{Vat, binary, files, run};

#[test]
fn serve_says_where_it_listens_and_takes_calls_there() {
    let folder = tempdir().unwrap();
    let vat = Vat::start(folder.path());
    let port = vat.lines[0].strip_prefix("listening tcp 127.0.0.1:");
    assert_ne!(port.unwrap().parse::<u16>().unwrap(), 0);
    assert_eq!(vat.lines[1], "listening unix vat.sock");
    for address in [vat.address(0), vat.address(1)] {
        let args = ["call", "Counter", "x", "increment", "--connect", &address];
        run(folder.path(), args).printed();
    }
    assert_eq!(vat.call("Counter", "x", "get", "{}"), r#"{"count":2}"#);
    let mode = fs::metadata(folder.path().join("vat.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn objects_are_reached_over_http_where_serve_says() {
    let folder = tempdir().unwrap();
    let args = ["--listen", "tcp:127.0.0.1:0", "--http", "127.0.0.1:0"];
    let vat = Vat::spawn(folder.path(), args).ready(2);
    let address = vat.lines[1].strip_prefix("listening http ").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let ask = "POST /Counter/x/call/increment HTTP/1.0\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(ask.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\n\r\n{\"count\":1}"), "{answer}");
    assert_eq!(vat.call("Counter", "x", "get", "{}"), r#"{"count":1}"#);

    // A second vat of this machine has to be told to listen elsewhere.
    let args = [
        "serve", "--data", "other", "--listen", "unix:b", "--http", address,
    ];
    let error = run(folder.path(), args).failed(1);
    assert!(error.contains("--http"), "{error}");
    let args = [
        "serve",
        "--data",
        "c",
        "--listen",
        "unix:b",
        "--http",
        "0.0.0.0:0",
    ];
    let error = run(folder.path(), args).failed(1);
    assert!(error.contains("--http-insecure"), "{error}");
}

#[test]
fn several_addresses_of_each_kind() {
    let folder = tempdir().unwrap();
    let addresses = ["unix:a", "tcp:127.0.0.1:0", "unix:b", "tcp:127.0.0.1:0"];
    let vat = Vat::listening(folder.path(), &addresses);
    for which in 0..addresses.len() {
        let args = ["classes", "--connect", &vat.address(which)];
        run(folder.path(), args).printed();
    }
}

#[test]
fn a_client_finds_the_vat_of_its_folder() {
    let folder = tempdir().unwrap();
    let _vat = Vat::listening(folder.path(), &["unix:data/vat.sock"]);
    run(folder.path(), ["classes"]).printed();
}

/// The logs of databases in a folder, of either kind that SQLite makes.
fn logs(folder: &Path) -> Vec<PathBuf> {
    let mut logs = files(folder);
    logs.retain(|path| {
        let name = path.to_string_lossy();
        name.ends_with("-wal") || name.ends_with("-journal")
    });
    logs
}

#[test]
fn a_signal_drains_and_removes_the_socket() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let folder = tempdir().unwrap();
        let mut vat = Vat::start(folder.path());
        vat.call("Counter", "x", "increment", "{}");
        vat.signal(signal);
        assert_eq!(vat.wait(), Some(0), "{}", vat.errors());
        assert!(!folder.path().join("vat.sock").exists());
        // Every database is a file that `sqlite3` opens: nothing is left beside it.
        assert_eq!(logs(&folder.path().join("data")), Vec::<PathBuf>::new());
        let vat = Vat::start(folder.path());
        assert_eq!(vat.call("Counter", "x", "get", "{}"), r#"{"count":1}"#);
    }
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_refused() {
    let folder = tempdir().unwrap();
    Vat::start(folder.path()).kill();
    assert!(folder.path().join("vat.sock").exists());
    let vat = Vat::start(folder.path());
    let other = ["serve", "--data", "other", "--listen", "unix:vat.sock"];
    let error = run(folder.path(), other).failed(1);
    assert!(error.contains("another process is listening"), "{error}");
    let address = vat.address(1);
    run(folder.path(), ["classes", "--connect", &address]).printed();
}

#[test]
fn what_is_no_socket_is_not_touched() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("precious"), "text").unwrap();
    let error = run(folder.path(), ["serve", "--listen", "unix:precious"]).failed(1);
    assert!(error.contains("no socket"), "{error}");
    let kept = fs::read_to_string(folder.path().join("precious"));
    assert_eq!(kept.unwrap(), "text");
}

#[test]
fn a_port_that_is_taken_is_refused() {
    let folder = tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", taken.local_addr().unwrap());
    let error = run(folder.path(), ["serve", "--listen", &address]).failed(1);
    assert!(error.contains(&address), "{error}");
}

#[test]
fn a_usual_address_that_is_taken_is_a_warning_and_one_that_was_asked_for_an_error() {
    let folder = tempdir().unwrap();
    // Whoever has the usual ports of this machine, if it is not this test.
    let ports = [7447, 7448].map(|port| TcpListener::bind(("127.0.0.1", port)));
    let http = Vec::from(["--http", "127.0.0.1:0"]);
    let mut vat = Vat::spawn(folder.path(), http).ready(2);
    assert_eq!(vat.lines[0], "listening unix data/vat.sock");
    let log = vat.errors();
    let warned = log.lines().filter(|line| line.contains("WARN"));
    let warned: Vec<_> = warned
        .filter(|line| line.contains("usual addresses"))
        .collect();
    assert_eq!(warned.len(), 1, "{log}");
    assert!(warned[0].contains("tcp:127.0.0.1:7447"), "{log}");
    run(folder.path(), ["classes"]).printed();
    vat.signal(libc::SIGTERM);
    assert_eq!(vat.wait(), Some(0));
    let asked = ["serve", "--data", "data", "--listen", "tcp:127.0.0.1:7447"];
    let error = run(folder.path(), asked).failed(1);
    assert!(
        error.contains("cannot listen at tcp:127.0.0.1:7447"),
        "{error}"
    );
    drop(ports);
}

#[test]
fn a_vat_that_can_listen_nowhere_does_not_start() {
    let folder = tempdir().unwrap();
    let _port = TcpListener::bind("127.0.0.1:7447");
    // The usual socket would have too long a path.
    let data = folder
        .path()
        .join("d".repeat(110 - folder.path().as_os_str().len()));
    let data = data.to_str().unwrap();
    let error = run(folder.path(), ["serve", "--data", data, "--http", "none"]).failed(1);
    assert!(
        error.contains("error: cannot listen at tcp:127.0.0.1:7447"),
        "{error}"
    );
    assert!(error.contains("at most 107 bytes"), "{error}");
}

#[test]
fn a_socket_has_the_mode_that_the_settings_say_and_a_path_of_any_length_that_there_is() {
    let folder = tempdir().unwrap();
    let name = "s".repeat(107 - folder.path().as_os_str().len() - 1);
    let path = folder.path().join(name);
    fs::write(folder.path().join("vat.toml"), "[unix]\nmode = \"0660\"\n").unwrap();
    let address = format!("unix:{}", path.display());
    let args = ["--listen", &address, "--config", "vat.toml"];
    let vat = Vat::spawn(folder.path(), args).ready(1);
    vat.call("Counter", "a", "increment", "{}");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    drop(vat);
    fs::write(
        folder.path().join("vat.toml"),
        "[unix]\ngroup = \"no such\"\n",
    )
    .unwrap();
    let serve = ["serve", "--listen", &address, "--config", "vat.toml"];
    let error = run(folder.path(), serve).failed(1);
    assert!(error.contains("no group `no such`"), "{error}");
}

#[test]
fn a_second_vat_on_the_same_folder_is_refused() {
    let folder = tempdir().unwrap();
    let first = Vat::start(folder.path());
    let second = ["serve", "--data", "data", "--listen", "tcp:127.0.0.1:0"];
    let error = run(folder.path(), second).failed(1);
    assert!(error.contains("in use by another vat"), "{error}");
    first.call("Counter", "x", "get", "{}");
}

#[test]
fn a_folder_of_a_newer_format_is_refused() {
    let folder = tempdir().unwrap();
    Vat::start(folder.path()).kill();
    let format = folder.path().join("data/format");
    fs::write(&format, "vatwerk 99\n").unwrap();
    let serve = ["serve", "--data", "data", "--listen", "tcp:127.0.0.1:0"];
    let error = run(folder.path(), serve).failed(1);
    assert!(error.contains("format 99"), "{error}");
    assert_eq!(fs::read_to_string(format).unwrap(), "vatwerk 99\n");
}

#[test]
fn the_environment_says_where_the_data_is_unless_it_is_empty() {
    let folder = tempdir().unwrap();
    for (told, used) in [("other", "other"), ("", "data")] {
        let used = folder.path().join(used);
        fs::create_dir(&used).unwrap();
        // It stops at this, so that the test needs no end for it.
        fs::write(used.join("format"), "vatwerk 99\n").unwrap();
        let mut command = binary(folder.path());
        command.args(["serve", "--listen", "tcp:127.0.0.1:0"]);
        let ended = command.env("VATWERK_DATA", told).output().unwrap();
        assert_eq!(ended.status.code(), Some(1), "{told}");
        let error = String::from_utf8(ended.stderr).unwrap();
        assert!(error.contains("format 99"), "{error}");
    }
}

#[test]
fn other_machines_are_let_in_only_when_told() {
    let folder = tempdir().unwrap();
    let exposed = ["serve", "--listen", "tcp:0.0.0.0:0"];
    let error = run(folder.path(), exposed).failed(1);
    assert!(error.contains("--listen-insecure"), "{error}");
    // What one listener may the others may not.
    let exposed = exposed
        .iter()
        .chain(&["--http-insecure", "--metrics-insecure"]);
    let error = run(folder.path(), exposed).failed(1);
    assert!(error.contains("--listen-insecure"), "{error}");
    // The switch that there was for all of them at once.
    let error = run(folder.path(), ["serve", "--insecure"]).failed(2);
    for option in ["--listen-insecure", "--http-insecure", "--metrics-insecure"] {
        assert!(error.contains(option), "{error}");
    }
    fs::write(folder.path().join("old.toml"), "insecure = true\n").unwrap();
    let error = run(folder.path(), ["serve", "--config", "old.toml"]).failed(2);
    assert!(error.contains("listen_insecure"), "{error}");
}

#[test]
fn settings_come_from_a_file_and_bad_ones_are_refused() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("good.toml"), "listen_insecure = false\n").unwrap();
    fs::write(folder.path().join("bad.toml"), "insecuer = true\n").unwrap();
    for (file, said) in [("bad.toml", "insecuer"), ("missing.toml", "missing.toml")] {
        let error = run(folder.path(), ["serve", "--config", file]).failed(2);
        assert!(error.contains(said), "{error}");
    }
    let exposed = [
        "serve",
        "--config",
        "good.toml",
        "--listen",
        "tcp:0.0.0.0:0",
    ];
    run(folder.path(), exposed).failed(1);
}

#[test]
fn the_log_may_be_json() {
    let folder = tempdir().unwrap();
    let json = ["--listen", "tcp:127.0.0.1:0", "--log-format", "json"];
    let mut vat = Vat::spawn(folder.path(), json).ready(1);
    vat.signal(libc::SIGTERM);
    assert_eq!(vat.wait(), Some(0), "{}", vat.errors());
    let log = vat.errors();
    let lines = log.lines().map(serde_json::from_str::<serde_json::Value>);
    let lines: Vec<_> = lines.collect::<Result<_, _>>().expect(&log);
    let last = lines.last().expect("it says that it has stopped");
    assert_eq!(last["fields"]["message"], "stopped");
    assert_eq!(last["level"], "INFO");
}

#[test]
fn nobody_there_is_exit_code_3() {
    let folder = tempdir().unwrap();
    // Bound and gone, so that nobody else has it.
    drop(UnixListener::bind(folder.path().join("gone.sock")).unwrap());
    for address in ["unix:gone.sock", "unix:never.sock"] {
        let error = run(folder.path(), ["classes", "--connect", address]).failed(3);
        assert!(error.contains(address), "{error}");
    }
    let error = run(folder.path(), ["classes", "--connect", "nonsense"]).failed(2);
    assert!(error.contains("tcp:HOST:PORT"), "{error}");
}

#[test]
fn a_peer_at_the_wrong_port_is_told_in_its_own_protocol() {
    let folder = tempdir().unwrap();
    let any = "127.0.0.1:0";
    let args = [
        "--listen",
        "tcp:127.0.0.1:0",
        "--http",
        any,
        "--metrics",
        any,
    ];
    let vat = Vat::spawn(folder.path(), args).ready(3);
    for listener in ["http", "metrics"] {
        let address = format!("tcp:{}", vat.told(listener));
        let error = run(folder.path(), ["classes", "--connect", &address]).failed(3);
        assert!(error.contains("speaks HTTP"), "{listener}: {error}");
    }
    let told = |said: &[u8]| {
        let mut stream = TcpStream::connect(vat.told("tcp")).unwrap();
        stream.write_all(said).unwrap();
        let mut told = Vec::new();
        stream.read_to_end(&mut told).unwrap();
        told
    };
    let requests = [
        "GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        "POST /Counter/x/call/get HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    for request in requests {
        let told = String::from_utf8(told(request.as_bytes())).unwrap();
        assert!(told.starts_with("HTTP/1.1 400 "), "{told}");
        assert!(told.contains("speaks Cap'n Proto, not HTTP"), "{told}");
    }
    // The beginning of a handshake, and an alert.
    assert_eq!(
        told(&[22, 3, 1, 0, 100, 1, 0, 0, 96]),
        [21, 3, 1, 0, 2, 2, 40]
    );
    vat.call("Counter", "x", "increment", "{}");
}
