//! Classes that take one call at a time, and what would wait for itself.

use std::{cell::Cell, rc::Rc, time::Duration};

use tokio::{task::spawn_local, time::timeout};
use vatwerk::Code;
use vatwerk_server::{
    Context, Request, Response,
    testing::{TestVat, run},
};

use crate::{
    puppet_capnp::puppet,
    support::{
        code,
        puppet::{Client, Own, Program, Puppet, act, fetch, get, give},
    },
};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

struct Serial;

impl Program for Serial {
    const SERIAL: bool = true;
}

async fn serial() -> TestVat {
    TestVat::start(|server| server.class::<Puppet<Serial>>()).await
}

/// A client's capability that calls the capability it is given before it answers.
struct CallsBack;

impl puppet::Server for CallsBack {
    async fn act(
        self: Rc<Self>,
        params: puppet::ActParams,
        _: puppet::ActResults,
    ) -> capnp::Result<()> {
        let given = params.get()?.get_given()?;
        act(&given, async |own| Ok(own.put("visited", "yes")?)).await
    }
}

#[test]
fn a_peer_may_call_back_the_capability_that_a_running_call_gives_it() {
    run(async {
        let vat = serial().await;
        let p: Client = vat.object("p");
        for _ in 0..2 {
            let peer: Client = capnp_rpc::new_client(CallsBack);
            let call = give(&p, peer, async |own, peer| {
                // The second time the capability is one that has been handed out before.
                let handle = own.kept.take().unwrap_or_else(|| Box::new(own.handle()));
                let handle: Client = *handle.downcast().expect("it was kept");
                let mut request = peer.act_request();
                request.get().set_given(handle.clone());
                own.kept.replace(Some(Box::new(handle)));
                request.send().promise.await.map(drop)
            });
            timeout(DAY, call).await.expect("it does not wait").unwrap();
        }
        assert_eq!(get(&p, "visited").await.unwrap().unwrap(), "yes");
    });
}

#[test]
fn a_capability_of_a_call_that_is_over_waits_its_turn() {
    run(async {
        let vat = serial().await;
        let p: Client = vat.object("p");
        let handle = crate::support::puppet::obtain(&p, async |own| Ok(own.handle()));
        let handle = handle.await.unwrap();
        let busy = spawn_local(act(&p, async |own| {
            own.ctx.sleep(SECOND).await;
            Ok(own.put("k", "first")?)
        }));
        vat.settle().await;
        let second = act(&handle, async |own| Ok(own.get("k")?));
        assert_eq!(second.await.unwrap().unwrap(), "first");
        busy.await.unwrap().unwrap();
    });
}

#[test]
fn serial_objects_that_wait_for_each_other_are_told_so() {
    run(async {
        let vat = serial().await;
        // Each is called, and then calls the next: all wait.
        for names in [vec!["a", "b"], vec!["c", "d", "e"]] {
            let calls = (0..names.len()).map(|i| {
                let next = names[(i + 1) % names.len()];
                let object: Client = vat.object(names[i]);
                spawn_local(act(&object, async move |own| {
                    own.ctx.sleep(SECOND).await;
                    act(&own.other(next), async |_| Ok(())).await
                }))
            });
            let calls: Vec<_> = calls.collect();
            let mut deadlocks = 0;
            for call in calls {
                let outcome = timeout(60 * SECOND, call).await.expect("it does not wait");
                if let Err(error) = outcome.unwrap() {
                    for name in &names {
                        assert!(error.extra.contains(&format!("`{name}`")), "{error}");
                    }
                    assert_eq!(code::<()>(Err(error)), Code::Deadlock);
                    deadlocks += 1;
                }
            }
            assert!(deadlocks > 0);
        }
    });
}

#[test]
fn a_serial_object_that_is_merely_busy_is_waited_for() {
    run(async {
        let vat = serial().await;
        let a: Client = vat.object("a");
        let b: Client = vat.object("b");
        let slow = spawn_local(act(&b, async |own| {
            own.ctx.sleep(100 * SECOND).await;
            Ok(())
        }));
        let waits = act(&a, async |own| act(&own.other("b"), async |_| Ok(())).await);
        waits.await.unwrap();
        slow.await.unwrap().unwrap();
    });
}

thread_local! {
    static CALLS_BACK: Cell<bool> = const { Cell::new(false) };
}

struct CallsBackFromCreate;

impl Program for CallsBackFromCreate {
    async fn create(ctx: &Context) -> capnp::Result<()> {
        if ctx.name().as_deref() == Some("a") && CALLS_BACK.get() {
            let b: Client = ctx.namespace::<Client>()?.get("b")?;
            act(&b, async |own| act(&own.other("a"), async |_| Ok(())).await).await?;
        }
        Ok(())
    }
}

#[test]
fn a_call_that_create_would_wait_for_is_refused_at_once() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<CallsBackFromCreate>>()).await;
        CALLS_BACK.set(true);
        let a: Client = vat.object("a");
        let began = tokio::time::Instant::now();
        let error = act(&a, async |_| Ok(())).await.unwrap_err();
        assert!(error.extra.contains("`a`"), "{error}");
        assert_eq!(code::<()>(Err(error)), Code::Deadlock);
        // Virtual time: nothing has waited.
        assert_eq!(tokio::time::Instant::now(), began);
        CALLS_BACK.set(false);
        act(&a, async |_| Ok(())).await.unwrap();
    });
}

/// Asks the next in a circle of three before it comes into being.
struct AsksNextFromCreate;

impl Program for AsksNextFromCreate {
    async fn create(ctx: &Context) -> capnp::Result<()> {
        let next = match ctx.name().as_deref() {
            Some("a") => "b",
            Some("b") => "c",
            _ => "a",
        };
        let next: Client = ctx.namespace::<Client>()?.get(next)?;
        act(&next, async |_| Ok(())).await
    }
}

#[test]
fn objects_that_would_wait_for_each_other_to_wake_are_refused_at_once() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<AsksNextFromCreate>>()).await;
        // One that wakes the others; and all of them at the same time, each for a caller of its own.
        for names in [&["a"][..], &["c", "b", "a"]] {
            let began = tokio::time::Instant::now();
            let calls = names.iter().map(|name| {
                let object: Client = vat.object(name);
                spawn_local(act(&object, async |_| Ok(())))
            });
            for call in calls.collect::<Vec<_>>() {
                let error = call.await.unwrap().unwrap_err();
                assert!(error.extra.contains("wait for each other"), "{error}");
                assert_eq!(code::<()>(Err(error)), Code::Deadlock);
            }
            assert_eq!(tokio::time::Instant::now(), began);
        }
    });
}

#[test]
fn requests_that_wait_for_each_other_are_told_so() {
    run(async {
        let vat = serial().await;
        let cross = |from: &str, to: &'static str| {
            let object: Client = vat.object(from);
            spawn_local(async move {
                let answer = async move |own: Rc<Own>, _| {
                    own.ctx.sleep(SECOND).await;
                    let next = own.other(to);
                    fetch(&next, Request::default(), async |_, _| {
                        Ok(Response::default())
                    })
                    .await
                };
                fetch(&object, Request::default(), answer).await
            })
        };
        let crossed = [cross("a", "b"), cross("b", "a")];
        let mut deadlocks = 0;
        for request in crossed {
            let outcome = timeout(60 * SECOND, request)
                .await
                .expect("it does not wait");
            if let Err(error) = outcome.unwrap() {
                assert_eq!(code::<()>(Err(error)), Code::Deadlock);
                deadlocks += 1;
            }
        }
        assert!(deadlocks > 0);
    });
}

#[test]
fn a_peer_that_calls_back_into_a_running_call_which_calls_the_peer_is_told_so() {
    run(async {
        let vat = serial().await;
        let (a, x): (Client, Client) = (vat.object("a"), vat.object("x"));
        let running = spawn_local(act(&a, async |own| {
            let handed = give(&own.other("x"), own.handle(), async |own, handle| {
                own.kept.replace(Some(Box::new(handle)));
                Ok(())
            });
            handed.await?;
            own.ctx.sleep(100 * SECOND).await;
            Ok(())
        }));
        vat.advance(SECOND).await;
        // It belongs to the call that runs, so it is let in, and calls the object that waits for it.
        let call = act(&x, async |own| {
            let handle = own.kept.take().expect("it was given");
            let handle: Client = *handle.downcast().expect("a capability");
            act(&handle, async |own| {
                act(&own.other("x"), async |_| Ok(())).await
            })
            .await
        });
        let outcome = timeout(60 * SECOND, call).await.expect("it does not wait");
        assert_eq!(code(outcome), Code::Deadlock);
        running.await.unwrap().unwrap();
    });
}
