//! Peers that do not read, and messages of the largest size.

use std::{
    cell::{Cell, RefCell},
    path::Path,
    rc::Rc,
    thread::JoinHandle,
};

use capnp::any_pointer;
use tempfile::TempDir;
use vatwerk::{Address, Code};
use vatwerk_server::{Config, Running, Server, config::Limits};

use crate::{
    puppet_capnp::puppet,
    support::{
        Do, Ear, TestVat, Wire, code,
        puppet::{Client, Own, Puppet, act, prepare},
        run, send, settle, tell,
    },
};

/// What a call to a peer carries: a small share of what a peer may have in flight.
const CALL_BYTES: usize = 64 << 10;

/// A vat with a class that does what it is told, and where it listens.
struct Vat {
    vat: Running,
    folder: TempDir,
}

impl Vat {
    async fn start(limits: Limits) -> Vat {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            data: folder.path().join("data"),
            listen: Some(vec![Address::Unix(folder.path().join("vat.sock"))]),
            limits,
            ..Config::default()
        };
        let server = Server::builder().class::<Puppet>().config(config);
        let vat = server.start().await.unwrap();
        Vat { vat, folder }
    }

    async fn wire(&self) -> Wire {
        Wire::connect(&self.folder.path().join("vat.sock")).await
    }
}

struct Silent;

impl puppet::Server for Silent {}

/// A client that has given the object `p` a capability, and reads nothing any more.
struct Deaf {
    stop: std::sync::mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Deaf {
    async fn start(socket: &Path) -> Deaf {
        let deed = prepare(async |own, given| {
            own.kept
                .replace(Some(Box::new(given.expect("it was sent"))));
            Ok(None)
        });
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let (stop, stopped) = std::sync::mpsc::channel();
        let socket = socket.to_owned();
        let thread = std::thread::spawn(move || {
            run(async move {
                let wire = Wire::connect(&socket).await;
                let mut request = wire.object::<Client>("p").act_request();
                request.get().set_deed(deed);
                request.get().set_given(capnp_rpc::new_client(Silent));
                request.send().promise.await.unwrap();
                ready.send(()).unwrap();
                // The thread does nothing else from here on.
                let _ = stopped.recv();
            });
        });
        is_ready.await.unwrap();
        Deaf { stop, thread }
    }

    fn end(self) {
        drop(self.stop);
        self.thread.join().unwrap();
    }
}

/// Begins a call to the client that does not read.
fn call_kept(own: &Own) -> impl Future<Output = capnp::Result<()>> + use<> {
    let kept = own.kept.borrow();
    let kept = kept.as_ref().and_then(|kept| kept.downcast_ref::<Client>());
    let kept = kept.expect("it was kept");
    let mut request = kept
        .client
        .new_call::<any_pointer::Owned, any_pointer::Owned>(0xc4a7_e190_5d3b_826f, 0, None);
    let _: capnp::text::Builder<'_> = request.get().initn_as(CALL_BYTES as u32);
    let answer = request.send().promise;
    async move { answer.await.map(drop) }
}

#[test]
fn calls_to_a_peer_that_does_not_read_fail_and_do_not_pile_up() {
    run(async {
        let limits = Limits {
            bytes_per_connection: 1 << 20,
            ..Limits::default()
        };
        let vat = Vat::start(limits).await;
        let deaf = Deaf::start(&vat.folder.path().join("vat.sock")).await;
        let wire = vat.wire().await;
        let p: Client = wire.object("p");
        let failures = Rc::new(RefCell::new(Vec::new()));
        for _ in 0..8 {
            let failures = failures.clone();
            act(&p, async move |own| {
                for _ in 0..400 {
                    let (call, failures) = (call_kept(&own), failures.clone());
                    own.ctx.wait_until(async move {
                        if let Err(error) = call.await {
                            failures.borrow_mut().push(error);
                        }
                        Ok(())
                    })?;
                }
                Ok(())
            })
            .await
            .unwrap();
        }
        // Fifteen of these fit, and whatever is said besides. The others fail without being waited for.
        let rounds = Cell::new(0);
        while failures.borrow().len() < 3185 {
            assert!(
                rounds.replace(rounds.get() + 1) < 1000,
                "{}",
                failures.borrow().len()
            );
            act(&p, async |_| Ok(())).await.unwrap();
        }
        assert_eq!(failures.borrow().len(), 3185);
        for error in failures.take() {
            assert!(
                error.extra.contains("limits.bytes_per_connection"),
                "{error}"
            );
            assert_eq!(code::<()>(Err(error)), Code::Overloaded);
        }
        deaf.end();
        drop(wire);
        vat.vat.stop().await;
    });
}

#[test]
fn a_peer_that_does_not_read_loses_its_connection_and_calls_to_it_fail() {
    run(async {
        let limits = Limits {
            stall_ms: 100,
            ..Limits::default()
        };
        let vat = Vat::start(limits).await;
        let deaf = Deaf::start(&vat.folder.path().join("vat.sock")).await;
        let wire = vat.wire().await;
        let p: Client = wire.object("p");
        let failures = act(&p, async |own| {
            let calls: Vec<_> = (0..100).map(|_| call_kept(&own)).collect();
            let outcomes = futures::future::join_all(calls).await;
            Ok(outcomes
                .into_iter()
                .map(Result::unwrap_err)
                .collect::<Vec<_>>())
        });
        for error in failures.await.unwrap() {
            assert!(
                error.extra.contains("100 ms (`limits.stall_ms`)"),
                "{error}"
            );
            assert_eq!(code::<()>(Err(error)), Code::Disconnected);
        }
        // The object and its other callers go on.
        act(&p, async |own| Ok(own.put("k", "v")?)).await.unwrap();
        deaf.end();
        drop(wire);
        vat.vat.stop().await;
    });
}

#[test]
fn past_the_bytes_of_the_vat_calls_are_refused_and_it_recovers() {
    crate::support::run_paused(async {
        let vat = TestVat::with(|config| config.limits.bytes_per_vat = 1 << 20).await;
        let (busy, other) = (vat.wire().await, vat.wire().await);
        let text: &'static str = "x".repeat(400_000).leak();
        let script = [Do::Latch("busy"), Do::Say(text)];
        let probe = busy.probe("p");
        let calls: Vec<_> = (0..2).map(|_| send(&probe, &script).promise).collect();
        settle().await;
        let refused = tell(&other.probe("q"), &script).await.unwrap_err();
        assert!(refused.extra.contains("limits.bytes_per_vat"), "{refused}");
        assert_eq!(code::<()>(Err(refused)), Code::Overloaded);
        // Those that send little are not concerned.
        tell(&other.probe("q"), &[Do::Put("k", "v")]).await.unwrap();
        vat.controls.release("busy");
        for call in calls {
            call.await.unwrap();
        }
        tell(&other.probe("q"), &script).await.unwrap();
    });
}

#[test]
fn a_message_of_nearly_the_largest_size_with_a_capability_is_read_whole() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        // It is looked at, copied, read by the object, and sent on as another.
        let text: &'static str = "x".repeat(31 << 20).leak();
        let ear = Ear::default();
        tell(&wire.probe("p"), &[Do::Tell(ear.client(), text)])
            .await
            .unwrap();
        assert_eq!(ear.heard().len(), 1);
        assert_eq!(ear.heard()[0].len(), text.len());
    });
}
