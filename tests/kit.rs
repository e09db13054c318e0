//! The test kit for users of `vatwerk-server`: what a test does to a vat, and what it sees of it.

use std::{cell::Cell, rc::Rc, time::Duration};

use tokio::task::spawn_local;
use vatwerk::Code;
use vatwerk_server::{
    Alarm, AlarmInfo, Config,
    testing::{State, Survival, TestVat, run},
};

use crate::{
    puppet_capnp::puppet,
    support::{
        code, on_this_thread,
        puppet::{Client, Own, Program, Puppet, act, get, give, obtain, put, vat},
    },
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn stubs_outlive_crashes_and_restarts_and_what_objects_handed_out_does_not() {
    run(async {
        let (vat, p) = vat().await;
        put(&p, "k", "v").await.unwrap();
        let id = act(&p, async |own| Ok(own.ctx.id())).await.unwrap();
        let by_id: Client = vat.object_by_id(id);
        for crashes in [true, false] {
            let handle = obtain(&p, async |own| Ok(own.handle())).await.unwrap();
            act(&handle, async |_| Ok(())).await.unwrap();
            let expected = match crashes {
                true => {
                    vat.crash().await;
                    Code::Disconnected
                }
                false => {
                    vat.restart().await;
                    Code::ShuttingDown
                }
            };
            assert_eq!(code(act(&handle, async |_| Ok(())).await), expected);
            assert_eq!(get(&p, "k").await.unwrap().unwrap(), "v");
            assert_eq!(get(&by_id, "k").await.unwrap().unwrap(), "v");
        }
    });
}

#[test]
fn a_test_passes_stubs_and_capabilities_of_its_own_to_objects() {
    run(async {
        let (vat, p) = vat().await;
        let ear = Ear::default();
        for _ in 0..2 {
            // Nobody has called it yet.
            let q: Client = vat.object("q");
            let write = give(&p, q.clone(), async |_, q| put(&q, "k", "of p").await);
            write.await.unwrap();
            assert_eq!(get(&q, "k").await.unwrap().unwrap(), "of p");
            let mine = capnp_rpc::new_client(ear.clone());
            let tell = give(&p, mine, async |_, mine| {
                mine.act_request().send().promise.await.map(drop)
            });
            tell.await.unwrap();
            vat.crash().await;
        }
        assert_eq!(ear.0.get(), 2);
    });
}

/// Counts how often it is called.
#[derive(Clone, Default)]
struct Ear(Rc<Cell<u32>>);

impl puppet::Server for Ear {
    async fn act(self: Rc<Self>, _: puppet::ActParams, _: puppet::ActResults) -> capnp::Result<()> {
        self.0.set(self.0.get() + 1);
        Ok(())
    }
}

#[test]
fn a_crash_takes_calls_in_flight_and_what_a_class_has_begun() {
    run(async {
        let (vat, p) = vat().await;
        let ticks = Rc::new(Cell::new(0));
        let counted = ticks.clone();
        let running = act(&p, async move |own| {
            let ctx = own.ctx.clone();
            spawn_local(async move {
                loop {
                    ctx.sleep(SECOND).await;
                    counted.set(counted.get() + 1);
                }
            });
            own.ctx.sleep(60 * SECOND).await;
            Ok(())
        });
        let running = spawn_local(running);
        vat.advance(3 * SECOND).await;
        assert_eq!(ticks.get(), 3);
        vat.crash().await;
        vat.advance(60 * SECOND).await;
        assert_eq!(ticks.get(), 3);
        assert_eq!(code(running.await.unwrap()), Code::Disconnected);
        assert_eq!(get(&p, "k").await.unwrap(), None);
    });
}

#[test]
fn what_is_acknowledged_is_there_after_a_loss_of_power_and_what_is_held_back_is_not() {
    run(async {
        let seeds = (0..10).map(Survival::Seeded);
        for survival in [Survival::Nothing, Survival::Everything]
            .into_iter()
            .chain(seeds)
        {
            let (vat, p) = vat().await;
            put(&p, "k", "acknowledged").await.unwrap();
            vat.hold_commits();
            let held = spawn_local({
                let p = p.clone();
                async move { put(&p, "k", "held back").await }
            });
            vat.settle().await;
            assert!(!held.is_finished());
            vat.lose_power(survival).await;
            assert_eq!(code(held.await.unwrap()), Code::Disconnected);
            assert_eq!(get(&p, "k").await.unwrap().unwrap(), "acknowledged");
            put(&p, "k", "held back no more").await.unwrap();
        }
    });
}

#[test]
fn one_commit_fails_and_the_next_does_not() {
    run(async {
        let (vat, p) = vat().await;
        let q: Client = vat.object("q");
        put(&p, "k", "old").await.unwrap();
        // What is noted of objects now and then is no commit of theirs.
        vat.advance(5 * SECOND).await;
        vat.fail_next_commit();
        vat.advance(5 * SECOND).await;
        assert_eq!(code(put(&p, "k", "new").await), Code::StorageFailed);
        assert_eq!(vat.status::<Client>("p").resets, 1);
        put(&q, "k", "new").await.unwrap();
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "old");
        put(&p, "k", "newer").await.unwrap();
        vat.crash().await;
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "newer");
        assert_eq!(get(&q, "k").await.unwrap().unwrap(), "new");
    });
}

/// Notes its alarms, each of which takes three seconds, with the test.
struct Ringing;

type Rung = Rc<std::cell::RefCell<Vec<(String, i64)>>>;

impl Program for Ringing {
    async fn alarm(own: Rc<Own>, _: AlarmInfo) -> capnp::Result<()> {
        let rung = own.ctx.binding::<Rung>().expect("the test binds it");
        let name = own.ctx.name().expect("it has one").to_string();
        rung.borrow_mut().push((name, own.ctx.now_ms()));
        own.ctx.sleep(3 * SECOND).await;
        Ok(own.put("k", "rung")?)
    }
}

async fn ringing() -> (TestVat, Rung) {
    let rung = Rung::default();
    let bound = on_this_thread(rung.clone());
    let vat = TestVat::start(move |server| {
        let server = server.class::<Puppet<Ringing>>();
        server.binding_with(bound.clone())
    })
    .await;
    (vat, rung)
}

#[test]
fn alarms_that_are_due_on_the_way_ring_in_order_and_at_their_times() {
    run(async {
        let (vat, rung) = ringing().await;
        let began_ms = vat.now_ms();
        let [second, hour] = [1000, 60 * 60 * 1000];
        let due = [("a", hour), ("b", second), ("c", 2 * hour), ("d", hour + 1)];
        for (name, after_ms) in due {
            let set = act(&vat.object(name), async move |own| {
                Ok(own.ctx.alarms()?.set(began_ms + after_ms)?)
            });
            set.await.unwrap();
            let next = vat.next_alarm::<Client>(name);
            assert_eq!(next, Some(began_ms + after_ms));
        }
        vat.advance(Duration::from_hours(2) - Duration::from_millis(1))
            .await;
        assert_eq!(rung.borrow().len(), 3);
        assert_eq!(vat.status::<Client>("a").state, State::Asleep);
        vat.advance(Duration::from_millis(1)).await;
        assert_eq!(vat.now_ms(), began_ms + 2 * hour);
        let expected = [("b", second), ("a", hour), ("d", hour + 1), ("c", 2 * hour)];
        let expected = expected.map(|(name, after_ms)| (name.to_owned(), began_ms + after_ms));
        assert_eq!(*rung.borrow(), expected);
        assert_eq!(
            get(&vat.object("c"), "k").await.unwrap(),
            None,
            "it still runs"
        );
    });
}

#[test]
fn one_alarm_at_a_time_can_be_run_to_its_end() {
    run(async {
        let (vat, rung) = ringing().await;
        assert!(!vat.run_alarms().await);
        let p: Client = vat.object("p");
        let set = act(&p, async |own| {
            let (alarms, now_ms) = (own.ctx.alarms()?, own.ctx.now_ms());
            alarms.set_named("later", &Alarm::at(now_ms + 5000))?;
            Ok(alarms.set(now_ms + 1000)?)
        });
        set.await.unwrap();
        for already in 0..2 {
            let next_ms = vat.next_alarm::<Client>("p");
            assert!(vat.run_alarms().await);
            assert_eq!(rung.borrow()[already].1, next_ms.unwrap());
            assert_eq!(rung.borrow().len(), already + 1);
            let done = act(&p, async |own| {
                let rung = own.get("k")?;
                own.ctx.storage().kv().delete("k")?;
                Ok(rung)
            });
            assert_eq!(done.await.unwrap().unwrap(), "rung");
        }
        assert!(!vat.run_alarms().await);
    });
}

#[test]
fn time_passes_while_the_vat_is_stopped_and_what_was_due_runs_when_it_starts() {
    run(async {
        let (vat, rung) = ringing().await;
        let p: Client = vat.object("p");
        let set = act(&p, async |own| Ok(own.ctx.alarms()?.set_in(SECOND)?));
        set.await.unwrap();
        vat.stop().await;
        assert_eq!(code(get(&p, "k").await), Code::Disconnected);
        vat.advance(Duration::from_hours(24)).await;
        assert!(rung.borrow().is_empty());
        vat.restart().await;
        vat.settle().await;
        assert_eq!(*rung.borrow(), [("p".to_owned(), vat.now_ms())]);
    });
}

#[test]
#[should_panic = "`p` does not fall asleep"]
fn an_object_that_cannot_sleep_is_not_waited_for_for_ever() {
    run(async {
        let (vat, p) = vat().await;
        let _handle = obtain(&p, async |own| Ok(own.handle())).await.unwrap();
        vat.evict::<Client>("p").await;
    });
}

#[test]
fn a_connection_that_the_vat_has_ended_is_replaced() {
    run(async {
        let vat = TestVat::start(|server| {
            let mut config = Config::default();
            config.limits.message_bytes = 100_000;
            server.config(config).class::<Puppet>()
        })
        .await;
        let p: Client = vat.object("p");
        put(&p, "k", "v").await.unwrap();
        let far_too_long = "x".repeat(200_000);
        put(&vat.object(&far_too_long), "k", "v").await.unwrap_err();
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "v");
    });
}
