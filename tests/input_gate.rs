//! What an object lets in, and when: sections, and classes that take one call at a time.

use std::{cell::Cell, rc::Rc, time::Duration};

use futures::future::{LocalBoxFuture, join_all};
use tokio::task::spawn_local;
use vatwerk::Code;
use vatwerk_server::{
    Context,
    testing::{TestVat, run},
};

use crate::support::{
    code, on_this_thread,
    puppet::{Client, Log, Program, Puppet, act, give, obtain, vat},
};

const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(1);

fn told_to<T>() -> capnp::Result<T> {
    Err(capnp::Error::failed("told to".into()))
}

/// A call that notes that it has begun.
fn note(on: &Client, log: &Log, what: &'static str) -> LocalBoxFuture<'static, capnp::Result<()>> {
    let log = log.clone();
    act(on, async move |_| {
        log.note(what);
        Ok(())
    })
}

#[test]
fn while_a_section_is_open_calls_wait_in_order_and_those_that_run_do_not_go_on() {
    run(async {
        let (vat, p) = vat().await;
        let log = Log::default();
        let within = log.clone();
        let running = act(&p, async move |own| {
            own.ctx.sleep(SECOND).await;
            within.note("running");
            Ok(())
        });
        let running = spawn_local(running);
        let within = log.clone();
        let section = act(&p, async move |own| {
            own.ctx
                .block_concurrency_while(async {
                    within.note("begun");
                    own.ctx.sleep(5 * SECOND).await;
                    within.note("done");
                    Ok(7)
                })
                .await
        });
        let others = ["a", "b", "c"].map(|other| note(&p, &log, other));
        vat.advance(5 * SECOND - MOMENT).await;
        assert_eq!(log.take(), ["begun"]);
        assert_eq!(section.await.unwrap(), 7);
        running.await.unwrap().unwrap();
        join_all(others).await;
        let mut happened = log.take();
        assert_eq!(happened.remove(0), "done");
        happened.retain(|what| *what != "running");
        assert_eq!(happened, ["a", "b", "c"]);
    });
}

/// Sections in one another, and in the innermost what `then` is.
fn nested(
    ctx: Context,
    depth: usize,
    then: LocalBoxFuture<'static, capnp::Result<Code>>,
) -> LocalBoxFuture<'static, capnp::Result<Code>> {
    match depth {
        0 => then,
        _ => Box::pin(async move {
            let inner = nested(ctx.clone(), depth - 1, then);
            ctx.block_concurrency_while(inner).await
        }),
    }
}

#[test]
fn sections_are_nested_up_to_64_deep_and_one_more_is_refused_and_harms_nothing() {
    run(async {
        let (vat, p) = vat().await;
        let refused = act(&p, async |own| {
            own.memory.set(7);
            let ctx = own.ctx.clone();
            let one_more = async move {
                let refused = ctx.block_concurrency_while(async { Ok(()) }).await;
                Ok(code(refused))
            };
            nested(own.ctx.clone(), 64, Box::pin(one_more)).await
        });
        assert_eq!(refused.await.unwrap(), Code::LimitExceeded);
        let memory = act(&p, async |own| Ok(own.memory.get()));
        assert_eq!(memory.await.unwrap(), 7);
        assert_eq!(vat.status::<Client>("p").resets, 0);
    });
}

#[test]
fn a_section_that_fails_resets_the_object_and_its_stub_stays_good() {
    run(async {
        let (vat, p) = vat().await;
        let log = Log::default();
        act(&p, async |own| Ok(own.put("k", "old")?)).await.unwrap();
        let friend: Client = vat.object("q");
        for pauses in [false, true] {
            let within = log.clone();
            // Made by an object, they are there when they are made.
            let calls = act(&friend, async move |own| {
                let p = own.other("p");
                let running = act(&p, async |own| {
                    own.ctx.sleep(60 * SECOND).await;
                    Ok(())
                });
                let section = act(&p, async move |own| {
                    own.put("turn", "of the call")?;
                    own.ctx
                        .block_concurrency_while(async {
                            if pauses {
                                own.ctx.sleep(SECOND).await;
                            }
                            own.put("k", "undone")?;
                            told_to::<()>()
                        })
                        .await
                });
                let queued = note(&p, &within, "the next instance took it");
                let error = section.await.unwrap_err();
                assert!(!error.extra.contains("told to"), "{error}");
                assert_eq!(code::<()>(Err(error)), Code::ObjectReset);
                queued.await.unwrap();
                assert_eq!(within.take(), ["the next instance took it"]);
                assert_eq!(code(running.await), Code::ObjectReset);
                Ok(())
            });
            calls.await.unwrap();
            let found = act(&p, async |own| Ok((own.get("k")?, own.get("turn")?)));
            let (k, turn) = found.await.unwrap();
            assert_eq!(k.unwrap(), "old");
            assert_eq!(turn.is_some(), pauses, "turns before the last are kept");
        }
        assert!(log.take().is_empty());
        assert_eq!(vat.status::<Client>("p").resets, 2);
    });
}

#[test]
fn a_section_that_takes_more_than_thirty_seconds_resets_the_object() {
    run(async {
        let (vat, p) = vat().await;
        let log = Log::default();
        let endless = act(&p, async |own| {
            own.ctx
                .block_concurrency_while(std::future::pending::<capnp::Result<()>>())
                .await
        });
        let endless = spawn_local(endless);
        let queued = spawn_local(note(&p, &log, "the next instance took it"));
        vat.advance(30 * SECOND - MOMENT).await;
        assert!(!endless.is_finished() && !queued.is_finished());
        vat.advance(MOMENT).await;
        assert!(endless.is_finished() && queued.is_finished());
        assert_eq!(code(endless.await.unwrap()), Code::ObjectReset);
        queued.await.unwrap().unwrap();
        assert_eq!(log.take(), ["the next instance took it"]);
    });
}

#[test]
fn a_section_that_is_given_up_is_over() {
    run(async {
        let (vat, p) = vat().await;
        let log = Log::default();
        let gives_up = act(&p, async |own| {
            let endless = std::future::pending::<capnp::Result<()>>();
            let section = own.ctx.block_concurrency_while(endless);
            Ok(tokio::time::timeout(SECOND, section).await.is_err())
        });
        let queued = note(&p, &log, "it was let in");
        assert!(gives_up.await.unwrap());
        queued.await.unwrap();
        assert_eq!(vat.status::<Client>("p").resets, 0);
    });
}

/// Reads something slowly before it takes calls.
struct Slow;

impl Program for Slow {
    async fn activate(ctx: &Context) -> capnp::Result<()> {
        let fails = ctx.binding::<Rc<Cell<bool>>>().expect("the test binds it");
        ctx.block_concurrency_while(async {
            ctx.sleep(SECOND).await;
            match fails.get() {
                true => told_to(),
                false => Ok(ctx.storage().kv().put("woken", "yes")?),
            }
        })
        .await
    }
}

#[test]
fn a_section_may_be_opened_in_activate() {
    run(async {
        let fails = Rc::new(Cell::new(true));
        let bound = on_this_thread(fails.clone());
        let vat = TestVat::start(move |server| {
            let server = server.class::<Puppet<Slow>>();
            server.binding_with(bound.clone())
        })
        .await;
        let p: Client = vat.object("p");
        let log = Log::default();
        let calls = ["a", "b"].map(|call| note(&p, &log, call));
        for call in calls {
            let error = call.await.unwrap_err();
            assert!(!error.extra.contains("told to"), "{error}");
            assert_eq!(code::<()>(Err(error)), Code::ObjectReset);
        }
        fails.set(false);
        let calls = ["a", "b"].map(|call| note(&p, &log, call));
        for call in calls {
            call.await.unwrap();
        }
        assert_eq!(log.take(), ["a", "b"]);
        let woken = act(&p, async |own| Ok(own.get("woken")?));
        assert_eq!(woken.await.unwrap().unwrap(), "yes");
    });
}

#[test]
fn calls_on_what_a_section_hands_out_are_let_in_and_no_others() {
    run(async {
        let (vat, p) = vat().await;
        let log = Log::default();
        let earlier = obtain(&p, async |own| Ok(own.handle())).await.unwrap();
        let within = log.clone();
        let section = act(&p, async move |own| {
            own.ctx
                .block_concurrency_while(async {
                    within.note("begun");
                    let friend = own.other("q");
                    give(&friend, own.handle(), async move |own, handle| {
                        own.ctx.sleep(SECOND).await;
                        note(&handle, &within, "what it handed out").await
                    })
                    .await
                })
                .await
        });
        let others = [
            note(&p, &log, "a call"),
            note(&earlier, &log, "what was handed out before"),
        ];
        section.await.unwrap();
        for other in others {
            other.await.unwrap();
        }
        let expected = [
            "begun",
            "what it handed out",
            "a call",
            "what was handed out before",
        ];
        assert_eq!(log.take(), expected);
        assert_eq!(vat.status::<Client>("p").resets, 0);
    });
}

/// Takes one call at a time.
struct Serial;

impl Program for Serial {
    const SERIAL: bool = true;
}

/// A call that takes a second, and notes when it begins and ends.
fn slowly(
    on: &Client,
    log: &Log,
    begins: &'static str,
    ends: &'static str,
) -> LocalBoxFuture<'static, capnp::Result<()>> {
    let log = log.clone();
    act(on, async move |own| {
        log.note(begins);
        own.ctx.sleep(SECOND).await;
        log.note(ends);
        Ok(())
    })
}

#[test]
fn a_serial_class_takes_one_call_at_a_time_and_others_interleave() {
    run(async {
        let serial = ["a", "of a", "b", "of b", "c", "of c"];
        let interleaved = ["a", "b", "c", "of a", "of b", "of c"];
        for (is_serial, expected) in [(true, serial), (false, interleaved)] {
            let vat = TestVat::start(move |server| match is_serial {
                true => server.class::<Puppet<Serial>>(),
                false => server.class::<Puppet>(),
            })
            .await;
            let (p, log) = (vat.object("p"), Log::default());
            let calls = [("a", "of a"), ("b", "of b"), ("c", "of c")];
            let calls = calls.map(|(begins, ends)| slowly(&p, &log, begins, ends));
            for outcome in join_all(calls).await {
                outcome.unwrap();
            }
            assert_eq!(log.take(), expected);
        }
    });
}

#[test]
fn a_call_that_comes_back_to_a_serial_object_is_let_in() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<Serial>>()).await;
        let (a, log) = (vat.object("a"), Log::default());
        let within = log.clone();
        let round = act(&a, async move |own| {
            within.note("a");
            let (b, again) = (own.other("b"), within.clone());
            act(&b, async move |own| {
                again.note("b");
                note(&own.other("a"), &again, "a again").await
            })
            .await?;
            within.note("a is done");
            Ok(())
        });
        let other = note(&a, &log, "another");
        round.await.unwrap();
        other.await.unwrap();
        assert_eq!(log.take(), ["a", "b", "a again", "a is done", "another"]);
    });
}
