//! Peers that are far away, that send much, and that are many.

use std::{fs, sync::mpsc, thread};

use futures::future::join_all;
use tempfile::tempdir;
use vatwerk_client::LocalClient;

use super::{Ear, block_on, connect, metric, until, vat};
use crate::{
    promises_capnp::herald,
    vat::{PATIENCE, Vat},
};

/// The TCP connections that a process has with a port, or at it.
#[cfg(target_os = "linux")]
fn connections(process: libc::pid_t, port: &str) -> Vec<socket2::Socket> {
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

    let process = Pid::from_raw(process).unwrap();
    let held = pidfd_open(process, PidfdFlags::empty()).unwrap();
    let files = std::fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero())).unwrap();
    let files = files.map(|file| file.unwrap().file_name());
    let files = files.map(|file| file.to_str().unwrap().parse().unwrap());
    // One may have been closed meanwhile.
    let copies = files.filter_map(|file| pidfd_getfd(&held, file, PidfdGetfdFlags::empty()).ok());
    let is_at = |address: std::io::Result<socket2::SockAddr>| {
        let address = address.ok().and_then(|address| address.as_socket());
        address.is_some_and(|address| address.port().to_string() == port)
    };
    copies
        .map(socket2::Socket::from)
        .filter(|socket| socket.peer_addr().is_ok())
        .filter(|socket| is_at(socket.peer_addr()) || is_at(socket.local_addr()))
        .collect()
}

#[cfg(target_os = "linux")]
#[test]
fn both_ends_of_a_tcp_connection_find_out_that_the_other_machine_is_gone() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), "");
    block_on(async {
        let client = connect(&vat).await;
        let object: herald::Client = client.namespace().get("x");
        object.read_request().send().promise.await.unwrap();
        let _browser = std::net::TcpStream::connect(vat.told("http")).unwrap();
        let own = std::process::id().try_into().unwrap();
        for (process, listener) in [(vat.id(), "tcp"), (own, "tcp"), (vat.id(), "http")] {
            let port = vat.told(listener).rsplit(':').next().unwrap().to_owned();
            until("it is connected", async || {
                !connections(process, &port).is_empty()
            })
            .await;
            for socket in connections(process, &port) {
                assert!(socket.keepalive().unwrap(), "listener {listener}");
                let seconds = socket.tcp_keepalive_time().unwrap().as_secs();
                let interval = socket.tcp_keepalive_interval().unwrap().as_secs();
                let tries = u64::from(socket.tcp_keepalive_retries().unwrap());
                // About a minute.
                assert!((20..=90).contains(&(seconds + interval * tries)));
                let unacknowledged = socket.tcp_user_timeout().unwrap();
                let unacknowledged = unacknowledged.expect("a limit").as_secs();
                assert!((10..=90).contains(&unacknowledged), "{unacknowledged} s");
            }
        }
    });
}

#[test]
fn a_message_of_nearly_the_largest_size_with_a_capability_arrives_whole() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), "");
    block_on(async {
        let client = connect(&vat).await;
        let object: herald::Client = client.namespace().get("x");
        for mebibytes in [22, 31] {
            let (ear, noticed) = Ear::client();
            let mut request = object.weigh_request();
            let parcel = request.get().init_parcel(mebibytes << 20);
            parcel.fill(7);
            request.get().set_listener(ear);
            request.send().promise.await.unwrap();
            assert_eq!(noticed.heard.get(), Some(u64::from(mebibytes) << 20));
        }
    });
}

#[test]
fn as_many_objects_are_put_to_sleep_as_wake_above_the_limit() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), "resident_objects = 160\n");
    let wake = async |names: &str, count: usize| {
        let client = connect(&vat).await;
        let calls = (0..count).map(|number| {
            let object: herald::Client = client.namespace().get(&format!("{names}{number}"));
            object.read_request().send().promise
        });
        for answer in join_all(calls.collect::<Vec<_>>()).await {
            answer.unwrap();
        }
    };
    let awake = || metric(&vat, "vatwerk_objects_awake");
    let evicted = "vatwerk_evictions_total{class=\"Herald\",reason=\"objects\"}";
    block_on(async {
        wake("old", 160).await;
        assert_eq!((awake(), metric(&vat, evicted)), (160.0, 0.0));
        wake("new", 32).await;
        until("some sleep", async || awake() <= 160.0).await;
        assert_eq!((awake(), metric(&vat, evicted)), (160.0, 32.0));
    });
}

/// A client that has given `x` a listener, and reads nothing any more.
struct Deaf {
    stop: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Deaf {
    fn start(vat: &Vat) -> Deaf {
        let address = vat.address(0);
        let (ready, is_ready) = mpsc::channel();
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            block_on(async move {
                let client = LocalClient::connect(&address).await.unwrap();
                let x: herald::Client = client.namespace().get("x");
                let mut request = x.keep_request();
                request.get().set_listener(Ear::client().0);
                request.send().promise.await.unwrap();
                ready.send(()).unwrap();
                // Nothing else of this thread runs meanwhile.
                let _ = stopped.recv();
            });
        });
        is_ready.recv_timeout(PATIENCE).unwrap();
        Deaf { stop, thread }
    }

    fn end(self) {
        drop(self.stop);
        self.thread.join().unwrap();
    }
}

/// How much memory the process of the vat has in use, in bytes.
fn memory(vat: &Vat) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", vat.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.unwrap().trim().trim_end_matches(" kB").parse::<u64>();
    kibibytes.unwrap() << 10
}

/// Has `x` call its listener, which does not hear, until so many calls have failed.
async fn shout(vat: &Vat, calls: u32, unheard: u64) {
    let client = connect(vat).await;
    let x: herald::Client = client.namespace().get("x");
    for _ in 0..calls / 400 {
        let mut request = x.shout_request();
        request.get().set_times(400);
        request.get().set_bytes(64 << 10);
        request.send().promise.await.unwrap();
    }
    until("calls that are not heard fail", async || {
        let told = x.unheard_request().send().promise.await.unwrap();
        told.get().unwrap().get_number() >= unheard
    })
    .await;
    x.count_request().send().promise.await.unwrap();
}

#[test]
fn what_is_said_to_a_peer_that_does_not_read_is_bounded() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), "bytes_per_connection = 4_194_304\n");
    let deaf = Deaf::start(&vat);
    let before = memory(&vat);
    // 200 MiB, of which 4 wait.
    block_on(shout(&vat, 3200, 3200 - 64));
    let more = memory(&vat).saturating_sub(before);
    assert!(more < 48 << 20, "{more} bytes");
    deaf.end();
}

#[test]
fn a_peer_that_takes_nothing_for_long_loses_its_connection_and_calls_to_it_fail() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), "stall_ms = 300\n");
    let deaf = Deaf::start(&vat);
    block_on(shout(&vat, 400, 400));
    deaf.end();
}
