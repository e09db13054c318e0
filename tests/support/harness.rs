//! A vat under test, in the test's own thread: nothing in it happens behind the test's back, and
//! paused time is one clock for everybody.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::{JoinHandle, LocalSet, spawn_local},
    time::{pause, sleep, timeout},
};
use vatwerk::Address;
use vatwerk_client::LocalClient;
use vatwerk_server::{
    Config, ServeError, Server,
    classes::{Cell, Counter},
    env::sim::{SimDisk, Survival},
    journal::testing::Hold,
};

use super::{Controls, Probe, Wire};

/// After this, a test that waits for something waits in vain.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a test on a thread and a `LocalSet` of its own.
pub fn run<F: Future<Output = ()>>(test: F) {
    block_on(async {
        timeout(PATIENCE, test).await.expect("the test hangs");
    });
}

/// Likewise, with a clock that stands still while anybody has something to do and otherwise goes at
/// once where somebody waits for it to go.
///
/// The clock does not know of data on its way through a socket, so it goes in steps of a millisecond
/// at most: each gives such data a chance to be read.
pub fn run_paused<F: Future<Output = ()>>(test: F) {
    block_on(async {
        pause();
        let pulse = spawn_local(async {
            loop {
                sleep(Duration::from_millis(1)).await;
            }
        });
        timeout(PATIENCE, test).await.expect("the test hangs");
        pulse.abort();
    });
}

/// With a paused clock: waits until nobody has anything to do. Whatever could have happened, has.
pub async fn settle() {
    for _ in 0..100 {
        sleep(Duration::from_millis(1)).await;
    }
}

fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// A vat that serves `Probe`, `Cell` and `Counter` on a unix socket in a folder of its own.
pub struct TestVat {
    folder: TempDir,
    /// Apart, so that a vat that goes on in another folder is found where it was.
    sockets: TempDir,
    pub controls: Controls,
    pub hold: Hold,
    disk: Option<SimDisk>,
    /// Whether the journal has threads of its own; then nothing is held back.
    threads: bool,
    settings: fn(&mut Config),
    life: Option<Life>,
}

struct Life {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    addresses: Vec<Address>,
    http_addresses: Vec<Address>,
    metrics_address: Option<Address>,
}

impl TestVat {
    pub async fn start() -> TestVat {
        TestVat::with(|_| {}).await
    }

    /// A vat with other settings than the default.
    pub async fn with(settings: fn(&mut Config)) -> TestVat {
        let mut vat = TestVat::new(settings);
        vat.start_again().await;
        vat
    }

    /// Likewise, on a disk that fails when it is told to.
    pub async fn on_disk(settings: fn(&mut Config)) -> TestVat {
        let mut vat = TestVat::new(settings);
        vat.disk = Some(SimDisk::new(vat.data().join("journal")));
        vat.start_again().await;
        vat
    }

    /// Likewise, and the journal does its work in threads, as it does in production.
    pub async fn on_disk_with_threads(settings: fn(&mut Config)) -> TestVat {
        let mut vat = TestVat::new(settings);
        vat.disk = Some(SimDisk::new(vat.data().join("journal")));
        vat.threads = true;
        vat.start_again().await;
        vat
    }

    /// One that has not been started.
    pub fn unstarted(settings: fn(&mut Config)) -> TestVat {
        TestVat::new(settings)
    }

    fn new(settings: fn(&mut Config)) -> TestVat {
        TestVat {
            folder: tempfile::tempdir().unwrap(),
            sockets: tempfile::tempdir().unwrap(),
            controls: Controls::default(),
            hold: Hold::default(),
            disk: None,
            threads: false,
            settings,
            life: None,
        }
    }

    /// The disk of a vat that has one of its own.
    pub fn disk(&self) -> &SimDisk {
        self.disk.as_ref().expect("it has a disk of its own")
    }

    /// Other settings for the next start.
    pub fn change_settings(&mut self, settings: fn(&mut Config)) {
        self.settings = settings;
    }

    fn config(&self) -> Config {
        let mut config = Config {
            data: self.data(),
            listen: Some(vec![
                Address::Unix(self.socket()),
                "tcp:127.0.0.1:0".parse().unwrap(),
            ]),
            ..Config::default()
        };
        // More time than usual: the machine may be busy.
        config.limits.statement_ms = 60_000;
        (self.settings)(&mut config);
        config
    }

    /// Starts it, after a stop or a crash, on what is in its folder.
    pub async fn start_again(&mut self) {
        self.start_serving(|server| server.class::<Probe>().class::<Counter>())
            .await
            .expect("the vat starts");
    }

    /// Likewise, with other classes; `Cell` is always there.
    pub async fn start_serving(
        &mut self,
        classes: impl FnOnce(Server) -> Server + 'static,
    ) -> Result<(), ServeError> {
        assert!(self.life.is_none(), "it runs already");
        let server = Server::builder()
            .class::<Cell>()
            .binding(self.controls.clone())
            .config(self.config());
        let server = match self.threads {
            true => server,
            false => server.hold(self.hold.clone()),
        };
        let server = match &self.disk {
            Some(disk) => server.disk(Arc::new(disk.clone())),
            None => server,
        };
        let server = classes(server);
        let (started, has_started) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        // A `LocalSet` inside a task: when the task is aborted, everything in it is dropped as it
        // stands.
        let task = spawn_local(async move {
            let life = async move {
                let running = match server.start().await {
                    Ok(running) => running,
                    Err(error) => return drop(started.send(Err(error))),
                };
                let listening = (
                    running.addresses().to_vec(),
                    running.http_addresses().to_vec(),
                    running.metrics_address().cloned(),
                );
                let _ = started.send(Ok(listening));
                let _ = stopped.await;
                running.stop().await;
            };
            LocalSet::new().run_until(life).await;
        });
        let (addresses, http_addresses, metrics_address) =
            has_started.await.expect("the vat answers")?;
        self.life = Some(Life {
            stop,
            task,
            addresses,
            http_addresses,
            metrics_address,
        });
        Ok(())
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(&mut self) {
        self.begin_stop().await.unwrap();
    }

    /// Asks it to stop; what is returned ends when it has.
    pub fn begin_stop(&mut self) -> JoinHandle<()> {
        let life = self.life.take().expect("it runs");
        let _ = life.stop.send(());
        life.task
    }

    /// Ends it as it stands, as losing power would: what it has not written by now is lost. It
    /// goes on in a copy of its folder, so that nothing still open counts.
    pub async fn crash(&mut self) {
        let life = self.life.take().expect("it runs");
        let copy = tempfile::tempdir().unwrap();
        copy_folder(&self.data(), &copy.path().join("data"));
        life.task.abort();
        let _ = life.task.await;
        self.folder = copy;
    }

    /// Likewise, on its own disk: what of the unsynced is found there, `survival` says.
    pub async fn lose_power(&mut self, survival: impl Into<Survival>) {
        let life = self.life.take().expect("it runs");
        let found = self.disk().after_crash(survival);
        life.task.abort();
        let _ = life.task.await;
        self.disk = Some(found);
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn socket(&self) -> PathBuf {
        self.sockets.path().join("vat.sock")
    }

    /// The TCP address it listens at.
    pub fn tcp(&self) -> &Address {
        &self.life.as_ref().expect("it runs").addresses[1]
    }

    /// The first address at which it is reached over HTTP.
    pub fn http(&self) -> &Address {
        &self.life.as_ref().expect("it runs").http_addresses[0]
    }

    /// The address at which operators are answered.
    pub fn operators(&self) -> &Address {
        let life = self.life.as_ref().expect("it runs");
        life.metrics_address.as_ref().expect("it is told to")
    }

    /// The numbers of the vat, as operators get them. The settings say where.
    pub async fn metrics(&self) -> String {
        let address = self.operators().to_string();
        let address = address.strip_prefix("tcp:").expect("a TCP address");
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// A raw connection.
    pub async fn wire(&self) -> Wire {
        Wire::connect(&self.socket()).await
    }

    /// A client that reconnects.
    pub async fn client(&self) -> LocalClient {
        let address = Address::Unix(self.socket()).to_string();
        LocalClient::connect(&address).await.expect("it connects")
    }

    /// The databases of objects that are there.
    pub fn object_files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        files_below(&self.data().join("objects"), &mut found);
        found.sort();
        found
    }
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files_below(&path, found),
            false => found.push(path),
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy_folder(&entry.path(), &target);
        } else if kind.is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
