//! How instances end, and what of an object goes on.

use std::time::Duration;

use capnp::capability::FromClientHook;
use tokio::task::spawn_local;
use vatwerk::Code;
use vatwerk_server::{
    Config, Context,
    testing::{State, TestVat, run},
};

use crate::support::{
    code,
    puppet::{Client, Log, Program, Puppet, act, get, put, vat},
};

const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(1);

#[test]
fn an_object_that_nobody_calls_for_ten_seconds_sleeps_and_the_stubs_next_call_wakes_it() {
    run(async {
        let (vat, p) = vat().await;
        let store = act(&p, async |own| {
            own.memory.set(7);
            Ok(own.put("k", "v")?)
        });
        store.await.unwrap();
        for _ in 0..3 {
            vat.advance(10 * SECOND - MOMENT).await;
            assert!(vat.is_awake::<Client>("p"));
            let memory = act(&p, async |own| Ok(own.memory.get()));
            assert_eq!(memory.await.unwrap(), 7);
        }
        vat.advance(10 * SECOND).await;
        assert_eq!(vat.status::<Client>("p").state, State::Asleep);
        let found = act(&p, async |own| Ok((own.memory.get(), own.get("k")?)));
        assert_eq!(found.await.unwrap(), (0, Some("v".into())));
        assert_eq!(vat.status::<Client>("p").resets, 0);
    });
}

#[test]
fn background_work_keeps_its_object_awake_until_it_is_done() {
    run(async {
        let (vat, p) = vat().await;
        let begin = act(&p, async |own| {
            let late = own.clone();
            own.ctx.wait_until(async move {
                late.ctx.sleep(60 * SECOND).await;
                Ok(late.put("k", "late")?)
            })?;
            Ok(())
        });
        begin.await.unwrap();
        assert_eq!(get(&p, "k").await.unwrap(), None);
        vat.advance(59 * SECOND).await;
        assert!(vat.is_awake::<Client>("p"));
        vat.advance(11 * SECOND).await;
        assert!(!vat.is_awake::<Client>("p"));
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "late");
    });
}

#[test]
fn background_work_that_fails_harms_nobody() {
    run(async {
        let (vat, p) = vat().await;
        let begin = act(&p, async |own| {
            own.memory.set(7);
            let work = own.clone();
            own.ctx.wait_until(async move {
                work.put("k", "kept")?;
                Err(capnp::Error::failed("told to".into()))
            })?;
            Ok(())
        });
        begin.await.unwrap();
        vat.settle().await;
        let found = act(&p, async |own| Ok((own.memory.get(), own.get("k")?)));
        assert_eq!(found.await.unwrap(), (7, Some("kept".into())));
        assert_eq!(vat.status::<Client>("p").resets, 0);
    });
}

/// Begins something before it takes calls.
struct Busy;

impl Program for Busy {
    async fn activate(ctx: &Context) -> capnp::Result<()> {
        let late = ctx.clone();
        ctx.wait_until(async move {
            late.sleep(60 * SECOND).await;
            Ok(late.storage().kv().put("k", "late")?)
        })?;
        Ok(())
    }
}

#[test]
fn background_work_may_begin_in_activate() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<Busy>>()).await;
        let p: Client = vat.object("p");
        assert_eq!(get(&p, "k").await.unwrap(), None);
        vat.advance(59 * SECOND).await;
        assert!(vat.is_awake::<Client>("p"));
        vat.advance(SECOND).await;
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "late");
    });
}

#[test]
fn a_vat_that_stops_waits_for_background_work() {
    run(async {
        let (vat, p) = vat().await;
        let begin = act(&p, async |own| {
            let late = own.clone();
            own.ctx.wait_until(async move {
                late.ctx.sleep(5 * SECOND).await;
                Ok(late.put("k", "late")?)
            })?;
            Ok(())
        });
        begin.await.unwrap();
        let began_ms = vat.now_ms();
        vat.restart().await;
        assert!(vat.now_ms() >= began_ms + 5000);
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "late");
    });
}

#[test]
fn a_reset_ends_background_work() {
    run(async {
        let (vat, p) = vat().await;
        let begin = act(&p, async |own| {
            let late = own.clone();
            own.ctx.wait_until(async move {
                late.ctx.sleep(5 * SECOND).await;
                Ok(late.put("k", "late")?)
            })?;
            Ok(())
        });
        begin.await.unwrap();
        let abort = act(&p, async |own| {
            own.ctx.abort("told to");
            Ok(())
        });
        assert_eq!(code(abort.await), Code::ObjectReset);
        vat.advance(6 * SECOND).await;
        assert_eq!(get(&p, "k").await.unwrap(), None);
    });
}

#[test]
fn an_abort_and_a_panic_undo_the_turn_and_reset_the_object_and_the_stub_stays_good() {
    run(async {
        for panics in [false, true] {
            let (vat, p) = vat().await;
            put(&p, "k", "kept").await.unwrap();
            let others = [(); 2].map(|()| {
                let other = act(&p, async |own| {
                    own.ctx.sleep(60 * SECOND).await;
                    Ok(())
                });
                spawn_local(other)
            });
            let ended = act(&p, async move |own| {
                own.put("before", "kept")?;
                own.ctx.sleep(SECOND).await;
                own.put("k", "undone")?;
                if panics {
                    panic!("told to");
                }
                own.ctx.abort("told to");
                Ok(())
            });
            let behind = act(&p, async |own| {
                own.ctx.sleep(60 * SECOND).await;
                Ok(())
            });
            let began_ms = vat.now_ms();
            assert_eq!(code(ended.await), Code::ObjectReset);
            assert_eq!(code(behind.await), Code::ObjectReset);
            for other in others {
                assert_eq!(code(other.await.unwrap()), Code::ObjectReset);
            }
            assert_eq!(get(&p, "k").await.unwrap().unwrap(), "kept");
            assert_eq!(get(&p, "before").await.unwrap().unwrap(), "kept");
            assert_eq!(vat.status::<Client>("p").resets, 1);
            assert_eq!(vat.now_ms(), began_ms + 1000, "nobody waited for more");
        }
    });
}

#[test]
fn sync_returns_when_what_was_written_is_on_disk() {
    run(async {
        let (vat, p) = vat().await;
        put(&p, "k", "old").await.unwrap();
        let log = Log::default();
        vat.hold_commits();
        let (told, noted) = (log.clone(), log.clone());
        let synced = act(&p, async move |own| {
            own.put("k", "new")?;
            told.note("written");
            own.ctx.sync().await?;
            told.note("on disk");
            Ok(())
        });
        vat.settle().await;
        assert_eq!(noted.take(), ["written"]);
        vat.release_commits();
        vat.settle().await;
        assert_eq!(noted.take(), ["on disk"]);
        synced.await.unwrap();
        vat.fail_next_commit();
        let failed = act(&p, async |own| {
            own.put("k", "newer")?;
            Ok(own.ctx.sync().await?)
        });
        assert_eq!(code(failed.await), Code::StorageFailed);
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "new");
    });
}

#[test]
fn what_operators_and_holders_of_stubs_are_told_waits_thirty_seconds_for_the_disk_and_not_longer() {
    run(async {
        let (vat, p) = vat().await;
        put(&p, "k", "v").await.unwrap();
        vat.hold_commits();
        let new: Client = vat.object("new");
        let made = spawn_local(async move { put(&new, "k", "v").await });
        vat.settle().await;
        let mut list = vat.session().alarms_request();
        list.get().set_limit(10);
        let listed = list.send().promise;
        let stub: vatwerk::object_capnp::stub::Client = p.cast_to();
        let saved = stub.persist_request().send().promise;
        let began_ms = vat.now_ms();
        assert_eq!(code(listed.await.map(drop)), Code::OutcomeUnknown);
        assert_eq!(code(saved.await.map(drop)), Code::OutcomeUnknown);
        assert_eq!(vat.now_ms(), began_ms + 30_000);
        vat.release_commits();
        let _ = made.await.unwrap();
    });
}

#[test]
fn nothing_waits_for_unconfirmed_writes_and_one_that_failed_resets_the_object_all_the_same() {
    run(async {
        let (vat, p) = vat().await;
        put(&p, "k", "old").await.unwrap();
        let write = |value: &'static str| {
            act(&p, async move |own| {
                let storage = own.ctx.storage();
                Ok(storage.allow_unconfirmed(|storage| storage.kv().put("k", value))?)
            })
        };
        vat.hold_commits();
        write("unconfirmed").await.unwrap();
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "unconfirmed");
        // With a write that is to be confirmed, the turn is one commit.
        let mixed = act(&p, async |own| {
            let storage = own.ctx.storage();
            storage.allow_unconfirmed(|storage| storage.kv().put("k", "mixed"))?;
            Ok(own.put("other", "confirmed")?)
        });
        let mixed = spawn_local(mixed);
        vat.settle().await;
        assert!(!mixed.is_finished());
        vat.release_commits();
        mixed.await.unwrap().unwrap();

        vat.fail_next_commit();
        write("lost").await.unwrap();
        // A call that has not begun is for the next instance.
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "mixed");
        assert_eq!(vat.status::<Client>("p").resets, 1);

        // And what nobody waited for, a crash may take.
        vat.hold_commits();
        write("lost").await.unwrap();
        vat.crash().await;
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "mixed");
    });
}

#[test]
fn an_object_does_not_fall_asleep_before_what_nobody_waits_for_is_on_disk() {
    run(async {
        let (vat, p) = vat().await;
        put(&p, "k", "old").await.unwrap();
        vat.hold_commits();
        act(&p, async |own| {
            let storage = own.ctx.storage();
            Ok(storage.allow_unconfirmed(|storage| storage.kv().put("k", "new"))?)
        })
        .await
        .unwrap();
        vat.advance(20 * SECOND).await;
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "new");
        assert_eq!(vat.status::<Client>("p").state, State::Awake);
        vat.advance(20 * SECOND).await;
        vat.release_commits();
        vat.settle().await;
        assert_eq!(vat.status::<Client>("p").state, State::Asleep);
    });
}

#[test]
fn an_object_whose_commit_is_stuck_is_reset_after_thirty_seconds() {
    run(async {
        let (vat, p) = vat().await;
        put(&p, "k", "old").await.unwrap();
        vat.hold_commits();
        let stuck = spawn_local({
            let p = p.clone();
            async move { put(&p, "k", "new").await }
        });
        vat.advance(30 * SECOND - MOMENT).await;
        assert!(!stuck.is_finished());
        vat.advance(MOMENT).await;
        assert!(stuck.is_finished());
        // And then it happens.
        assert_eq!(code(stuck.await.unwrap()), Code::OutcomeUnknown);
        vat.release_commits();
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "new");
        assert_eq!(vat.status::<Client>("p").resets, 1);
    });
}

#[test]
fn sync_gives_up_on_a_commit_that_is_stuck() {
    run(async {
        let (vat, p) = vat().await;
        put(&p, "k", "old").await.unwrap();
        vat.hold_commits();
        let log = Log::default();
        let told = log.clone();
        let synced = spawn_local(act(&p, async move |own| {
            own.put("k", "new")?;
            let synced = own.ctx.sync().await;
            told.note("told");
            Ok(synced?)
        }));
        vat.advance(30 * SECOND - MOMENT).await;
        assert!(log.take().is_empty());
        vat.advance(MOMENT).await;
        assert_eq!(log.take(), ["told"]);
        // Who called waits for the same commit, from now on.
        assert_eq!(code(synced.await.unwrap()), Code::OutcomeUnknown);
        vat.release_commits();
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "new");
    });
}

#[test]
fn when_memory_is_short_idle_objects_are_put_to_sleep_and_nobody_notices() {
    run(async {
        let vat = TestVat::start(|server| {
            let mut config = Config::default();
            config.limits.idle_ms = 3_600_000;
            // Nothing would be little enough.
            config.limits.memory_bytes = 1;
            server.class::<Puppet>().config(config)
        })
        .await;
        let names: Vec<_> = (0..40).map(|n| format!("p{n}")).collect();
        for name in &names {
            put(&vat.object(name), "k", "v").await.unwrap();
        }
        vat.settle().await;
        let awake = |name: &&String| vat.is_awake::<Client>(name);
        let awake = names.iter().filter(awake).count();
        assert!(awake < 5, "{awake}");
        for name in &names {
            let found = get(&vat.object(name), "k").await.unwrap();
            assert_eq!(found.as_deref(), Some("v"));
        }
    });
}
