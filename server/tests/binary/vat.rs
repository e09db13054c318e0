//! A running vat, and the verbs that talk to one.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

/// After this, a test that waits for something waits in vain.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a process of a test may run, in seconds: a test that waits for its end, or for what it says, does
/// not wait for ever.
const LIFETIME: i64 = 240;

/// The binary, away from the settings and the sockets of whoever runs the tests.
pub fn binary(folder: &Path) -> Command {
    program(Path::new(env!("CARGO_BIN_EXE_vatwerk")), folder)
}

/// An example of this package, which is a server too. `cargo test` builds it.
pub fn example(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_vatwerk")).with_file_name("examples");
    let path = folder.join(name);
    assert!(path.exists(), "`cargo build --examples` has not been run");
    path
}

/// A server, likewise.
fn program(path: &Path, folder: &Path) -> Command {
    let mut command = Command::new(path);
    command
        .current_dir(folder)
        .env_remove("VATWERK_CONNECT")
        .env_remove("VATWERK_DATA")
        .env_remove("VATWERK_FAULT")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command
}

/// How a process ended.
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ended {
    /// What it printed, if it succeeded.
    #[track_caller]
    pub fn printed(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.err);
        self.out
    }

    /// What it said about its failure, which is one line on stderr and nothing on stdout.
    #[track_caller]
    pub fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        assert_eq!(self.out, "");
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self.err
    }
}

/// Runs the binary to its end.
pub fn run(folder: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ended {
    ended(binary(folder).args(args))
}

/// Runs a program to its end.
pub fn ended(command: &mut Command) -> Ended {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = child
        .spawn()
        .map(limited)
        .unwrap()
        .wait_with_output()
        .unwrap();
    Ended {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A process that is killed when its lifetime is over.
pub fn limited(child: Child) -> Child {
    let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
    thread::spawn(move || {
        let lifetime = Timespec {
            tv_sec: LIFETIME,
            tv_nsec: 0,
        };
        let mut end = [PollFd::new(&process, PollFlags::IN)];
        if poll(&mut end, Some(&lifetime)).unwrap() == 0 {
            eprintln!("a process of a test still ran after {LIFETIME} s, and is killed");
            // It may have ended just now.
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }
    });
    child
}

/// A vat in a process, which is killed when this is dropped.
pub struct Vat {
    child: Child,
    program: PathBuf,
    folder: PathBuf,
    /// What it printed, line by line.
    pub lines: Vec<String>,
}

impl Vat {
    /// Serves `folder/data` at any TCP port and at `folder/vat.sock`.
    pub fn start(folder: &Path) -> Vat {
        Vat::listening(folder, &["tcp:127.0.0.1:0", "unix:vat.sock"])
    }

    /// Serves `folder/data` at these addresses, and returns when it takes connections.
    pub fn listening(folder: &Path, addresses: &[&str]) -> Vat {
        let listen = addresses.iter().flat_map(|address| ["--listen", address]);
        Vat::spawn(folder, listen).ready(addresses.len())
    }

    /// Begins to serve `folder/data` with these arguments, and does not wait for anything.
    pub fn spawn(folder: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Vat {
        let program = Path::new(env!("CARGO_BIN_EXE_vatwerk"));
        Vat::spawn_program(program, folder, args)
    }

    /// Begins to serve with another server, as [`Vat::spawn`] does.
    pub fn spawn_program(
        program: &Path,
        folder: &Path,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Vat {
        Vat::spawn_faulty(program, folder, args, None)
    }

    /// Begins to serve with a server that has this fault of its own: see the example `promises`.
    pub fn spawn_faulty(
        program: &Path,
        folder: &Path,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        fault: Option<&str>,
    ) -> Vat {
        let args: Vec<OsString> = args
            .into_iter()
            .map(|arg| arg.as_ref().to_owned())
            .collect();
        let errors = File::create(folder.join("stderr")).unwrap();
        let mut command = self::program(program, folder);
        command.envs(fault.map(|fault| ("VATWERK_FAULT", fault)));
        Vat::serve(command, program, folder, args, "info", errors)
    }

    /// Begins to serve with a server that logs what `filter` says to `log`.
    pub fn spawn_logging(
        program: &Path,
        folder: &Path,
        args: Vec<OsString>,
        filter: &str,
        log: impl Into<Stdio>,
    ) -> Vat {
        let command = self::program(program, folder);
        Vat::serve(command, program, folder, args, filter, log)
    }

    fn serve(
        mut command: Command,
        program: &Path,
        folder: &Path,
        args: Vec<OsString>,
        filter: &str,
        log: impl Into<Stdio>,
    ) -> Vat {
        // Unless a test asks for HTTP: others may run at the same time.
        let quiet = if args.iter().any(|arg| arg == "--http") {
            &[][..]
        } else {
            &["--http", "none"]
        };
        let child = command
            .env("RUST_LOG", filter)
            .args(["serve", "--data", "data"])
            .args(args)
            .args(quiet)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map(limited)
            .unwrap();
        Vat {
            child,
            program: program.to_owned(),
            folder: folder.to_owned(),
            lines: Vec::new(),
        }
    }

    /// Waits until it takes connections at so many addresses.
    pub fn ready(mut self, addresses: usize) -> Vat {
        let out = BufReader::new(self.child.stdout.take().unwrap());
        for line in out.lines().take(addresses) {
            self.lines.push(line.unwrap());
        }
        assert_eq!(self.lines.len(), addresses, "{}", self.errors());
        self
    }

    /// Its address of that order, as `--connect` takes it.
    pub fn address(&self, which: usize) -> String {
        let told = self.lines[which].strip_prefix("listening ").unwrap();
        told.replacen(' ', ":", 1)
    }

    /// The TCP address, `HOST:PORT`, where it listens for `what`: `tcp`, `http` or `metrics`.
    pub fn told(&self, what: &str) -> &str {
        let prefix = format!("listening {what} ");
        let mut told = self
            .lines
            .iter()
            .filter_map(|line| line.strip_prefix(&*prefix));
        told.next().unwrap()
    }

    /// The id of its process.
    pub fn id(&self) -> libc::pid_t {
        self.child.id().try_into().unwrap()
    }

    /// What it has said on stderr.
    pub fn errors(&self) -> String {
        fs::read_to_string(self.folder.join("stderr")).unwrap()
    }

    /// Waits until it has said this on stderr.
    pub fn until_logged(&self, what: &str) {
        let began = Instant::now();
        while !self.errors().contains(what) {
            assert!(began.elapsed() < PATIENCE, "not {what}: {}", self.errors());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs a verb against it.
    pub fn run(&self, args: &[&str]) -> Ended {
        let to = ["--connect", &self.address(0)];
        ended(program(&self.program, &self.folder).args(args).args(to))
    }

    /// Begins to run a verb against it, and does not wait for its end.
    pub fn begin(&self, args: &[&str]) -> Child {
        let to = ["--connect", &self.address(0)];
        let mut command = program(&self.program, &self.folder);
        let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
        quiet.args(args).args(to).spawn().map(limited).unwrap()
    }

    /// What a verb prints that must succeed.
    #[track_caller]
    pub fn printed(&self, args: &[&str]) -> String {
        self.run(args).printed()
    }

    /// What a call answers.
    #[track_caller]
    pub fn call(&self, class: &str, name: &str, method: &str, params: &str) -> String {
        let out = self.printed(&["call", class, name, method, params]);
        out.strip_suffix('\n').unwrap().to_owned()
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: the process is our child, and nobody has waited for it, so the id is still its.
        assert_eq!(unsafe { libc::kill(self.id(), signal) }, 0);
    }

    /// Waits for its end, and returns its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Ends it as a crash would, and returns what it had said on stderr.
    pub fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.errors()
    }
}

impl Drop for Vat {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The status and the rest of the answer to a request with a body of JSON, on a connection of its own.
pub fn ask(address: &str, request: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let patience = Some(Duration::from_secs(60));
    stream.set_read_timeout(patience).unwrap();
    let length = body.len();
    let head = format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close");
    let json = format!("Content-Type: application/json\r\nContent-Length: {length}");
    write!(stream, "{head}\r\n{json}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The whole answer to `GET path`.
pub fn get(address: &str, path: &str) -> String {
    ask(address, &format!("GET {path}"), "")
}

/// All files in a folder, and in those inside of it.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files
}
