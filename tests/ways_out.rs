//! Every way out of an object waits for what it could reveal, and a gate that lets one through is found
//! out: ARCHITECTURE has a row for each of these tests.

use std::{
    cell::{Cell, RefCell},
    future::pending,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use tokio::{task::spawn_local, time::timeout};
use vatwerk_server::{
    AlarmInfo, Body, Context, Request, Response, SocketMessage, WebSocket,
    fetch::{ClientSocket, Frame, send_frame},
    object::{Way, testing::Sabotage},
    testing::{TestVat, run},
};

use crate::{
    puppet_capnp::puppet,
    support::{
        self, Do, Probe,
        puppet::{Client, Own, Program, Puppet, act, connect, fetch, give, put, wants_socket},
        run_paused, send, settle,
    },
};

const SECOND: Duration = Duration::from_secs(1);

/// Writes whenever it has something to do.
struct Writes;

impl Program for Writes {
    async fn alarm(own: Rc<Own>, _: AlarmInfo) -> capnp::Result<()> {
        Ok(own.put("alarm", "ran")?)
    }

    async fn message(own: Rc<Own>, _: WebSocket, _: SocketMessage) -> capnp::Result<()> {
        Ok(own.put("message", "heard")?)
    }
}

/// What is noticed of an object in a vat that is served wrong in this way, if any.
fn noticed(
    sabotage: Option<Sabotage>,
    scene: impl AsyncFnOnce(TestVat, Client) -> bool + 'static,
) -> bool {
    let noticed = Rc::new(Cell::new(false));
    let told = noticed.clone();
    run(async move {
        let vat = TestVat::start(move |server| {
            let server = server.class::<Puppet<Writes>>();
            match sabotage {
                Some(sabotage) => server.sabotage(sabotage),
                None => server,
            }
        })
        .await;
        let p: Client = vat.object("p");
        act(&p, async |_| Ok(())).await.unwrap();
        told.set(scene(vat, p).await);
    });
    noticed.get()
}

/// Checks that a scene shows nothing before the write is on disk, and would show it if this way were open.
fn check<S: AsyncFnOnce(TestVat, Client) -> bool + 'static>(way: Way, scene: impl Fn() -> S) {
    assert!(!noticed(None, scene()), "{way:?} does not wait");
    let sabotage = Some(Sabotage::OpenGateFor(way));
    assert!(
        noticed(sabotage, scene()),
        "{way:?} is not what the scene shows"
    );
}

/// A client's capability that notes that it was called, and that it was let go of.
#[derive(Clone, Default)]
struct Seen {
    called: Rc<Cell<bool>>,
    let_go: Rc<Cell<bool>>,
}

struct Peer(Seen);

impl puppet::Server for Peer {
    async fn act(self: Rc<Self>, _: puppet::ActParams, _: puppet::ActResults) -> capnp::Result<()> {
        self.0.called.set(true);
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.0.let_go.set(true);
    }
}

fn peer() -> (Client, Seen) {
    let seen = Seen::default();
    (capnp_rpc::new_client(Peer(seen.clone())), seen)
}

#[test]
fn the_outcome_of_a_call() {
    check(Way::Return, || {
        async |vat: TestVat, p: Client| {
            vat.hold_commits();
            let call = spawn_local(async move { put(&p, "k", "v").await });
            vat.settle().await;
            call.is_finished()
        }
    });
}

#[test]
fn the_outcome_of_a_request() {
    check(Way::Return, || {
        async |vat: TestVat, p: Client| {
            vat.hold_commits();
            let call = spawn_local(async move {
                fetch(&p, Request::new(Body::empty()), async |own, _| {
                    own.put("k", "v")?;
                    Err(capnp::Error::failed("told to".into()))
                })
                .await
            });
            vat.settle().await;
            call.is_finished()
        }
    });
}

#[test]
fn a_call_to_another_party() {
    check(Way::Call, || {
        async |vat: TestVat, p: Client| {
            let (peer, seen) = peer();
            vat.hold_commits();
            let call = give(&p, peer, async |own, peer| {
                own.put("k", "v")?;
                peer.act_request().send().promise.await.map(drop)
            });
            vat.settle().await;
            drop(call);
            seen.called.get()
        }
    });
}

#[test]
fn letting_go_of_a_capability() {
    check(Way::LetGo, || {
        async |vat: TestVat, p: Client| {
            let (peer, seen) = peer();
            let keep = give(&p, peer, async |own, peer| {
                own.kept.replace(Some(Box::new(peer)));
                Ok(())
            });
            keep.await.unwrap();
            vat.hold_commits();
            let call = act(&p, async |own| {
                own.put("k", "v")?;
                own.kept.take();
                Ok(())
            });
            vat.settle().await;
            drop(call);
            seen.let_go.get()
        }
    });
}

#[test]
fn letting_go_of_a_call() {
    check(Way::LetGo, || {
        async |vat: TestVat, p: Client| {
            let call = act(&p, async |own| {
                let waits = act(&own.other("q"), async |_| {
                    pending::<capnp::Result<()>>().await
                });
                own.kept.replace(Some(Box::new(spawn_in(waits))));
                Ok(())
            });
            call.await.unwrap();
            vat.settle().await;
            assert_eq!(vat.status::<Client>("q").in_flight, 1);
            vat.hold_commits();
            let call = act(&p, async |own| {
                own.put("k", "v")?;
                own.kept.take();
                Ok(())
            });
            vat.settle().await;
            drop(call);
            vat.status::<Client>("q").in_flight == 0
        }
    });
}

/// A call that is under way, to be dropped.
fn spawn_in<T: 'static>(
    call: impl Future<Output = T> + 'static,
) -> std::pin::Pin<Box<dyn std::any::Any>> {
    let mut call: std::pin::Pin<Box<dyn Future<Output = T>>> = Box::pin(call);
    let waker = futures::task::noop_waker();
    let polled = call
        .as_mut()
        .poll(&mut std::task::Context::from_waker(&waker));
    assert!(polled.is_pending());
    Box::pin(call)
}

#[test]
fn letting_go_of_a_response() {
    check(Way::LetGo, || {
        async |vat: TestVat, p: Client| {
            let call = act(&p, async |own| {
                let q = own.other("q");
                let handle = support::puppet::sent(&q, async |own| Ok(own.handle()));
                own.kept.replace(Some(Box::new(handle.promise.await?)));
                Ok(())
            });
            call.await.unwrap();
            vat.settle().await;
            assert_eq!(vat.status::<Client>("q").handed_out, 1);
            vat.hold_commits();
            let call = act(&p, async |own| {
                own.put("k", "v")?;
                own.kept.take();
                Ok(())
            });
            vat.settle().await;
            drop(call);
            vat.status::<Client>("q").handed_out == 0
        }
    });
}

/// A body of many chunks, and how many of them have been taken.
fn body() -> (Body, Rc<Cell<usize>>, Rc<Cell<bool>>) {
    struct End(Rc<Cell<bool>>);
    impl Drop for End {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    let (taken, ended) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let (count, end) = (taken.clone(), End(ended.clone()));
    let pieces = futures::stream::iter(0..200).map(move |_| {
        let _ = &end;
        count.set(count.get() + 1);
        Ok(Bytes::from_static(&[7; 8 << 10]))
    });
    (Body::stream(pieces, None), taken, ended)
}

#[test]
fn reading_the_body_of_a_request() {
    check(Way::Body, || {
        async |vat: TestVat, p: Client| {
            let (body, taken, _) = body();
            vat.hold_commits();
            let call = spawn_local(async move {
                fetch(&p, Request::new(body), async |own, request| {
                    // Until the sender waits.
                    own.ctx.sleep(SECOND).await;
                    own.put("k", "v")?;
                    let mut body = request.into_body();
                    while body.piece().await.transpose()?.is_some() {}
                    Ok(Response::new(Body::empty()))
                })
                .await
            });
            tokio::time::sleep(SECOND / 2).await;
            vat.settle().await;
            let before = taken.get();
            assert!(before < 100);
            tokio::time::sleep(SECOND).await;
            vat.settle().await;
            drop(call);
            taken.get() > before
        }
    });
}

#[test]
fn refusing_the_body_of_a_request() {
    check(Way::Body, || {
        async |vat: TestVat, p: Client| {
            let (body, _, ended) = body();
            vat.hold_commits();
            let call = spawn_local(async move {
                fetch(&p, Request::new(body), async |own, request| {
                    own.ctx.sleep(SECOND).await;
                    own.put("k", "v")?;
                    drop(request);
                    pending().await
                })
                .await
            });
            tokio::time::sleep(SECOND / 2).await;
            vat.settle().await;
            assert!(!ended.get());
            tokio::time::sleep(SECOND).await;
            vat.settle().await;
            call.abort();
            ended.get()
        }
    });
}

#[test]
fn the_end_of_an_alarm() {
    check(Way::Alarms, || {
        async |vat: TestVat, p: Client| {
            let set = act(&p, async |own| Ok(own.ctx.alarms()?.set_in(SECOND)?));
            set.await.unwrap();
            vat.hold_commits();
            vat.advance(2 * SECOND).await;
            vat.alarms_running() == 0
        }
    });
}

async fn heard(socket: &mut ClientSocket) -> bool {
    matches!(timeout(SECOND, socket.next()).await, Ok(Some(_)))
}

#[test]
fn a_frame_on_a_web_socket() {
    check(Way::Frame, || {
        async |vat: TestVat, p: Client| {
            let mut socket = connect(&p, &[]).await.unwrap();
            vat.hold_commits();
            let call = act(&p, async |own| {
                own.put("k", "v")?;
                Ok(own.ctx.web_sockets(None)[0].send("v")?)
            });
            vat.settle().await;
            let heard = heard(&mut socket).await;
            drop(call);
            heard
        }
    });
}

#[test]
fn a_web_socket_that_is_accepted() {
    check(Way::Accept, || {
        async |vat: TestVat, p: Client| {
            vat.hold_commits();
            let call = spawn_local(async move {
                fetch(&p, wants_socket(), async |own, request| {
                    own.put("k", "v")?;
                    Ok(own.ctx.accept_web_socket(&request, &[])?.1)
                })
                .await
            });
            vat.settle().await;
            call.is_finished()
        }
    });
}

#[test]
fn the_answer_to_a_message_on_a_web_socket() {
    check(Way::Heard, || {
        async |vat: TestVat, p: Client| {
            let socket = connect(&p, &[]).await.unwrap();
            vat.hold_commits();
            let said = spawn_local(send_frame(&socket.up, &Frame::Text("x".into())));
            vat.settle().await;
            said.is_finished()
        }
    });
}

#[test]
fn a_text_that_the_vat_answers_by_itself() {
    check(Way::AutoResponse, || {
        async |vat: TestVat, p: Client| {
            let mut socket = connect(&p, &[]).await.unwrap();
            vat.hold_commits();
            let call = act(&p, async |own| {
                own.put("k", "v")?;
                let pair = Some(("ping", "v"));
                own.ctx.set_web_socket_auto_response(pair)?;
                // The object itself sees it at once.
                assert!(own.ctx.web_socket_auto_response().is_some());
                Ok(())
            });
            vat.settle().await;
            drop(send_frame(&socket.up, &Frame::Text("ping".into())));
            let heard = heard(&mut socket).await;
            drop(call);
            heard
        }
    });
}

/// Whether capabilities in the results of a call that is not over may be called before its write is on
/// disk.
fn early_capability_answers(sabotage: Option<Sabotage>) -> bool {
    let noticed = Rc::new(Cell::new(false));
    let told = noticed.clone();
    run_paused(async move {
        let mut vat = support::TestVat::unstarted(|_| {});
        let started = vat.start_serving(move |server| {
            let server = server.class::<Probe>();
            match sabotage {
                Some(sabotage) => server.sabotage(sabotage),
                None => server,
            }
        });
        started.await.unwrap();
        let wire = vat.wire().await;
        support::tell(&wire.probe("q"), &[]).await.unwrap();
        let q_hears = RefCell::new(false);
        vat.hold.hold();
        let script = [Do::Put("k", "v"), Do::Open, Do::Early, Do::Latch("slow")];
        let call = send(&wire.probe("p"), &script);
        // It reaches the object's capability: what it says there waits, that it is there does not.
        let piped = send(&call.pipeline.get_cap(), &[Do::Latch("reached")]);
        vat.controls.reached("slow").await;
        tokio::select! {
            () = vat.controls.reached("reached") => { q_hears.replace(true); }
            () = settle() => {}
        }
        told.set(q_hears.take());
        drop((call, piped));
    });
    noticed.get()
}

#[test]
fn capabilities_in_the_results_of_a_call_that_is_not_over() {
    assert!(!early_capability_answers(None));
    let sabotage = Some(Sabotage::OpenGateFor(Way::Pipeline));
    assert!(early_capability_answers(sabotage));
}

thread_local! {
    static FAILS: Cell<bool> = const { Cell::new(false) };
}

/// Speaks on its sockets while it wakes, and then fails to.
struct Flaky;

impl Program for Flaky {
    async fn activate(ctx: &Context) -> capnp::Result<()> {
        if FAILS.get() {
            ctx.storage().kv().put("tried", "yes")?;
            for socket in ctx.web_sockets(None) {
                socket.send("I am awake")?;
            }
            ctx.set_web_socket_auto_response(None)?;
            return Err(capnp::Error::failed("not today".into()));
        }
        Ok(())
    }
}

#[test]
fn what_a_failed_activate_has_said_changes_nothing_for_heartbeats() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<Flaky>>()).await;
        let p: Client = vat.object("p");
        let mut socket = connect(&p, &[]).await.unwrap();
        act(&p, async |own| {
            let pair = Some(("ping", "pong"));
            Ok(own.ctx.set_web_socket_auto_response(pair)?)
        })
        .await
        .unwrap();
        vat.evict::<Client>("p").await;
        FAILS.set(true);
        assert!(act(&p, async |_| Ok(())).await.is_err());
        FAILS.set(false);
        drop(send_frame(&socket.up, &Frame::Text("ping".into())));
        let heard = timeout(SECOND, socket.next())
            .await
            .expect("an answer")
            .unwrap();
        assert_eq!(heard.into_frame(), Frame::Text("pong".into()));
    });
}
