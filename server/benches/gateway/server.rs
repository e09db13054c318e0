//! What is measured: a server in a process of its own, and what that uses.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

/// Which server this program is to be.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    Vat,
    /// `hyper`, bare.
    Hyper,
    /// `tokio-tungstenite`, bare.
    Echo,
    /// Likewise.
    Broadcast,
}

/// Says which.
const ROLE: &str = "VATWERK_BENCH_ROLE";

impl Role {
    /// The role of this process, if it is to be a server.
    pub fn told() -> Option<Role> {
        let told = std::env::var(ROLE).ok()?;
        let all = [Role::Vat, Role::Hyper, Role::Echo, Role::Broadcast];
        all.into_iter().find(|role| format!("{role:?}") == told)
    }
}

/// A server, which is killed when this is dropped.
pub struct Server {
    process: Child,
    /// Where it speaks HTTP.
    pub http: SocketAddr,
    folder: TempDir,
}

impl Server {
    /// The vat, with a new folder and these settings.
    pub fn vat(settings: &str) -> Server {
        Server::start(Role::Vat, settings)
    }

    /// A library that a vat's listener is made of.
    pub fn bare(role: Role) -> Server {
        Server::start(role, "")
    }

    fn start(role: Role, settings: &str) -> Server {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name| folder.path().join(name);
        fs::write(path("settings"), settings).expect("a new file");
        let mut process = Command::new(std::env::current_exe().expect("this program"))
            .args(["serve", "--http", "127.0.0.1:0", "--listen"])
            .arg(format!("unix:{}", path("socket").display()))
            .arg("--data")
            .arg(path("data"))
            .arg("--config")
            .arg(path("settings"))
            .env(ROLE, format!("{role:?}"))
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let out = BufReader::new(process.stdout.take().expect("a pipe"));
        let http = out.lines().find_map(|line| {
            let line = line.expect("text");
            line.strip_prefix("listening http ")?.parse().ok()
        });
        Server {
            process,
            http: http.expect("it listens"),
            folder,
        }
    }

    /// Where it speaks Cap'n Proto.
    pub fn capnp(&self) -> String {
        format!("unix:{}", self.folder.path().join("socket").display())
    }

    /// How long its threads have run.
    pub fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(self.of_kernel("task")).expect("a process of ours");
        let nanoseconds = tasks.filter_map(|task| {
            // A thread may end at any moment.
            let times = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            times.split_whitespace().next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanoseconds.sum())
    }

    /// How much memory it has, in bytes.
    pub fn resident(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most memory that it has had since [`Server::forget_peak`], in bytes.
    pub fn peak(&self) -> u64 {
        self.status("VmHWM:")
    }

    pub fn forget_peak(&self) {
        fs::write(self.of_kernel("clear_refs"), "5").expect("a process of ours");
    }

    fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(self.of_kernel("status")).expect("a process of ours");
        let value = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = value.and_then(|value| value.trim().strip_suffix(" kB"));
        kib.expect("a field").parse::<u64>().expect("a number") << 10
    }

    fn of_kernel(&self, file: &str) -> std::path::PathBuf {
        let id = self.process.id().to_string();
        Path::new("/proc").join(id).join(file)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
