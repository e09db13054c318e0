//! Calls whose callers are gone, and calls that take too long.

use std::{future::pending, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::task::{spawn_local, yield_now};
use vatwerk::Code;
use vatwerk_server::{
    Config,
    testing::{TestVat, run},
};

use crate::support::{
    self, Do, code,
    puppet::{Client, Log, Program, Puppet, act, fetch, get, vat},
    send, tell,
};

const SECOND: Duration = Duration::from_secs(1);

/// A class whose calls go on when their callers are gone.
struct Finishes;

impl Program for Finishes {
    const FINISH_CALLS: bool = true;
}

/// A class whose calls may take a minute.
struct Hasty;

impl Program for Hasty {
    const CALL_LIMIT: Option<Duration> = Some(Duration::from_secs(60));
}

/// A class that takes one call at a time, each for a minute at most.
struct HastySerial;

impl Program for HastySerial {
    const SERIAL: bool = true;
    const CALL_LIMIT: Option<Duration> = Some(Duration::from_secs(60));
}

#[test]
fn a_call_that_waits_ends_with_its_caller_and_the_object_sleeps() {
    run(async {
        let (vat, p) = vat().await;
        let call = act(&p, async |own| {
            own.put("k", "kept")?;
            pending::<()>().await;
            Ok(())
        });
        vat.settle().await;
        assert_eq!(vat.status::<Client>("p").in_flight, 1);
        drop(call);
        vat.settle().await;
        assert_eq!(vat.status::<Client>("p").in_flight, 0);
        vat.advance(11 * SECOND).await;
        assert!(!vat.is_awake::<Client>("p"));
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "kept");
    });
}

#[test]
fn four_thousand_calls_of_a_caller_that_left_keep_no_place_from_others() {
    run(async {
        let (vat, p) = vat().await;
        let wait = || act(&p, async |_| pending::<capnp::Result<()>>().await);
        let calls: Vec<_> = (0..4096).map(|_| wait()).collect();
        vat.settle().await;
        let refused = act(&p, async |_| Ok(())).await;
        assert_eq!(code(refused), Code::Overloaded);
        drop(calls);
        vat.settle().await;
        act(&p, async |_| Ok(())).await.unwrap();
    });
}

#[test]
fn a_call_of_another_object_ends_with_it_and_so_do_the_calls_that_it_made() {
    run(async {
        let (vat, p) = vat().await;
        let call = act(&p, async |own| {
            act(&own.other("q"), async |own| {
                act(&own.other("r"), async |_| {
                    pending::<capnp::Result<()>>().await
                })
                .await
            })
            .await
        });
        vat.settle().await;
        assert_eq!(vat.status::<Client>("r").in_flight, 1);
        drop(call);
        vat.settle().await;
        for name in ["p", "q", "r"] {
            assert_eq!(vat.status::<Client>(name).in_flight, 0, "{name}");
        }
    });
}

#[test]
fn a_caller_that_only_pipelines_is_still_there() {
    run(async {
        let (vat, p) = vat().await;
        act(&p, async |own| {
            let q = own.other("q");
            let log = Log::default();
            let within = log.clone();
            let opened = crate::support::puppet::sent(&q, async move |own| {
                own.ctx.sleep(SECOND).await;
                within.note("opened");
                Ok(own.handle())
            });
            // The promise of the results is dropped; the pipeline is not.
            let pipeline = opened.pipeline;
            drop(opened.promise);
            act(&pipeline.get_cap(), async |_| Ok(())).await?;
            assert_eq!(log.take(), ["opened"]);
            Ok(())
        })
        .await
        .unwrap();
        drop(vat);
    });
}

#[test]
fn what_must_go_on_goes_on() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<Finishes>>()).await;
        let p: Client = vat.object("p");
        let log = Log::default();
        let within = log.clone();
        let call = act(&p, async move |own| {
            own.ctx.caller_gone().await;
            within.note("gone");
            own.ctx.sleep(SECOND).await;
            own.put("k", "finished")?;
            Ok(())
        });
        vat.advance(SECOND).await;
        assert!(log.take().is_empty());
        drop(call);
        vat.advance(2 * SECOND).await;
        assert_eq!(log.take(), ["gone"]);
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "finished");
    });
}

#[test]
fn background_work_goes_on_without_the_caller_that_caused_it() {
    run(async {
        let (vat, p) = vat().await;
        let call = act(&p, async |own| {
            let later = own.clone();
            own.ctx.wait_until(async move {
                later.ctx.sleep(SECOND).await;
                Ok(later.put("k", "done")?)
            })?;
            pending::<capnp::Result<()>>().await
        });
        vat.settle().await;
        drop(call);
        vat.advance(2 * SECOND).await;
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "done");
    });
}

#[test]
fn background_work_is_refused_when_too_much_is_in_flight() {
    run(async {
        let vat = TestVat::start(|server| {
            let mut config = Config::default();
            config.limits.calls_per_object = 10;
            server.class::<Puppet>().config(config)
        })
        .await;
        let p: Client = vat.object("p");
        let begun = act(&p, async |own| {
            let begin = || own.ctx.wait_until(pending());
            let begun = (0..100).take_while(|_| begin().is_ok()).count();
            assert_eq!(begin().unwrap_err().code(), Code::Overloaded);
            Ok(begun)
        });
        assert_eq!(begun.await.unwrap(), 9);
    });
}

#[test]
fn a_section_is_not_left_half_done_by_a_caller_that_goes() {
    run(async {
        let (vat, p) = vat().await;
        let call = act(&p, async |own| {
            own.ctx
                .block_concurrency_while(async {
                    own.ctx.sleep(SECOND).await;
                    own.put("k", "whole")?;
                    Ok(())
                })
                .await?;
            own.ctx.sleep(SECOND).await;
            own.put("k", "and then")?;
            Ok(())
        });
        vat.settle().await;
        drop(call);
        vat.advance(10 * SECOND).await;
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "whole");
        assert_eq!(vat.status::<Client>("p").resets, 0);
    });
}

#[test]
fn a_request_ends_with_its_caller_too() {
    run(async {
        let (vat, p) = vat().await;
        let request = vatwerk_server::Request::new(vatwerk_server::Body::empty());
        let on = p.clone();
        let asked =
            spawn_local(async move { fetch(&on, request, async |_, _| Ok(pending().await)).await });
        vat.settle().await;
        assert_eq!(vat.status::<Client>("p").in_flight, 1);
        asked.abort();
        vat.settle().await;
        assert_eq!(vat.status::<Client>("p").in_flight, 0);
    });
}

#[test]
fn a_client_that_hangs_up_leaves_nothing_in_flight() {
    support::run(async {
        let vat = support::TestVat::start().await;
        let (wire, other) = (vat.wire().await, vat.wire().await);
        let probe = wire.probe("p");
        let _calls: Vec<_> = (0..100)
            .map(|_| send(&probe, &[Do::Put("k", "v"), Do::Latch("never")]))
            .collect();
        vat.controls.reached("never").await;
        wire.hang_up().await;
        // As many others as there may be have room.
        let others = other.probe("p");
        let calls: Vec<_> = (0..4096).map(|_| send(&others, &[])).collect();
        for call in calls {
            call.promise.await.unwrap();
        }
        tell(&other.probe("p"), &[Do::Get("k")]).await.unwrap();
    });
}

#[test]
fn a_call_that_takes_too_long_is_dropped_where_it_waits() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<Hasty>>()).await;
        let p: Client = vat.object("p");
        let call = spawn_local(act(&p, async |own| {
            own.put("k", "kept")?;
            own.ctx.sleep(61 * SECOND).await;
            Ok(own.put("k", "too late")?)
        }));
        vat.advance(59 * SECOND).await;
        assert!(!call.is_finished());
        vat.advance(SECOND).await;
        assert_eq!(code(call.await.unwrap()), Code::LimitExceeded);
        vat.advance(10 * SECOND).await;
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "kept");
    });
}

#[test]
fn a_vat_has_a_limit_for_calls_of_classes_without_one() {
    run(async {
        let vat = TestVat::start(|server| {
            let mut config = Config::default();
            config.limits.call_ms = 1000;
            server.class::<Puppet>().config(config)
        })
        .await;
        let p: Client = vat.object("p");
        let call = act(&p, async |_| pending::<capnp::Result<()>>().await);
        assert_eq!(code(call.await), Code::LimitExceeded);
    });
}

#[test]
fn a_serial_object_is_free_again_when_a_call_has_taken_too_long() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<HastySerial>>()).await;
        let p: Client = vat.object("p");
        let endless = spawn_local(act(&p, async |_| pending::<capnp::Result<()>>().await));
        let next = spawn_local(act(&p, async |own| Ok(own.put("k", "v")?)));
        vat.advance(61 * SECOND).await;
        assert_eq!(code(endless.await.unwrap()), Code::LimitExceeded);
        next.await.unwrap().unwrap();
    });
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped, as it is told");
    }
}

#[test]
fn what_a_call_that_is_given_up_holds_may_panic_and_harms_nobody() {
    run(async {
        let (vat, p) = vat().await;
        let wait = || {
            act(&p, async |_| {
                let _bomb = Bomb;
                pending::<capnp::Result<()>>().await
            })
        };
        let given_up = [wait(), wait()];
        let other = spawn_local(act(&p, async |own| {
            own.ctx.sleep(SECOND).await;
            Ok(own.memory.get())
        }));
        let remember = act(&p, async |own| {
            own.memory.set(7);
            Ok(())
        });
        remember.await.unwrap();
        drop(given_up);
        vat.settle().await;
        assert_eq!(vat.status::<Client>("p").in_flight, 1);
        assert_eq!(other.await.unwrap().unwrap(), 7);
    });
}

#[test]
fn calls_that_run_get_their_turns_while_others_keep_coming() {
    run(async {
        let (_vat, p) = vat().await;
        let slow = spawn_local(act(&p, async |_| {
            for _ in 0..5 {
                yield_now().await;
            }
            Ok(())
        }));
        let call = || act(&p, async |_| Ok(()));
        let mut calls: FuturesUnordered<_> = (0..1000).map(|_| call()).collect();
        let mut answered = 0;
        while !slow.is_finished() {
            calls.next().await.unwrap().unwrap();
            calls.push(call());
            answered += 1;
            assert!(answered < 20_000, "it gets no turn");
        }
        slow.await.unwrap().unwrap();
    });
}
