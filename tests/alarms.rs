//! Alarms: at their time, at least once, whoever is awake.

use std::{cell::Cell, rc::Rc, time::Duration};

use capnp::Error;
use vatwerk_server::{
    Alarm, Config, Context, Missed, Repeat, Server,
    testing::{Survival, TestVat, run},
};

use crate::support::{
    clockwork::{Broken, Clockwork, Ran, SerialClockwork, Spring},
    log::Log,
    on_this_thread,
    puppet::{Client, Program, Puppet},
};

const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

async fn vat() -> (TestVat, Spring) {
    vat_with(|_| {}).await
}

async fn vat_with(settings: fn(&mut Config)) -> (TestVat, Spring) {
    let spring = Spring::default();
    let vat = TestVat::start(program::<Clockwork>(&spring, settings)).await;
    (vat, spring)
}

fn program<P: Program>(
    spring: &Spring,
    settings: fn(&mut Config),
) -> impl Fn(Server) -> Server + 'static {
    let bound = on_this_thread(spring.clone());
    move |server| {
        let mut config = Config::default();
        settings(&mut config);
        server
            .config(config)
            .class::<Puppet<P>>()
            .binding_with(bound.clone())
    }
}

fn ms(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

/// Sets the own alarm of an object, so many milliseconds from now, and returns when that is.
async fn set(vat: &TestVat, spring: &Spring, object: &str, after_ms: i64) -> i64 {
    let at_ms = vat.now_ms() + after_ms;
    let set = spring.act(vat, object, move |ctx| async move {
        Ok(ctx.alarms()?.set(at_ms)?)
    });
    set.await.unwrap();
    at_ms
}

async fn get(vat: &TestVat, spring: &Spring, object: &str) -> Option<i64> {
    let get = spring.act(vat, object, |ctx| async move { Ok(ctx.alarms()?.get()?) });
    get.await.unwrap()
}

/// Sets alarms of an object with these names, each so many milliseconds from now.
async fn set_named(vat: &TestVat, spring: &Spring, object: &str, alarms: &[(&str, i64)]) -> i64 {
    let now_ms = vat.now_ms();
    let alarms: Vec<_> = alarms
        .iter()
        .map(|(name, after_ms)| ((*name).to_owned(), now_ms + after_ms))
        .collect();
    let set = spring.act(vat, object, move |ctx| async move {
        for (name, at_ms) in alarms {
            ctx.alarms()?.set_named(&name, &Alarm::at(at_ms))?;
        }
        Ok(())
    });
    set.await.unwrap();
    now_ms
}

/// The names of the alarms that ran, and how long after a time.
fn named(ran: &[Ran], since_ms: i64) -> Vec<(&str, i64)> {
    ran.iter()
        .map(|ran| (&ran.alarm.name[..], ran.at_ms - since_ms))
        .collect()
}

/// A number of a vat's metrics.
fn number(vat: &TestVat, name: &str) -> f64 {
    let text = vat.metrics();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("{name}\n{text}"))
}

/// When the runs began, and how often they had failed.
fn times(ran: &[Ran]) -> Vec<(i64, u32)> {
    ran.iter()
        .map(|ran| (ran.at_ms, ran.alarm.retry_count))
        .collect()
}

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

#[test]
fn an_object_that_cannot_wake_is_tried_again_after_longer_and_longer_pauses() {
    run(async {
        for (broken, at_once) in [(Broken::Fails("no"), 1), (Broken::Panics, 2)] {
            let log = Log::keep();
            let (vat, spring) = vat().await;
            set(&vat, &spring, "a", MINUTE).await;
            vat.advance(ms(30 * SECOND)).await;
            spring.break_wakes(Some(broken));
            spring.wakes();
            vat.advance(ms(HOUR)).await;
            let wakes = spring.wakes();
            // Who panics tells no more than that its instance has ended, which may happen to anybody.
            assert!(
                wakes[..at_once].windows(2).all(|w| w[0] == w[1]),
                "{broken:?}"
            );
            let pauses: Vec<_> = wakes[at_once - 1..]
                .windows(2)
                .map(|w| w[1] - w[0])
                .collect();
            assert!(pauses.len() > 40, "{pauses:?}");
            for (n, pause) in pauses.into_iter().enumerate() {
                let least = (2 * SECOND) << n.min(5);
                assert!((least..=least * 5 / 4).contains(&pause), "{n}: {pause}");
            }
            assert_eq!(number(&vat, "vatwerk_alarm_objects_undelivered"), 1.0);
            let failures = number(&vat, "vatwerk_alarm_delivery_failures_total");
            assert_eq!(failures, wakes.len() as f64);
            assert_eq!(log.count("cannot be reached"), 1);

            // Another reason is another line.
            spring.break_wakes(Some(Broken::Fails("still no")));
            vat.advance(ms(HOUR)).await;
            assert_eq!(log.count("cannot be reached"), 2);
            assert_eq!(log.count("is reached again"), 0);
            spring.break_wakes(None);
            vat.advance(ms(2 * MINUTE)).await;
            assert_eq!(spring.ran().len(), 1);
            assert_eq!(log.count("is reached again"), 1);
            assert_eq!(number(&vat, "vatwerk_alarm_objects_undelivered"), 0.0);
        }
    });
}

#[test]
fn calls_that_do_not_wake_an_object_do_not_end_the_pause_and_one_that_sets_an_alarm_does() {
    run(async {
        let (vat, spring) = vat().await;
        set(&vat, &spring, "a", MINUTE).await;
        vat.advance(ms(30 * SECOND)).await;
        spring.break_wakes(Some(Broken::Fails("no")));
        vat.advance(ms(10 * MINUTE)).await;
        let failures = || number(&vat, "vatwerk_alarm_delivery_failures_total");
        let before = failures();
        for _ in 0..100 {
            let refused = spring.act(&vat, "a", |_| async { Ok(()) });
            refused.await.unwrap_err();
        }
        assert!(failures() <= before + 1.0);
        spring.break_wakes(None);
        let now_ms = vat.now_ms();
        let at_ms = set_named(&vat, &spring, "a", &[("tea", SECOND)]).await + SECOND;
        vat.advance(ms(SECOND)).await;
        let ran = spring.ran();
        assert_eq!(named(&ran, now_ms), [("", 0), ("tea", at_ms - now_ms)]);
    });
}

#[test]
fn a_handler_that_takes_its_time_holds_up_no_other_alarm_of_its_object() {
    run(async {
        let (vat, spring) = vat().await;
        spring.on_alarm(|ctx, alarm| async move {
            if alarm.name == "slow" {
                ctx.sleep(ms(10 * MINUTE)).await;
            }
            Ok(ctx.storage().kv().put(&alarm.name, &ctx.now_ms())?)
        });
        let alarms = [("slow", SECOND), ("tea", SECOND), ("egg", 5 * SECOND)];
        let now_ms = set_named(&vat, &spring, "a", &alarms).await;
        vat.advance(ms(MINUTE)).await;
        // One that is set meanwhile, for an earlier time than any that is known, and for a later one.
        set_named(&vat, &spring, "a", &[("pie", MINUTE), ("jam", SECOND)]).await;
        vat.advance(ms(3 * MINUTE)).await;
        let ran = spring.ran();
        let expected = [
            ("slow", SECOND),
            ("tea", SECOND),
            ("egg", 5 * SECOND),
            ("jam", MINUTE + SECOND),
            ("pie", 2 * MINUTE),
        ];
        assert_eq!(named(&ran, now_ms), expected);
        let done = |name: &'static str| {
            spring.act(&vat, "a", move |ctx| async move {
                Ok(ctx.storage().kv().get::<i64>(name)?)
            })
        };
        assert_eq!(done("pie").await.unwrap(), Some(now_ms + 2 * MINUTE));
        assert_eq!(done("slow").await.unwrap(), None);
        vat.advance(ms(10 * MINUTE)).await;
        let slow = done("slow").await.unwrap();
        assert_eq!(slow, Some(now_ms + SECOND + 10 * MINUTE));
        assert_eq!(spring.ran(), []);
        assert_eq!(vat.next_alarm::<Client>("a"), None);
    });
}

#[test]
fn an_object_runs_sixty_four_alarms_at_a_time_and_a_serial_one_runs_one() {
    run(async {
        let names: Vec<_> = (0..70).map(|n| format!("{n:02}")).collect();
        let alarms: Vec<_> = names.iter().map(|name| (&name[..], SECOND)).collect();
        let slowly = |ctx: Context, _| async move {
            ctx.sleep(ms(MINUTE)).await;
            Ok(())
        };
        let (vat, spring) = vat().await;
        spring.on_alarm(slowly);
        let now_ms = set_named(&vat, &spring, "a", &alarms).await;
        vat.advance(ms(HOUR)).await;
        let ran = spring.ran();
        let late = |n| SECOND + if n < 64 { 0 } else { MINUTE };
        let expected = names
            .iter()
            .enumerate()
            .map(|(n, name)| (&name[..], late(n)));
        assert_eq!(named(&ran, now_ms), expected.collect::<Vec<_>>());

        let spring = Spring::default();
        let vat = TestVat::start(program::<SerialClockwork>(&spring, |_| {})).await;
        spring.on_alarm(slowly);
        let alarms = [("egg", SECOND), ("tea", SECOND), ("pie", 2 * SECOND)];
        let now_ms = set_named(&vat, &spring, "a", &alarms).await;
        vat.advance(ms(HOUR)).await;
        let expected = [
            ("egg", SECOND),
            ("tea", SECOND + MINUTE),
            ("pie", SECOND + 2 * MINUTE),
        ];
        assert_eq!(named(&spring.ran(), now_ms), expected);
    });
}

#[test]
fn an_alarm_that_is_cut_short_by_another_is_not_counted_as_failed() {
    run(async {
        let (vat, spring) = vat().await;
        spring.on_alarm(|ctx, alarm| async move {
            match &alarm.name[..] {
                "slow" => {
                    ctx.sleep(ms(3 * MINUTE)).await;
                    Ok(ctx.storage().kv().put("done", &true)?)
                }
                // Panics one after the other, and together with others.
                _ => panic!("told to"),
            }
        });
        let alarms = [("slow", SECOND), ("bad", SECOND), ("worse", SECOND)];
        set_named(&vat, &spring, "a", &alarms).await;
        vat.advance(ms(HOUR)).await;
        let ran = spring.ran();
        let of = |name: &str| -> Vec<_> {
            let of = ran.iter().filter(|ran| ran.alarm.name == name);
            of.map(|ran| ran.alarm.retry_count).collect()
        };
        assert_eq!(of("bad"), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(of("worse"), [0, 1, 2, 3, 4, 5, 6]);
        assert!(of("slow").len() > 1 && of("slow").iter().all(|count| *count == 0));
        let done = spring.act(&vat, "a", |ctx| async move {
            Ok(ctx.storage().kv().get::<bool>("done")?)
        });
        assert_eq!(done.await.unwrap(), Some(true));
        assert_eq!(vat.next_alarm::<Client>("a"), None);
    });
}

/// Whenever the handler of an alarm called `bomb` has begun, the machine loses its power, until none
/// begins any more for an hour. How often the handler had failed, by its own word, each time.
async fn explode(vat: &TestVat, spring: &Spring) -> Vec<u32> {
    let mut failures = Vec::new();
    let mut quiet_ms = 0;
    while quiet_ms < HOUR {
        let ran = spring.ran();
        match ran.iter().find(|ran| ran.alarm.name == "bomb") {
            Some(bomb) => {
                failures.push(bomb.alarm.retry_count);
                vat.lose_power(Survival::Nothing).await;
                vat.settle().await;
                quiet_ms = 0;
            }
            None => {
                vat.advance(ms(100)).await;
                quiet_ms += 100;
            }
        }
    }
    failures
}

#[test]
fn a_handler_that_takes_the_process_down_is_held_back_and_given_up() {
    run(async {
        let log = Log::keep();
        let (vat, spring) = vat().await;
        spring.on_alarm(|ctx, alarm| async move {
            match &alarm.name[..] {
                "bomb" => std::future::pending().await,
                "slow" => ctx.sleep(ms(20 * SECOND)).await,
                _ => {}
            }
            let key = format!("done {}", alarm.name);
            Ok(ctx.storage().kv().put(&key, &alarm.retry_count)?)
        });
        set_named(&vat, &spring, "a", &[("bomb", SECOND), ("tea", MINUTE)]).await;
        // Alarms of others run at the same time.
        for other in ["b", "c", "d"] {
            set_named(&vat, &spring, other, &[("slow", SECOND)]).await;
        }
        let every_minute = spring.act(&vat, "a", |ctx| async move {
            let alarm = Alarm::repeating(Repeat::new("* * * * *", "UTC")?);
            Ok(ctx.alarms()?.set_named("minutely", &alarm)?)
        });
        every_minute.await.unwrap();
        // Of the first run nobody knows.
        let failures = explode(&vat, &spring).await;
        assert_eq!(failures, [0, 0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(log.count("an alarm is given up"), 1);
        assert_eq!(log.count("the vat's process ended"), 6 + 3);
        for (object, name) in [("a", "tea"), ("b", "slow"), ("c", "slow"), ("d", "slow")] {
            let done = spring.act(&vat, object, move |ctx| async move {
                Ok(ctx.storage().kv().get::<u32>(&format!("done {name}"))?)
            });
            let retries = done.await.unwrap().expect("it has run");
            assert!(retries <= 2, "{object} {name}: {retries}");
        }
        let left = spring.act(&vat, "a", |ctx| async move {
            let left = ctx.alarms()?.list(None, 10)?;
            Ok(left.into_iter().map(|(name, _)| name).collect::<Vec<_>>())
        });
        assert_eq!(left.await.unwrap(), ["minutely"]);
    });
}

#[test]
fn a_repeat_that_takes_the_process_down_is_left_out_until_its_next_time() {
    run(async {
        let (vat, spring) = vat().await;
        spring.on_alarm(|_, _| std::future::pending());
        let daily = spring.act(&vat, "a", |ctx| async move {
            let alarm = Alarm::repeating(Repeat::new("@daily", "UTC")?);
            Ok(ctx.alarms()?.set_named("bomb", &alarm)?)
        });
        daily.await.unwrap();
        let at_ms = vat.next_alarm::<Client>("a").expect("it is set");
        vat.advance(ms(at_ms - vat.now_ms())).await;
        assert_eq!(explode(&vat, &spring).await.len(), 8);
        assert_eq!(vat.next_alarm::<Client>("a"), Some(at_ms + 24 * HOUR));
    });
}

#[test]
fn only_after_a_crash_a_run_waits_until_the_next_process_would_know_of_it() {
    run(async {
        let (vat, spring) = vat().await;
        spring.on_alarm(|ctx, _| async move {
            ctx.sleep(ms(30 * MINUTE)).await;
            Ok(())
        });
        // Due while the vat was away in order.
        set(&vat, &spring, "a", MINUTE).await;
        vat.stop().await;
        vat.advance(ms(HOUR)).await;
        vat.restart().await;
        vat.hold_commits();
        vat.settle().await;
        assert_eq!(spring.ran().len(), 1);
        vat.release_commits();
        // Of this run the next process knows, so it waits before it tries again.
        vat.lose_power(Survival::Nothing).await;
        vat.settle().await;
        assert_eq!(spring.ran().len(), 1);
        vat.lose_power(Survival::Nothing).await;
        vat.settle().await;
        vat.hold_commits();
        vat.advance(ms(5 * SECOND)).await;
        assert_eq!(spring.ran().len(), 0);
        vat.release_commits();
        vat.settle().await;
        assert_eq!(spring.ran().len(), 1);

        // A vat that stops in order says that it was to blame.
        vat.restart().await;
        vat.advance(ms(MINUTE)).await;
        let [ran] = &spring.ran()[..] else { panic!() };
        assert_eq!((ran.alarm.is_retry, ran.alarm.retry_count), (true, 1));
        // What comes due after the start cannot have ended the process before.
        vat.lose_power(Survival::Nothing).await;
        set(&vat, &spring, "b", MINUTE).await;
        vat.advance(ms(MINUTE - 1)).await;
        spring.ran();
        vat.hold_commits();
        vat.advance(ms(1)).await;
        assert_eq!(spring.ran().len(), 1);
        vat.release_commits();
    });
}

#[test]
fn alarms_that_are_off_stay_set_and_run_when_they_are_on() {
    run(async {
        let (vat, spring) = vat().await;
        let at_ms = set(&vat, &spring, "a", MINUTE).await;
        let off = |config: &mut Config| config.alarms = false;
        vat.restart_as(program::<Clockwork>(&spring, off)).await;
        vat.advance(ms(HOUR)).await;
        assert_eq!(spring.ran(), []);
        assert_eq!(number(&vat, "vatwerk_alarms_on"), 0.0);
        // The catalog is told of objects all the same.
        assert_eq!(get(&vat, &spring, "a").await, Some(at_ms));
        set(&vat, &spring, "b", SECOND).await;
        let delete = |ctx: Context| async move { Ok(ctx.alarms()?.delete()?) };
        assert!(spring.act(&vat, "b", delete).await.unwrap());
        vat.advance(ms(MINUTE)).await;
        assert_eq!(number(&vat, "vatwerk_alarms_pending"), 1.0);
        vat.restart_as(program::<Clockwork>(&spring, |_| {})).await;
        vat.settle().await;
        assert_eq!(times(&spring.ran()), [(vat.now_ms(), 0)]);
        assert_eq!(number(&vat, "vatwerk_alarms_on"), 1.0);
    });
}
