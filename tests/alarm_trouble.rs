//! Alarms whose object cannot wake, or whose handler is slow, is cut short or ends the process.

use vatwerk_server::{
    Alarm, Config, Context, Repeat,
    testing::{Survival, TestVat, run},
};

use crate::support::{
    clockwork::{
        Broken, Clockwork, HOUR, MINUTE, SECOND, SerialClockwork, Spring, get, ms, named, number,
        program, set, set_named, times, vat,
    },
    log::Log,
    puppet::Client,
};

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

#[test]
fn a_handler_may_hold_others_back_in_a_section() {
    run(async {
        let (vat, spring) = vat().await;
        spring.on_alarm(|ctx, _| async move {
            let section = ctx.block_concurrency_while(async {
                ctx.sleep(ms(SECOND)).await;
                Ok(())
            });
            section.await
        });
        let since_ms = set_named(&vat, &spring, "a", &[("one", MINUTE), ("two", MINUTE)]).await;
        vat.advance(ms(2 * MINUTE)).await;
        assert_eq!(spring.ran().len(), 2);
        assert_eq!(vat.next_alarm::<Client>("a"), None);
        assert_eq!(vat.status::<Client>("a").in_flight, 0);
        assert!(vat.now_ms() > since_ms);
    });
}
