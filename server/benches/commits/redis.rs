//! Redis, which has every increment on disk before it answers, and syncs for all together that it
//! finds in a turn of its event loop.

use std::{
    io::{self, ErrorKind, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    measure::Floor,
    pipeline::{Pipeline, Protocol},
};

const NAME: &str = "Redis, appendfsync always";

/// How many keys are incremented in turn.
const KEYS: u64 = 10_000;

/// How long a server may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);

pub fn increments(folder: &Path, in_flight: &[usize]) -> Floor {
    let server = match Server::start(&folder.join("redis")) {
        Ok(server) => server,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Floor::missing(NAME, "no redis-server");
        }
        Err(error) => panic!("redis-server does not start: {error}"),
    };
    let mut pipeline = Pipeline::new(server.connect(), Increments(0));
    Floor::new(NAME, in_flight, move |in_flight, time| {
        let _running = &server;
        pipeline.run(in_flight, time)
    })
}

/// A server in a process, which is killed when this is dropped.
struct Server {
    process: Child,
    /// Where its socket is: not in its data folder, whose path may be too long for a socket.
    sockets: TempDir,
}

impl Server {
    fn start(data: &Path) -> io::Result<Server> {
        std::fs::create_dir(data).expect("a new folder");
        let sockets = tempfile::tempdir().expect("a temporary folder");
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--daemonize", "no"])
            .args(["--appendonly", "yes", "--appendfsync", "always"])
            .args(["--auto-aof-rewrite-percentage", "0"])
            .arg("--dir")
            .arg(data)
            .arg("--unixsocket")
            .arg(sockets.path().join("socket"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Server { process, sockets })
    }

    fn connect(&self) -> UnixStream {
        let started = Instant::now();
        loop {
            match UnixStream::connect(self.sockets.path().join("socket")) {
                Ok(stream) => return stream,
                Err(_) if started.elapsed() < START_TIMEOUT => {
                    sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("redis-server does not listen: {error}"),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `INCR`, of one key after another. Holds how many there were.
struct Increments(u64);

impl Protocol for Increments {
    fn push_request(&mut self, requests: &mut Vec<u8>) {
        let key = format!("counter:{}", self.0 % KEYS);
        self.0 += 1;
        write!(requests, "*2\r\n$4\r\nINCR\r\n${}\r\n{key}\r\n", key.len()).expect("memory");
    }

    fn answer_bytes(&self, received: &[u8]) -> Option<usize> {
        let line = received.split_inclusive(|byte| *byte == b'\n').next()?;
        let is_whole = line.ends_with(b"\n");
        assert!(
            line.starts_with(b":"),
            "not a number: {}",
            String::from_utf8_lossy(line)
        );
        is_whole.then_some(line.len())
    }
}
