//! What the end of an instance means for calls: those that have begun, and those that have not.

use std::time::Duration;

use tokio::task::spawn_local;
use vatwerk::{Code, Delivery};
use vatwerk_server::{
    Context,
    object::testing::Sabotage,
    testing::{TestVat, run},
};

use crate::support::{
    code,
    puppet::{Client, Log, Program, Puppet, act, obtain, put, vat},
};

const SECOND: Duration = Duration::from_secs(1);

/// The code of a call that failed, and whether it ran.
fn failed<T>(outcome: capnp::Result<T>) -> (Code, Option<Delivery>) {
    let outcome = outcome.map(drop);
    let delivery = match &outcome {
        Ok(()) => None,
        Err(error) => Delivery::split(&error.extra).1,
    };
    (code(outcome), delivery)
}

#[test]
fn a_reset_ends_calls_that_run_and_leaves_those_that_wait_to_the_next_instance() {
    run(async {
        let (vat, p) = vat().await;
        let running = spawn_local(act(&p, async |own| {
            own.ctx.sleep(60 * SECOND).await;
            Ok(())
        }));
        vat.settle().await;
        // The end waits for the disk.
        vat.hold_commits();
        let written = spawn_local(act(&p, async |own| Ok(own.put("k", "v")?)));
        vat.settle().await;
        let panics = spawn_local(act(&p, async |_| -> capnp::Result<()> {
            panic!("told to")
        }));
        vat.settle().await;
        let queued: Vec<_> = (0..3)
            .map(|_| spawn_local(act(&p, async |own| Ok((own.memory.get(), own.get("k")?)))))
            .collect();
        vat.settle().await;
        vat.release_commits();
        written.await.unwrap().unwrap();
        for call in [running, panics] {
            let (code, delivery) = failed(call.await.unwrap());
            assert_eq!(code, Code::ObjectReset);
            assert!(delivery.is_some_and(|it| it != Delivery::NotDelivered));
        }
        for call in queued {
            assert_eq!(call.await.unwrap().unwrap(), (0, Some("v".into())));
        }
        assert_eq!(vat.status::<Client>("p").resets, 1);
    });
}

#[test]
fn calls_that_wait_when_their_object_is_deleted_make_it_anew() {
    run(async {
        let (vat, p) = vat().await;
        put(&p, "k", "old").await.unwrap();
        let section = spawn_local(act(&p, async |own| {
            own.ctx
                .block_concurrency_while(async {
                    own.ctx.sleep(10 * SECOND).await;
                    Ok(())
                })
                .await
        }));
        vat.settle().await;
        let queued = spawn_local(act(&p, async |own| Ok(own.get("k")?)));
        vat.settle().await;
        assert!(vat.delete::<Client>("p").await.unwrap());
        assert_eq!(failed(section.await.unwrap()).0, Code::ObjectReset);
        assert_eq!(queued.await.unwrap().unwrap(), None);
    });
}

#[test]
fn a_capability_of_an_instance_that_is_gone_says_that_the_call_has_not_run() {
    run(async {
        let (vat, p) = vat().await;
        let handle = obtain(&p, async |own| Ok(own.handle())).await.unwrap();
        let panics = act(&p, async |_| -> capnp::Result<()> { panic!("told to") });
        assert_eq!(
            failed(panics.await),
            (Code::ObjectReset, Some(Delivery::Unknown))
        );
        let gone = act(&handle, async |_| Ok(())).await;
        assert_eq!(
            failed(gone),
            (Code::ObjectReset, Some(Delivery::NotDelivered))
        );
        drop(vat);
    });
}

#[test]
fn a_call_on_a_capability_that_waits_when_its_instance_ends_has_not_run() {
    run(async {
        let (vat, p) = vat().await;
        let handle = obtain(&p, async |own| Ok(own.handle())).await.unwrap();
        let log = Log::default();
        let section = spawn_local(act(&p, async |own| {
            own.ctx
                .block_concurrency_while(async {
                    own.ctx.sleep(SECOND).await;
                    Err::<(), _>(capnp::Error::failed("told to".into()))
                })
                .await
        }));
        vat.settle().await;
        let within = log.clone();
        let waits = spawn_local(act(&handle, async move |_| {
            within.note("it ran");
            Ok(())
        }));
        vat.advance(2 * SECOND).await;
        assert_eq!(failed(section.await.unwrap()).0, Code::ObjectReset);
        let waits = failed(waits.await.unwrap());
        assert_eq!(waits, (Code::ObjectReset, Some(Delivery::NotDelivered)));
        assert!(log.take().is_empty());
    });
}

#[test]
fn an_error_that_a_method_passes_on_speaks_of_the_call_that_failed() {
    run(async {
        let (vat, p) = vat().await;
        let handle = obtain(&p, async |own| {
            let q = own.other("q");
            obtain(&q, async |own| Ok(own.handle())).await
        });
        let handle = handle.await.unwrap();
        let q: Client = vat.object("q");
        act(&q, async |own| {
            own.ctx.abort("told to");
            Ok(())
        })
        .await
        .unwrap_err();
        let direct = failed(act(&handle, async |_| Ok(())).await);
        assert_eq!(direct, (Code::ObjectReset, Some(Delivery::NotDelivered)));
        // The object's own call has not run; the call on the object has.
        let given = crate::support::puppet::give(&p, handle, async |_, handle| {
            act(&handle, async |_| Ok(())).await
        });
        assert_eq!(
            failed(given.await),
            (Code::ObjectReset, Some(Delivery::Delivered))
        );
    });
}

/// Writes when it is dropped.
struct LastWord(Context);

impl Drop for LastWord {
    fn drop(&mut self) {
        let _ = self.0.storage().kv().put("last", "word");
    }
}

#[test]
fn a_call_that_comes_while_a_destructor_writes_is_for_the_next_instance() {
    run(async {
        let (vat, p) = vat().await;
        act(&p, async |own| {
            own.kept.replace(Some(Box::new(LastWord(own.ctx.clone()))));
            Ok(())
        })
        .await
        .unwrap();
        vat.hold_commits();
        tokio::time::sleep(11 * SECOND).await;
        let call = spawn_local(act(&p, async |own| Ok(own.get("last")?)));
        vat.settle().await;
        vat.release_commits();
        assert_eq!(call.await.unwrap().unwrap().unwrap(), "word");
    });
}

thread_local! {
    static FAILS: std::cell::Cell<bool> = const { std::cell::Cell::new(true) };
}

/// Fails to be made, after it has written.
struct Unmade;

impl Program for Unmade {
    async fn create(ctx: &Context) -> capnp::Result<()> {
        ctx.storage().kv().put("k", "half")?;
        ctx.sync().await?;
        if FAILS.get() {
            return Err(capnp::Error::failed("told to".into()));
        }
        Ok(())
    }
}

#[test]
fn a_fault_of_the_vat_itself_leaves_no_object_dead_and_is_counted() {
    run(async {
        let vat = TestVat::start(|server| {
            let server = server.class::<Puppet<Unmade>>();
            server.sabotage(Sabotage::PanicInDiscard)
        })
        .await;
        let p: Client = vat.object("p");
        let failed_to_be_made = act(&p, async |_| Ok(())).await;
        assert_eq!(failed(failed_to_be_made).1, Some(Delivery::NotDelivered));
        vat.settle().await;
        assert!(vat.metrics().contains("vatwerk_faults_total 1"));
        FAILS.set(false);
        let found = act(&p, async |own| Ok(own.get("k")?));
        assert_eq!(found.await.unwrap().unwrap(), "half");
    });
}

/// Takes its time to wake.
struct Sleepy;

impl Program for Sleepy {
    async fn activate(ctx: &Context) -> capnp::Result<()> {
        ctx.sleep(20 * SECOND).await;
        Ok(())
    }
}

#[test]
fn a_deletion_does_not_wait_for_an_object_to_wake() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<Sleepy>>()).await;
        let p: Client = vat.object("p");
        let call = spawn_local(act(&p, async |own| Ok(own.get("k")?)));
        vat.settle().await;
        let began = tokio::time::Instant::now();
        vat.delete::<Client>("p").await.unwrap();
        let took = tokio::time::Instant::now() - began;
        assert!(took < 20 * SECOND, "{took:?}");
        // The call is for the object that it makes.
        assert_eq!(call.await.unwrap().unwrap(), None);
    });
}

#[test]
fn an_object_that_wakes_for_too_long_does_not_hold_up_a_stop() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<Sleepy>>()).await;
        let p: Client = vat.object("p");
        let call = spawn_local(act(&p, async |_| Ok(())));
        vat.settle().await;
        let began = tokio::time::Instant::now();
        vat.stop().await;
        // The time for draining, once.
        let took = tokio::time::Instant::now() - began;
        assert!(took < 15 * SECOND, "{took:?}");
        assert!(call.await.unwrap().is_err());
    });
}
