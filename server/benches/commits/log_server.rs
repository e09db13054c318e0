//! A bare log server: the least that a server can do which makes every request durable before it
//! answers. For each it appends a record to a file that is written round and round. One thread
//! reads requests and queues them; another writes whatever has queued with one write and one
//! `fdatasync`, and then answers.

use std::{
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::FileExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

use crate::{
    disk,
    measure::Floor,
    pipeline::{Pipeline, Protocol},
};

/// Set for the process that is the server: the folder for its file.
const SERVE: &str = "VATWERK_BENCH_LOG_SERVER";

const FILE_BYTES: usize = 64 << 20;
const REQUEST_BYTES: usize = 32;
const ANSWER_BYTES: usize = 8;

pub fn appends(folder: &Path, record_bytes: usize, in_flight: &[usize]) -> Floor {
    let name = format!("bare log server, {record_bytes} bytes a record");
    let (server, stream) = Server::start(folder, record_bytes);
    let mut pipeline = Pipeline::new(stream, Appends(0));
    Floor::new(name, in_flight, move |in_flight, time| {
        let _running = &server;
        pipeline.run(in_flight, time)
    })
}

/// A server in a process, which is killed when this is dropped.
struct Server(Child);

impl Server {
    /// Starts one whose standard input is the other end of the connection.
    fn start(folder: &Path, record_bytes: usize) -> (Server, UnixStream) {
        let (mut ours, theirs) = UnixStream::pair().expect("a socket pair");
        let process = Command::new(std::env::current_exe().expect("this program"))
            .args(["--record-bytes", &record_bytes.to_string()])
            .env(SERVE, folder)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .expect("it runs");
        // It says that it is ready with the answer to no request.
        ours.read_exact(&mut [0; ANSWER_BYTES]).expect("a server");
        (Server(process), ours)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Requests are told apart by how many there were before.
struct Appends(u64);

impl Protocol for Appends {
    fn push_request(&mut self, requests: &mut Vec<u8>) {
        let mut request = [0; REQUEST_BYTES];
        request[..8].copy_from_slice(&self.0.to_le_bytes());
        self.0 += 1;
        requests.extend_from_slice(&request);
    }

    fn answer_bytes(&self, received: &[u8]) -> Option<usize> {
        (received.len() >= ANSWER_BYTES).then_some(ANSWER_BYTES)
    }
}

/// The folder to serve, if this process is the server.
pub fn folder_to_serve() -> Option<PathBuf> {
    std::env::var_os(SERVE).map(PathBuf::from)
}

/// Serves standard input, until the other side hangs up.
pub fn serve(folder: &Path, record_bytes: usize) {
    assert!(record_bytes >= REQUEST_BYTES, "a record holds its request");
    let connection = std::io::stdin().as_fd().try_clone_to_owned();
    let connection = UnixStream::from(connection.expect("a connection"));
    let answers = connection.try_clone().expect("a connection");
    let (queue, queued) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| write_records(folder, record_bytes, queued, answers));
        queue_requests(connection, queue);
    });
}

/// Queues requests, all that a read has brought at once.
fn queue_requests(mut connection: UnixStream, queue: Sender<Vec<u8>>) {
    let mut received = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = connection.read(&mut buffer).expect("a connection");
        if length == 0 {
            return;
        }
        received.extend_from_slice(&buffer[..length]);
        let partial = received.split_off(received.len() - received.len() % REQUEST_BYTES);
        let requests = std::mem::replace(&mut received, partial);
        queue.send(requests).expect("a thread that writes");
    }
}

fn write_records(
    folder: &Path,
    record_bytes: usize,
    queued: Receiver<Vec<u8>>,
    mut answers: UnixStream,
) {
    let file = disk::preallocated(&folder.join("log"), FILE_BYTES as u64);
    let mut offset = 0;
    let mut batch = Vec::new();
    answers.write_all(&[0; ANSWER_BYTES]).expect("a client");
    while let Ok(first) = queued.recv() {
        batch.clear();
        let mut count = 0;
        for requests in std::iter::once(first).chain(queued.try_iter()) {
            for request in requests.chunks_exact(REQUEST_BYTES) {
                batch.extend_from_slice(request);
                count += 1;
                batch.resize(count * record_bytes, 0);
            }
        }
        assert!(batch.len() <= FILE_BYTES, "a batch fits in the file");
        if offset + batch.len() > FILE_BYTES {
            offset = 0;
        }
        file.write_all_at(&batch, offset as u64).expect("a disk");
        file.sync_data().expect("a sync");
        offset += batch.len();
        let answer = vec![0; count * ANSWER_BYTES];
        // Nobody has to wait for the answers.
        let _ = answers.write_all(&answer);
    }
}
