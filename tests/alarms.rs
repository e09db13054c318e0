//! Alarms: at their time, at least once, also of objects that sleep.

use std::{cell::Cell, rc::Rc};

use capnp::Error;
use vatwerk_server::{
    Alarm, Context, Missed, Repeat,
    testing::{TestVat, run},
};

use crate::support::{
    clockwork::{HOUR, MINUTE, Ran, SECOND, Spring, get, ms, set, times, vat, vat_with},
    puppet::Client,
};

#[test]
fn an_alarm_runs_at_its_time_and_is_gone() {
    run(async {
        let (vat, spring) = vat().await;
        let seen = Rc::new(Cell::new(Some(0)));
        let inside = seen.clone();
        spring.on_alarm(move |ctx, _| {
            inside.set(ctx.alarms().unwrap().get().unwrap());
            async { Ok(()) }
        });
        let at_ms = set(&vat, &spring, "a", 3 * SECOND).await;
        assert_eq!(get(&vat, &spring, "a").await, Some(at_ms));
        vat.advance(ms(3 * SECOND - 1)).await;
        assert_eq!(spring.ran(), []);
        vat.advance(ms(1)).await;
        let [ran] = &spring.ran()[..] else { panic!() };
        assert_eq!((ran.at_ms, ran.alarm.scheduled_ms), (at_ms, at_ms));
        assert!(!ran.alarm.is_retry && ran.alarm.name.is_empty());
        assert_eq!(seen.get(), None, "none is set while it runs");
        assert_eq!(get(&vat, &spring, "a").await, None);
        assert!(!vat.run_alarms().await);
    });
}

#[test]
fn a_time_that_has_passed_means_now_and_the_last_one_that_is_set_counts() {
    run(async {
        let (vat, spring) = vat().await;
        set(&vat, &spring, "a", -HOUR).await;
        vat.settle().await;
        let [ran] = &spring.ran()[..] else { panic!() };
        assert_eq!(ran.alarm.scheduled_ms, vat.now_ms());

        // Earlier, later, the same again, never.
        set(&vat, &spring, "a", 9 * SECOND).await;
        let at_ms = set(&vat, &spring, "a", 5 * SECOND).await;
        set(&vat, &spring, "a", 5 * SECOND).await;
        vat.advance(ms(20 * SECOND)).await;
        assert_eq!(times(&spring.ran()), [(at_ms, 0)]);
        set(&vat, &spring, "a", 5 * SECOND).await;
        let at_ms = set(&vat, &spring, "a", 9 * SECOND).await;
        vat.advance(ms(20 * SECOND)).await;
        assert_eq!(times(&spring.ran()), [(at_ms, 0)]);
        set(&vat, &spring, "a", 5 * SECOND).await;
        let delete = |ctx: Context| async move { Ok(ctx.alarms()?.delete()?) };
        assert!(spring.act(&vat, "a", delete).await.unwrap());
        assert!(!spring.act(&vat, "a", delete).await.unwrap());
        vat.advance(ms(20 * SECOND)).await;
        assert_eq!(spring.ran(), []);
        let refused = spring.act(&vat, "a", |ctx| async move { Ok(ctx.alarms()?.set(0)?) });
        let refused = refused.await.unwrap_err();
        assert!(refused.extra.contains("invalid-argument"), "{refused}");
    });
}

#[test]
fn an_alarm_is_set_and_undone_with_the_writes_of_its_turn() {
    run(async {
        let (vat, spring) = vat().await;
        let panics = spring.act::<(), _>(&vat, "a", |ctx| async move {
            ctx.alarms()?.set_in(ms(SECOND))?;
            panic!("told to");
        });
        panics.await.unwrap_err();
        let regrets = spring.act(&vat, "a", |ctx| async move {
            let undone = ctx.storage().transaction(|_| {
                ctx.alarms()?.set_in(ms(SECOND))?;
                Err::<(), _>(vatwerk_server::Error::NotFound("a reason".into()))
            });
            assert!(undone.is_err());
            Ok(())
        });
        regrets.await.unwrap();
        vat.fail_next_commit();
        let lost = spring.act(&vat, "a", |ctx| async move {
            Ok(ctx.alarms()?.set_in(ms(SECOND))?)
        });
        lost.await.unwrap_err();
        assert_eq!(get(&vat, &spring, "a").await, None);
        vat.advance(ms(HOUR)).await;
        assert_eq!(spring.ran(), []);
        // With the deletion of everything it goes as well; what is set afterwards stays.
        set(&vat, &spring, "a", SECOND).await;
        let at_ms = vat.now_ms() + 2 * SECOND;
        let deleted = spring.act(&vat, "a", move |ctx| async move {
            ctx.storage().delete_all()?;
            assert_eq!(ctx.alarms()?.get()?, None);
            Ok(ctx.alarms()?.set(at_ms)?)
        });
        deleted.await.unwrap();
        vat.advance(ms(HOUR)).await;
        assert_eq!(times(&spring.ran()), [(at_ms, 0)]);
    });
}

#[test]
fn what_a_handler_sets_or_deletes_stays() {
    run(async {
        let (vat, spring) = vat().await;
        let again = Rc::new(Cell::new(2));
        let left = again.clone();
        spring.on_alarm(move |ctx, _| {
            let left = left.clone();
            async move {
                if left.get() > 0 {
                    left.set(left.get() - 1);
                    ctx.alarms()?.set_in(ms(SECOND))?;
                }
                Ok(())
            }
        });
        let at_ms = set(&vat, &spring, "a", SECOND).await;
        vat.advance(ms(HOUR)).await;
        let expected = [0, 1, 2].map(|n| (at_ms + n * SECOND, 0));
        assert_eq!(times(&spring.ran()), expected);
        // One that fails has no retry if it has set another time, or none.
        again.set(1);
        let left = again.clone();
        spring.on_alarm(move |ctx, _| {
            let left = left.clone();
            async move {
                match left.replace(0) {
                    0 => _ = ctx.alarms()?.delete()?,
                    _ => ctx.alarms()?.set_in(ms(MINUTE))?,
                }
                Err(Error::failed("told to".into()))
            }
        });
        let at_ms = set(&vat, &spring, "a", SECOND).await;
        vat.advance(ms(HOUR)).await;
        assert_eq!(times(&spring.ran()), [(at_ms, 0), (at_ms + MINUTE, 0)]);
    });
}

/// Whether these are a first run and retries, each after twice as long as the one before.
fn assert_retries(ran: &[Ran], first_ms: i64) {
    assert_eq!(ran[0].at_ms, first_ms);
    for (n, pair) in ran.windows(2).enumerate() {
        let delay = pair[1].at_ms - pair[0].at_ms;
        let least = (2 * SECOND) << n;
        assert!((least..=least * 5 / 4).contains(&delay), "{n}: {delay}");
        assert_eq!(pair[1].alarm.retry_count as usize, n + 1);
        assert!(pair[1].alarm.is_retry);
        assert_eq!(pair[1].alarm.scheduled_ms, first_ms);
    }
}

#[test]
fn a_handler_that_fails_runs_seven_times_and_its_writes_stay() {
    run(async {
        let (vat, spring) = vat().await;
        spring.on_alarm(|ctx, alarm| async move {
            let kv = ctx.storage().kv();
            kv.put("runs", &(kv.get("runs")?.unwrap_or(0) + 1))?;
            match alarm.retry_count % 3 {
                0 => Err(Error::failed("told to".into())),
                1 => panic!("told to"),
                _ => {
                    ctx.abort("told to");
                    Ok(())
                }
            }
        });
        let at_ms = set(&vat, &spring, "a", SECOND).await;
        vat.advance(ms(HOUR)).await;
        let ran = spring.ran();
        assert_eq!(ran.len(), 7);
        assert_retries(&ran, at_ms);
        let runs = spring.act(&vat, "a", |ctx| async move {
            Ok(ctx.storage().kv().get::<u32>("runs")?)
        });
        // What panicked or aborted has left nothing.
        assert_eq!(runs.await.unwrap(), Some(3));
        assert_eq!(get(&vat, &spring, "a").await, None);
    });
}

#[test]
fn retries_are_counted_across_restarts_and_crashes_and_end_with_success() {
    run(async {
        let (vat, spring) = vat().await;
        spring.on_alarm(|_, alarm| async move {
            match alarm.retry_count {
                3 => Ok(()),
                _ => Err(Error::failed("told to".into())),
            }
        });
        let at_ms = set(&vat, &spring, "a", SECOND).await;
        vat.advance(ms(SECOND)).await;
        vat.restart().await;
        assert!(vat.run_alarms().await);
        vat.crash().await;
        assert!(vat.run_alarms().await);
        vat.evict::<Client>("a").await;
        vat.advance(ms(HOUR)).await;
        let ran = spring.ran();
        assert_eq!(ran.len(), 4);
        assert_retries(&ran, at_ms);
    });
}

#[test]
fn what_the_disk_is_to_blame_for_does_not_count() {
    run(async {
        let (vat, spring) = vat().await;
        spring.on_alarm(|ctx, _| async move { Ok(ctx.storage().kv().put("ran", &true)?) });
        set(&vat, &spring, "a", SECOND).await;
        vat.settle().await;
        for _ in 0..3 {
            vat.fail_next_commit();
            vat.run_alarms().await;
        }
        vat.advance(ms(HOUR)).await;
        let ran = spring.ran();
        assert!(ran.len() > 1, "{ran:?}");
        assert!(ran.iter().all(|ran| ran.alarm.retry_count == 0), "{ran:?}");
        assert_eq!(get(&vat, &spring, "a").await, None);
    });
}

#[test]
fn what_is_set_during_the_last_run_is_not_given_up_with_it() {
    run(async {
        let (vat, spring) = vat().await;
        spring.on_alarm(|ctx, alarm| async move {
            if alarm.retry_count == 6 {
                ctx.sleep(ms(5 * SECOND)).await;
            }
            if alarm.payload.is_empty() {
                return Err(Error::failed("told to".into()));
            }
            Ok(())
        });
        set(&vat, &spring, "a", SECOND).await;
        while spring
            .ran()
            .last()
            .is_none_or(|ran| ran.alarm.retry_count < 6)
        {
            vat.advance(ms(SECOND)).await;
        }
        let at_ms = vat.now_ms() + MINUTE;
        let set = spring.act(&vat, "a", move |ctx| async move {
            let alarm = Alarm::at(at_ms).payload("new");
            Ok(ctx.alarms()?.set_named("", &alarm)?)
        });
        set.await.unwrap();
        vat.advance(ms(HOUR)).await;
        assert_eq!(times(&spring.ran()), [(at_ms, 0)]);
    });
}

#[test]
fn alarms_run_of_objects_asleep_and_after_a_restart_without_anybody_asking() {
    run(async {
        let (vat, spring) = vat().await;
        let at_ms = set(&vat, &spring, "a", MINUTE).await;
        vat.advance(ms(30 * SECOND)).await;
        assert!(!vat.is_awake::<Client>("a"));
        vat.advance(ms(30 * SECOND)).await;
        assert_eq!(times(&spring.ran()), [(at_ms, 0)]);

        let at_ms = set(&vat, &spring, "a", MINUTE).await;
        vat.restart().await;
        vat.advance(ms(MINUTE)).await;
        assert_eq!(times(&spring.ran()), [(at_ms, 0)]);

        // Due while the vat was away, and in the middle of a run when it crashed.
        set(&vat, &spring, "a", MINUTE).await;
        vat.stop().await;
        vat.advance(ms(HOUR)).await;
        spring.on_alarm(|ctx, _| async move {
            ctx.sleep(ms(SECOND)).await;
            Ok(())
        });
        vat.restart().await;
        vat.settle().await;
        assert_eq!(spring.ran().len(), 1);
        vat.crash().await;
        vat.advance(ms(MINUTE)).await;
        let ran = spring.ran();
        assert_eq!(ran.len(), 1, "{ran:?}");
        assert_eq!(get(&vat, &spring, "a").await, None);
    });
}

#[test]
fn a_handler_may_take_a_quarter_of_an_hour() {
    run(async {
        let (vat, spring) = vat().await;
        spring.on_alarm(|ctx, alarm| async move {
            if alarm.retry_count == 0 {
                ctx.sleep(ms(24 * HOUR)).await;
            }
            Ok(())
        });
        let at_ms = set(&vat, &spring, "a", SECOND).await;
        vat.advance(ms(15 * MINUTE)).await;
        assert_eq!(spring.ran().len(), 1);
        vat.advance(ms(MINUTE)).await;
        let [ran] = &spring.ran()[..] else { panic!() };
        assert_eq!(ran.alarm.retry_count, 1);
        assert!(ran.at_ms >= at_ms + 15 * MINUTE + 2 * SECOND);
    });
}

#[test]
fn alarms_with_names_run_each_at_its_time_with_what_they_were_set_with() {
    run(async {
        let (vat, spring) = vat().await;
        let now_ms = vat.now_ms();
        let set = spring.act(&vat, "a", move |ctx| async move {
            let alarms = ctx.alarms()?;
            for (name, after) in [("tea", 3), ("egg", 5), ("pie", 4)] {
                let alarm = Alarm::at(now_ms + after * SECOND).payload(name);
                alarms.set_named(name, &alarm)?;
            }
            alarms.set(now_ms + 4 * SECOND)?;
            assert!(alarms.delete_named("pie")?);
            let names = alarms.list(None, 10)?;
            Ok(names.into_iter().map(|(name, _)| name).collect::<Vec<_>>())
        });
        assert_eq!(set.await.unwrap(), ["", "egg", "tea"]);
        vat.evict::<Client>("a").await;
        vat.advance(ms(MINUTE)).await;
        let ran = spring.ran();
        let told: Vec<_> = ran
            .iter()
            .map(|ran| {
                (
                    ran.at_ms - now_ms,
                    &ran.alarm.name[..],
                    &ran.alarm.payload[..],
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                (3 * SECOND, "tea", &b"tea"[..]),
                (4 * SECOND, "", b""),
                (5 * SECOND, "egg", b"egg")
            ]
        );
    });
}

/// Sets an alarm for every full hour.
async fn every_hour(vat: &TestVat, spring: &Spring, missed: Missed) {
    let set = spring.act(vat, "a", move |ctx| async move {
        let repeat = Repeat::new("0 * * * *", "Europe/Berlin")?;
        let alarm = Alarm::repeating(repeat).missed(missed);
        Ok(ctx.alarms()?.set_named("hourly", &alarm)?)
    });
    set.await.unwrap();
}

#[test]
fn a_repeat_runs_at_all_its_times_and_what_is_missed_as_it_says() {
    run(async {
        for (missed, at_once) in [
            (Missed::FireOnce, 1),
            (Missed::FireEach, 5),
            (Missed::Skip, 0),
        ] {
            let (vat, spring) = vat().await;
            // The clock begins at a full hour.
            every_hour(&vat, &spring, missed).await;
            let began_ms = vat.now_ms();
            vat.advance(ms(3 * HOUR)).await;
            let expected = [1, 2, 3].map(|n| (began_ms + n * HOUR, 0));
            assert_eq!(times(&spring.ran()), expected);
            vat.stop().await;
            vat.advance(ms(5 * HOUR + 30 * MINUTE)).await;
            vat.restart().await;
            vat.settle().await;
            let ran = spring.ran();
            assert_eq!(ran.len(), at_once, "{missed:?}");
            for (n, ran) in ran.iter().enumerate() {
                assert_eq!(ran.alarm.scheduled_ms, began_ms + (4 + n as i64) * HOUR);
            }
            vat.advance(ms(30 * MINUTE)).await;
            assert_eq!(times(&spring.ran()), [(began_ms + 9 * HOUR, 0)]);
        }
    });
}

#[test]
fn after_a_long_time_down_not_everybody_runs_at_once() {
    run(async {
        let (vat, spring) = vat_with(|config| config.limits.alarms_at_once = 8).await;
        let (running, most) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let seen = most.clone();
        spring.on_alarm(move |ctx, _| {
            let (running, most) = (running.clone(), seen.clone());
            async move {
                running.set(running.get() + 1);
                most.set(most.get().max(running.get()));
                ctx.sleep(ms(SECOND)).await;
                running.set(running.get() - 1);
                Ok(())
            }
        });
        for n in 0..100 {
            set(&vat, &spring, &format!("object {n}"), MINUTE).await;
        }
        vat.stop().await;
        vat.advance(ms(HOUR)).await;
        vat.restart().await;
        vat.advance(ms(MINUTE)).await;
        assert_eq!(spring.ran().len(), 100);
        assert_eq!(most.get(), 8);
    });
}

#[test]
fn handlers_that_take_their_time_do_not_hold_up_others() {
    run(async {
        let (vat, spring) = vat_with(|config| config.limits.alarms_at_once = 2).await;
        spring.on_alarm(|ctx, _| async move {
            ctx.sleep(ms(10 * MINUTE)).await;
            Ok(())
        });
        for n in 0..6 {
            set(&vat, &spring, &format!("object {n}"), SECOND).await;
        }
        vat.advance(ms(MINUTE)).await;
        assert_eq!(spring.ran().len(), 6);
    });
}

#[test]
fn alarms_of_a_deleted_object_do_not_run() {
    run(async {
        let (vat, spring) = vat().await;
        set(&vat, &spring, "a", SECOND).await;
        assert!(vat.delete::<Client>("a").await.unwrap());
        vat.advance(ms(HOUR)).await;
        assert_eq!(spring.ran(), []);
        assert_eq!(vat.next_alarm::<Client>("a"), None);
    });
}

#[test]
fn an_object_with_an_alarm_that_waits_for_itself_is_not_polled() {
    run(async {
        let (vat, spring) = vat().await;
        let at_ms = set(&vat, &spring, "a", 5 * 365 * 24 * HOUR).await;
        // Were it polled, years would take their time.
        assert!(vat.run_alarms().await);
        assert_eq!(times(&spring.ran()), [(at_ms, 0)]);
    });
}

#[test]
fn an_alarm_waits_like_a_call_while_others_are_held_back() {
    run(async {
        let (vat, spring) = vat().await;
        let at_ms = set(&vat, &spring, "a", SECOND).await;
        let blocked = spring.act(&vat, "a", |ctx| async move {
            let wait = async {
                ctx.sleep(ms(5 * SECOND)).await;
                Ok(())
            };
            ctx.block_concurrency_while(wait).await
        });
        blocked.await.unwrap();
        vat.settle().await;
        assert_eq!(times(&spring.ran()), [(at_ms + 4 * SECOND, 0)]);
    });
}
