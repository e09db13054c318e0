use std::{cell::Cell, rc::Rc};

use capnp::traits::HasTypeId;
use tokio::{task::LocalSet, time::sleep_until};
use vatwerk::counter_capnp::counter;

use super::*;
use crate::metrics::{Metrics, Vitals};

const COUNTER: u64 = <counter::Client as HasTypeId>::TYPE_ID;

const METHOD: Runs = Runs::Method {
    interface_id: COUNTER,
    ordinal: 0,
};

fn health(limits: Limits) -> Health {
    let schemas = vatwerk::json::Schemas::load(vatwerk::CODE_GENERATOR_REQUEST).unwrap();
    let classes = [(COUNTER, "Counter")];
    Health::new(limits, Names::new(classes.into_iter(), &schemas))
}

fn thread(health: &Health) -> (Thread, Metrics) {
    let metrics = Metrics::new("1", 0);
    (Thread::new(health.clone(), metrics.clone()), metrics)
}

fn text(metrics: &Metrics) -> String {
    metrics.exposition().encode(Vitals::default())
}

#[test]
fn a_turn_that_holds_the_thread_past_the_limit_is_a_problem_until_it_ends() {
    for (held, is_problem) in [(Some(Duration::ZERO), true), (None, false)] {
        let health = health(Limits {
            held,
            ..Limits::default()
        });
        let (thread, metrics) = thread(&health);
        let class = metrics.class("Counter");
        let id = ObjectId([7; 32]);
        assert_eq!(health.problems(), []);
        let turn = thread.turn(COUNTER, id, METHOD, &class);
        let seen = {
            let health = health.clone();
            std::thread::spawn(move || (health.problems(), health.hold().unwrap()))
        };
        let (problems, hold) = seen.join().unwrap();
        let expected = Held {
            class: "Counter",
            id,
            method: "increment".into(),
        };
        assert_eq!(hold.turn, Some(expected));
        assert_eq!(problems.len(), usize::from(is_problem));
        for problem in problems {
            let said = problem.to_string();
            let by = format!("object {id} of class Counter, in increment");
            assert!(
                said.starts_with("held for 0.") && said.ends_with(&by),
                "{said}"
            );
        }
        assert!(health.turn_running() > Duration::ZERO);
        drop(turn);
        assert_eq!(health.problems(), []);
        assert_eq!(health.hold(), None);
        assert_eq!(health.turn_running(), Duration::ZERO);
        let text = text(&metrics);
        assert!(text.contains("vatwerk_turn_seconds_count{class=\"Counter\"} 1\n"));
    }
}

#[test]
fn only_turns_over_the_limit_are_counted_as_long_by_a_bounded_number_of_names() {
    let unknown = Runs::Method {
        interface_id: 1,
        ordinal: 2,
    };
    for (long_turn, count) in [(Some(Duration::ZERO), 1), (None, 0)] {
        let health = health(Limits {
            long_turn,
            ..Limits::default()
        });
        let (thread, metrics) = thread(&health);
        let class = metrics.class("Counter");
        let all = [
            (METHOD, "increment"),
            (unknown, "other"),
            (Runs::Waking, "activate"),
            (Runs::Fetch, "fetch"),
            (Runs::Alarms, "alarm"),
            (Runs::Socket, "web_socket"),
            (Runs::Background, "wait_until"),
            (Runs::GivingBack, "vacuum"),
        ];
        for (runs, _) in all {
            drop(thread.turn(COUNTER, ObjectId([0; 32]), runs, &class));
        }
        let text = text(&metrics);
        for (_, method) in all {
            let labels = format!("{{class=\"Counter\",method=\"{method}\"}} {count}\n");
            let line = format!("vatwerk_long_turns_total{labels}");
            assert_eq!(text.contains(&line), count == 1, "{method}\n{text}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_is_restarted_after_growing_pauses_and_is_down_meanwhile() {
    let tasks = LocalSet::new();
    let test = async {
        let health = health(Limits::default());
        let (thread, metrics) = thread(&health);
        let begun = Rc::new(Cell::new(0));
        let times = begun.clone();
        let begin = move || {
            times.set(times.get() + 1);
            let time = times.get();
            async move {
                match time {
                    1 => panic!("the first time"),
                    2 => {}
                    // Long enough to begin anew with the first pause.
                    3 => {
                        tokio::time::sleep(Duration::from_secs(60)).await;
                        panic!("later")
                    }
                    _ => std::future::pending().await,
                }
            }
        };
        let began = tokio::time::Instant::now();
        let task = thread.services().run("sweeper", begin);
        // When it has begun how often, and whether it is down before and after.
        let seconds = Duration::from_secs_f64;
        for (until, times, down) in [
            (0.05, 1, true),
            (0.15, 2, true),
            (0.25, 2, true),
            (0.35, 3, false),
            (60.35, 3, true),
            (60.45, 4, false),
        ] {
            sleep_until(began + seconds(until)).await;
            assert_eq!(begun.get(), times, "after {until} s");
            let problems = if down {
                vec![Problem::Down("sweeper")]
            } else {
                vec![]
            };
            assert_eq!(health.problems(), problems, "after {until} s");
        }
        let restarts = "vatwerk_service_restarts_total{service=\"sweeper\"} 3\n";
        assert!(text(&metrics).contains(restarts));
        task.abort();
    };
    tasks.run_until(test).await;
}

/// Set for the process that is to end.
const CHILD: &str = "VATWERK_ENDS";

#[test]
fn a_service_that_cannot_be_done_without_ends_the_process() {
    match std::env::var(CHILD).as_deref() {
        Ok("task") => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            runtime.block_on(run_or_abort("sweeper", async { panic!("a reason") }));
        }
        Ok(_) => thread_or_abort("sweeper", || panic!("a reason")),
        Err(_) => {
            for what in ["task", "thread"] {
                let name = "health::tests::a_service_that_cannot_be_done_without_ends_the_process";
                let ended = std::process::Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", name, "--nocapture", "--test-threads", "1"])
                    .env(CHILD, what)
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&ended.stderr);
                assert!(!ended.status.success(), "{what}: {said}");
                assert!(said.contains("a reason"), "{what}: {said}");
                // Not a test that fails: the process is gone before the end of the test.
                let said = String::from_utf8_lossy(&ended.stdout);
                assert!(!said.contains("test result"), "{what}: {said}");
            }
        }
    }
}

#[tokio::test]
async fn a_thread_that_does_not_answer_is_held_although_no_turn_runs() {
    let tasks = LocalSet::new();
    let test = async {
        let health = health(Limits::default());
        let (thread, _) = thread(&health);
        thread.answer();
        health.ask();
        while health.0.asked.load(Relaxed) != 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(health.hold(), None);
        health.ask();
        assert_ne!(health.0.asked.load(Relaxed), 0);
        // No longer than it may take.
        assert_eq!(health.hold(), None);
        std::thread::sleep(SILENCE + Duration::from_millis(1));
        assert_eq!(health.hold().unwrap().turn, None);
        tokio::task::yield_now().await;
        while health.hold().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tasks.run_until(test).await;
}
