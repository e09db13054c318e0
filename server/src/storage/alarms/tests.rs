use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use proptest::prelude::*;

use super::super::testing::{TestResult, code, fresh, open, path, write_back};
use super::super::{HeldTransaction, Remembered};
use super::*;

const DAY: i64 = 86_400_000;
const FAILED: Outcome = Outcome::Failed { counted: true };

fn daily() -> Repeat {
    Repeat::new("@daily", "UTC").expect("a repeat")
}

fn no() -> Error {
    Error::NotFound("no".into())
}

impl Storage {
    /// The time that the alarm of this name is set to.
    fn alarm(&self, name: &str) -> Option<i64> {
        let alarm = self.alarms().get(name).expect("a look");
        alarm.map(|alarm| alarm.at_ms)
    }

    /// Whether a turn of `body` is a commit.
    fn commits(&self, body: impl FnOnce(&Alarms) -> Result<()>) -> Result<bool> {
        self.enter_turn();
        body(&self.alarms())?;
        Ok(self.commit_turn()?.is_some())
    }

    fn listed(&self) -> Vec<(String, i64)> {
        let listed = self.alarms().list(None, 1000).expect("the list");
        let listed = listed.into_iter();
        listed.map(|(name, alarm)| (name, alarm.at_ms)).collect()
    }
}

#[test]
fn what_is_set_comes_back_and_survives_reopening() -> TestResult {
    let (folder, storage) = fresh();
    let alarms = storage.alarms();
    assert_eq!(alarms.get("")?, None);
    assert!(!alarms.delete("")?);
    assert_eq!(alarms.list(None, 1)?, []);
    assert_eq!(alarms.next_due()?, None);
    let all = [
        ("", Alarm::at(50)),
        ("a\0", Alarm::at(40).payload(*b"p").missed(Missed::FireEach)),
        ("b", Alarm::repeating(daily()).missed(Missed::Skip)),
        (
            "c",
            Alarm {
                repeat: Some(daily()),
                ..Alarm::at(70)
            },
        ),
    ];
    for (name, alarm) in &all {
        alarms.set(name, alarm, 10)?;
    }
    storage.close()?;

    let storage = open(&folder);
    let alarms = storage.alarms();
    for (name, alarm) in all {
        let at_ms = if name == "b" { DAY } else { alarm.at_ms };
        assert_eq!(alarms.get(name)?, Some(Alarm { at_ms, ..alarm }));
    }
    let names = |after, limit| -> Result<Vec<String>> {
        let listed = alarms.list(after, limit)?;
        Ok(listed.into_iter().map(|(name, _)| name).collect())
    };
    assert_eq!(names(None, 9)?, ["", "a\0", "b", "c"]);
    assert_eq!(names(None, 2)?, ["", "a\0"]);
    assert_eq!(names(Some(""), 2)?, ["a\0", "b"]);
    assert!(alarms.delete("a\0")?);
    assert!(!alarms.delete("a\0")?);
    assert_eq!(names(Some("a"), 9)?, ["b", "c"]);
    storage.close()?;

    write_back(&folder);
    let file = rusqlite::Connection::open(path(&folder))?;
    assert_eq!(Remembered::read(&file)?.next_alarm, Some(50));
    Ok(())
}

#[test]
fn a_database_without_the_table_has_no_next_alarm() -> TestResult {
    let (folder, storage) = fresh();
    storage.meta().mark_created(None, 1)?;
    storage.close()?;
    write_back(&folder);
    let file = rusqlite::Connection::open(path(&folder))?;
    let remembered = Remembered::read(&file)?;
    assert_eq!(
        (remembered.created_ms.is_some(), remembered.next_alarm),
        (true, None)
    );
    Ok(())
}

#[test]
fn sql_of_the_user_does_not_reach_it() -> TestResult {
    let (_folder, storage) = fresh();
    storage.alarms().set("", &Alarm::at(1), 1)?;
    assert_eq!(
        code(storage.exec("SELECT * FROM _vw_alarms")),
        "sql-refused"
    );
    assert_eq!(code(storage.exec("DELETE FROM _vw_alarms")), "sql-refused");
    Ok(())
}

#[test]
fn limits_hold() -> TestResult {
    let (_folder, storage) = fresh();
    let alarms = storage.alarms();
    for at_ms in [0, -1, i64::MIN] {
        let refused = alarms.set("", &Alarm::at(at_ms), 5);
        assert_eq!(code(refused), "invalid-argument");
    }
    let over = alarms.set("", &Alarm::repeating(daily()), i64::MAX);
    assert_eq!(code(over), "invalid-argument");
    assert_eq!(code(alarms.list(None, 0)), "invalid-argument");
    alarms.set(&"n".repeat(1024), &Alarm::at(1).payload([0; 65_536]), 1)?;
    let long = "n".repeat(1025);
    assert_eq!(code(alarms.set(&long, &Alarm::at(1), 1)), "limit-exceeded");
    assert_eq!(code(alarms.get(&long)), "limit-exceeded");
    assert_eq!(code(alarms.delete(&long)), "limit-exceeded");
    assert_eq!(code(alarms.list(Some(&long), 1)), "limit-exceeded");
    let large = Alarm::at(1).payload([0; 65_537]);
    assert_eq!(code(alarms.set("", &large, 1)), "limit-exceeded");

    storage.enter_turn();
    for n in 1..1000 {
        alarms.set(&n.to_string(), &Alarm::at(1), 1)?;
    }
    assert_eq!(code(alarms.set("x", &Alarm::at(1), 1)), "limit-exceeded");
    alarms.set("", &Alarm::at(1), 1)?;
    alarms.set("7", &Alarm::at(2), 1)?;
    alarms.delete("8")?;
    alarms.set("x", &Alarm::at(1), 1)?;
    storage.commit_turn()?;
    Ok(())
}

#[test]
fn setting_what_is_set_writes_nothing() -> TestResult {
    let (_folder, storage) = fresh();
    let alarm = Alarm::at(50).payload(*b"p");
    assert!(storage.commits(|alarms| alarms.set("n", &alarm, 10))?);
    assert!(!storage.commits(|alarms| alarms.set("n", &alarm, 20))?);
    assert!(!storage.commits(|alarms| alarms.delete("other").map(drop))?);
    let others = [
        Alarm::at(51).payload(*b"p"),
        Alarm::at(51),
        Alarm::at(51).missed(Missed::Skip),
        Alarm {
            repeat: Some(daily()),
            ..Alarm::at(51)
        },
    ];
    for other in others {
        assert!(storage.commits(|alarms| alarms.set("n", &other, 10))?);
        assert_eq!(storage.alarms().get("n")?, Some(other));
    }

    // One that has failed begins anew.
    storage.alarms().set("n", &alarm, 10)?;
    assert!(storage.alarms().begin_run("n", 50, 50)?);
    storage.alarms().end_run("n", FAILED, 50, 0)?;
    assert_eq!(storage.alarms().next_due()?, Some(2050));
    assert!(storage.commits(|alarms| alarms.set("n", &alarm, 50))?);
    assert_eq!(storage.alarms().next_due()?, Some(50));
    Ok(())
}

#[test]
fn what_only_repeats_is_set_once() -> TestResult {
    let (_folder, storage) = fresh();
    let alarm = Alarm::repeating(daily());
    assert!(storage.commits(|alarms| alarms.set("n", &alarm, 1))?);
    assert!(!storage.commits(|alarms| alarms.set("n", &alarm, DAY - 1))?);
    assert!(
        !storage.commits(|alarms| alarms.set("n", &alarm, 3 * DAY))?,
        "a time that has passed is still to be run for"
    );
    assert_eq!(storage.alarm("n"), Some(DAY));
    let later = Alarm {
        at_ms: 9 * DAY,
        ..alarm.clone()
    };
    assert!(storage.commits(|alarms| alarms.set("n", &later, 3 * DAY))?);
    assert!(storage.commits(|alarms| alarms.set("n", &alarm, 3 * DAY))?);
    assert_eq!(storage.alarm("n"), Some(4 * DAY));
    Ok(())
}

#[test]
fn a_time_that_has_passed_means_now() -> TestResult {
    let (_folder, storage) = fresh();
    storage.alarms().set("", &Alarm::at(1), 700)?;
    assert_eq!(storage.alarm(""), Some(700));
    Ok(())
}

#[test]
fn it_goes_with_its_turn_and_its_transaction() -> TestResult {
    let (_folder, storage) = fresh();
    let alarms = storage.alarms();
    alarms.set("", &Alarm::at(100), 1)?;
    assert_eq!(storage.take_alarm_change(), Some(Some(100)));

    storage.enter_turn();
    alarms.set("", &Alarm::at(50), 1)?;
    alarms.set("n", &Alarm::at(60), 1)?;
    storage.rollback_turn();
    assert_eq!(storage.listed(), [("".into(), 100)]);
    assert_eq!(storage.take_alarm_change(), None);

    storage.enter_turn();
    let failed: Result<()> = storage.transaction(|storage| {
        storage.alarms().set("n", &Alarm::at(60), 1)?;
        storage.alarms().delete("")?;
        Err(no())
    });
    assert_eq!(failed, Err(no()));
    storage.commit_turn()?;
    assert_eq!(storage.listed(), [("".into(), 100)]);
    assert_eq!(alarms.due(60, 9)?, []);

    let held = storage.begin_held()?;
    alarms.set("n", &Alarm::at(60), 1)?;
    assert_eq!(storage.alarm("n"), Some(60));
    held.rollback()?;
    assert_eq!(storage.listed(), [("".into(), 100)]);
    Ok(())
}

#[test]
fn changes_are_told_before_and_after_they_are_committed() -> TestResult {
    let (_folder, storage) = fresh();
    let alarms = storage.alarms();
    let before = Rc::new(Cell::new(None));
    let hook = before.clone();
    storage.before_alarms(move |due_ms| {
        hook.set(Some(due_ms));
        Ok(())
    });
    let told = || (before.take(), storage.take_alarm_change());
    let both = |due_ms| (Some(due_ms), Some(due_ms));
    let neither = (None, None);
    storage.enter_turn();
    assert_eq!(alarms.get("")?, None);
    storage.commit_turn()?;
    assert_eq!(told(), neither, "looking changes nothing");
    storage.enter_turn();
    alarms.set("", &Alarm::at(100), 1)?;
    alarms.set("n", &Alarm::at(50), 1)?;
    assert_eq!(told(), neither, "nothing is committed");
    storage.commit_turn()?;
    assert_eq!(told(), both(Some(50)));
    assert_eq!(told(), neither, "only once");

    storage.enter_turn();
    alarms.set("n", &Alarm::at(50), 1)?;
    assert!(!alarms.apply("n", 49, After::Gone)?);
    storage.commit_turn()?;
    assert_eq!(told(), neither, "nor does what writes nothing");
    alarms.delete("n")?;
    assert_eq!(told(), both(Some(100)));
    alarms.delete("")?;
    assert_eq!(told(), both(None));

    storage.enter_turn();
    let held = storage.begin_held()?;
    alarms.set("", &Alarm::at(7), 1)?;
    storage.commit_turn()?;
    assert_eq!(told(), neither, "nothing is committed");
    held.commit()?;
    assert_eq!(told(), both(Some(7)));

    // What was committed and not asked for is not forgotten for what is undone after it.
    alarms.set("", &Alarm::at(8), 1)?;
    storage.enter_turn();
    alarms.set("", &Alarm::at(9), 1)?;
    storage.rollback_turn();
    assert_eq!(told(), both(Some(8)));
    Ok(())
}

#[test]
fn what_cannot_be_told_is_not_committed() -> TestResult {
    let (_folder, storage) = fresh();
    storage.alarms().set("", &Alarm::at(100), 1)?;
    storage.before_alarms(|_| Err(no()));
    storage.enter_turn();
    storage.alarms().set("", &Alarm::at(50), 1)?;
    assert_eq!(storage.commit_turn(), Err(no()));
    assert_eq!(storage.broken(), Some(no()));
    Ok(())
}

#[test]
fn what_is_due_comes_in_order_and_without_what_runs() -> TestResult {
    let (_folder, storage) = fresh();
    let alarms = storage.alarms();
    for (name, at) in [("b", 20), ("a", 20), ("z", 10), ("", 21), ("later", 22)] {
        alarms.set(name, &Alarm::at(at), 1)?;
    }
    let due = |limit| -> Result<Vec<String>> {
        let rows = alarms.due(21, limit)?;
        Ok(rows.into_iter().map(|row| row.name).collect())
    };
    assert_eq!(due(9)?, ["z", "a", "b", ""]);
    assert_eq!(due(2)?, ["z", "a"]);
    assert!(alarms.begin_run("a", 20, 21)?);
    assert!(!alarms.begin_run("a", 20, 21)?, "it runs");
    assert!(!alarms.begin_run("b", 19, 21)?, "it is set to another time");
    assert_eq!(due(2)?, ["z", "b"]);
    alarms.set("a", &Alarm::at(21), 21)?;
    assert_eq!(due(9)?, ["z", "b", ""], "one run of a name at a time");
    assert_eq!(alarms.end_run("a", Outcome::Succeeded, 21, 0)?, None);
    assert_eq!(due(9)?, ["z", "b", "", "a"]);
    assert_eq!(alarms.next_due()?, Some(10));
    Ok(())
}

/// Sets the alarm `n` to 50 and begins to run it at 60.
fn running(storage: &Storage, repeat: Option<Repeat>) -> Result<Alarms> {
    let alarms = storage.alarms();
    let alarm = Alarm {
        repeat,
        ..Alarm::at(50)
    };
    alarms.set("n", &alarm, 1)?;
    assert!(alarms.begin_run("n", 50, 60)?);
    Ok(alarms)
}

#[test]
fn an_alarm_that_runs_is_not_set_and_is_gone_after_it() -> TestResult {
    let (_folder, storage) = fresh();
    let alarms = running(&storage, None)?;
    assert_eq!(storage.alarm("n"), None);
    assert_eq!(storage.listed(), []);
    assert_eq!(
        alarms.next_due()?,
        Some(50),
        "a crash would have it run again"
    );
    let after = alarms.end_run("n", Outcome::Succeeded, 70, 0)?;
    assert_eq!(after, Some(After::Gone));
    assert_eq!(alarms.next_due()?, None);
    assert_eq!(alarms.end_run("n", Outcome::Succeeded, 70, 0)?, None);

    let alarms = running(&storage, Some(daily()))?;
    assert_eq!(storage.alarm("n"), None);
    alarms.end_run("n", Outcome::Succeeded, 70, 0)?;
    assert_eq!(storage.alarm("n"), Some(DAY));
    Ok(())
}

#[test]
fn a_run_that_fails_is_tried_again_until_it_is_given_up() -> TestResult {
    let (folder, storage) = fresh();
    let alarms = running(&storage, None)?;
    let After::Retry { due_ms, .. } = alarms.end_run("n", FAILED, 70, 0)?.expect("a row") else {
        panic!("no retry");
    };
    assert_eq!(due_ms, 2070);
    assert_eq!(storage.alarm("n"), Some(50), "it is still set");
    assert_eq!(alarms.due(2069, 9)?, []);
    storage.close()?;

    // Also across a restart.
    let storage = open(&folder);
    let alarms = storage.alarms();
    for retry in 1..=6 {
        let now = alarms.next_due()?.expect("a retry");
        let due = alarms.due(now, 9)?;
        assert_eq!(due[0].failures.retries, retry);
        assert!(alarms.begin_run("n", 50, now)?);
        let after = alarms.end_run("n", FAILED, now, 0)?;
        assert_eq!(after == Some(After::Gone), retry == 6);
    }
    assert_eq!(alarms.next_due()?, None);
    Ok(())
}

#[test]
fn a_run_that_is_noted_is_known_of_in_the_next_process() -> TestResult {
    let (folder, storage) = fresh();
    let alarms = running(&storage, None)?;
    alarms.set("other", &Alarm::at(70), 60)?;
    assert!(alarms.begin_run("other", 70, 70)?);
    alarms.note_begun("n", 49)?;
    assert_eq!(alarms.next_waiting()?, None, "both run");
    storage.close()?;
    write_back(&folder);
    // As an earlier version has left it.
    let database = Connection::open(path(&folder))?;
    database.execute_batch("ALTER TABLE _vw_alarms DROP COLUMN attempt")?;
    database.close().map_err(|(_, error)| error)?;

    let storage = open(&folder);
    let alarms = storage.alarms();
    let attempts = || -> Result<Vec<Attempt>> {
        let due = alarms.due(i64::MAX, 9)?;
        Ok(due.into_iter().map(|due| due.attempt).collect())
    };
    assert_eq!(attempts()?, [Attempt::None, Attempt::None]);
    alarms.note_begun("n", 50)?;
    storage.close()?;

    let storage = open(&folder);
    let alarms = storage.alarms();
    let attempts = || -> Result<Vec<Attempt>> {
        let due = alarms.due(i64::MAX, 9)?;
        Ok(due.into_iter().map(|due| due.attempt).collect())
    };
    assert_eq!(attempts()?, [Attempt::Begun, Attempt::None]);
    let After::Retry { due_ms, failures } =
        alarms.cut_short("n", 50, FAILED, 70, 0)?.expect("a row")
    else {
        panic!("no retry");
    };
    assert_eq!((due_ms, failures.retries), (2070, 1));
    assert_eq!(attempts()?, [Attempt::None, Attempt::CutShort]);
    assert_eq!(alarms.next_waiting()?, Some(70));
    assert!(alarms.begin_run("other", 70, 70)?);
    assert_eq!(alarms.next_waiting()?, Some(2070));
    // A run that ends, in whatever way, is no longer noted.
    alarms.note_begun("n", 50)?;
    assert!(alarms.begin_run("n", 50, 2070)?);
    alarms.end_run("n", FAILED, 2070, 0)?;
    assert_eq!(attempts()?, [Attempt::None]);
    // What the instance itself has given up is told to it as well.
    alarms.lost_run("other", 70, FAILED, 2070, 0)?;
    assert_eq!(attempts()?, [Attempt::None, Attempt::None]);
    Ok(())
}

#[test]
fn what_a_handler_sets_or_deletes_stays_so() -> TestResult {
    for outcome in [Outcome::Succeeded, FAILED] {
        for repeat in [None, Some(daily())] {
            // The time of the run itself too, though clocks do not usually go back.
            for at in [50, 60, 90] {
                let (_folder, storage) = fresh();
                let alarms = running(&storage, repeat.clone())?;
                alarms.set("n", &Alarm::at(at), at.min(60))?;
                let set = storage.alarm("n");
                assert!(set == Some(at) || at == 50 && set == Some(51));
                assert_eq!(alarms.end_run("n", outcome, 70, 0)?, None);
                assert_eq!(storage.alarm("n"), set);
                assert_eq!(alarms.next_due()?, set);
            }
            let (_folder, storage) = fresh();
            let alarms = running(&storage, repeat.clone())?;
            assert!(!alarms.delete("n")?, "it was not set");
            assert_eq!(alarms.end_run("n", outcome, 70, 0)?, None);
            assert_eq!(alarms.next_due()?, None);

            let alarms = running(&storage, repeat)?;
            alarms.set("n", &Alarm::at(90), 60)?;
            assert!(alarms.delete("n")?);
            alarms.end_run("n", outcome, 70, 0)?;
            assert_eq!(alarms.next_due()?, None);
        }
    }
    Ok(())
}

#[test]
fn what_a_handler_undoes_was_never_set() -> TestResult {
    let (_folder, storage) = fresh();
    let undone = |change: &dyn Fn(&Alarms) -> Result<()>| -> Result<()> {
        let alarms = running(&storage, None)?;
        let failed: Result<()> = storage.transaction(|storage| {
            change(&storage.alarms())?;
            Err(no())
        });
        assert_eq!(failed, Err(no()));
        let held = storage.begin_held()?;
        change(&alarms)?;
        held.rollback()?;
        storage.enter_turn();
        change(&alarms)?;
        storage.rollback_turn();

        assert_eq!(storage.alarm("n"), None);
        let after = alarms.end_run("n", Outcome::Succeeded, 70, 0)?;
        assert_eq!(after, Some(After::Gone));
        assert_eq!(alarms.next_due()?, None);
        Ok(())
    };
    undone(&|alarms| alarms.set("n", &Alarm::at(90), 60))?;
    undone(&|alarms| alarms.delete("n").map(drop))?;
    undone(&|alarms| alarms.delete("n").and(alarms.set("n", &Alarm::at(60), 60)))?;
    Ok(())
}

#[test]
fn an_end_that_is_undone_leaves_the_alarm_due() -> TestResult {
    let (_folder, storage) = fresh();
    let alarms = running(&storage, None)?;
    storage.enter_turn();
    alarms.end_run("n", Outcome::Succeeded, 70, 0)?;
    storage.rollback_turn();
    assert_eq!(alarms.due(70, 9)?.len(), 1);
    assert!(alarms.begin_run("n", 50, 70)?);
    Ok(())
}

#[test]
fn only_the_time_that_was_meant_is_changed() -> TestResult {
    let (_folder, storage) = fresh();
    let alarms = storage.alarms();
    alarms.set("n", &Alarm::at(50).payload(*b"p"), 1)?;
    let next = After::Next { scheduled_ms: 80 };
    for (name, at) in [("n", 49), ("n", 51), ("", 50)] {
        assert!(!storage.commits(|alarms| {
            assert!(!alarms.apply(name, at, next)?);
            assert!(!alarms.apply(name, at, After::Gone)?);
            Ok(())
        })?);
    }
    assert!(alarms.apply("n", 50, next)?);
    assert_eq!(alarms.get("n")?, Some(Alarm::at(80).payload(*b"p")));
    assert!(!alarms.apply("n", 50, After::Gone)?);
    assert!(alarms.apply("n", 80, After::Gone)?);
    assert_eq!(alarms.next_due()?, None);
    Ok(())
}

#[test]
fn delete_all_takes_alarms_along_and_what_is_set_after_it_stays() -> TestResult {
    let (_folder, storage) = fresh();
    let alarms = running(&storage, None)?;
    alarms.set("", &Alarm::at(40), 1)?;
    assert_eq!(storage.take_alarm_change(), Some(Some(40)));
    storage.enter_turn();
    storage.delete_all()?;
    assert_eq!(alarms.next_due()?, None);
    storage.rollback_turn();
    assert_eq!(storage.take_alarm_change(), None);
    assert_eq!(alarms.next_due()?, Some(40));

    storage.enter_turn();
    alarms.set("gone", &Alarm::at(30), 1)?;
    storage.delete_all()?;
    alarms.set("n", &Alarm::at(90), 60)?;
    alarms.end_run("n", Outcome::Succeeded, 70, 0)?;
    storage.commit_turn()?;
    assert_eq!(storage.take_alarm_change(), Some(Some(90)));
    assert_eq!(storage.listed(), [("n".into(), 90)]);
    Ok(())
}

#[test]
fn a_row_of_a_vat_that_knows_more_is_an_error() -> TestResult {
    for change in [
        "missed = 9",
        "cron = 'x', zone = 'UTC'",
        "cron = '@daily', zone = 'Mars'",
    ] {
        let (_folder, storage) = fresh();
        storage.alarms().set("n", &Alarm::at(1), 1)?;
        storage.trusted(&format!("UPDATE _vw_alarms SET {change}"))?;
        assert_eq!(code(storage.alarms().get("n")), "storage-damaged");
        assert!(storage.alarms().delete("n")?, "which can be deleted");
    }
    Ok(())
}

#[derive(Clone, Debug)]
enum Step {
    Set(usize, i64),
    Delete(usize),
    /// Begins the first that is due.
    Begin,
    End(usize, Outcome),
    /// Ends a turn: commits, or undoes.
    Turn(bool),
    /// Opens a transaction that lasts for the rest of the turn, or undoes it.
    Inner,
    DeleteAll,
    Wait(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome = prop_oneof![
        Just(Outcome::Succeeded),
        any::<bool>().prop_map(|counted| Outcome::Failed { counted })
    ];
    let step = prop_oneof![
        4 => (0..3usize, -2..5i64).prop_map(|(name, at)| Step::Set(name, at)),
        2 => (0..3usize).prop_map(Step::Delete),
        4 => Just(Step::Begin),
        4 => (0..3usize, outcome).prop_map(|(name, outcome)| Step::End(name, outcome)),
        4 => any::<bool>().prop_map(Step::Turn),
        2 => Just(Step::Inner),
        1 => Just(Step::DeleteAll),
        3 => prop_oneof![0..5i64, 1000..4000i64].prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..60)
}

/// What should be, with a mark on each run that is touched: the storage compares times instead.
#[derive(Clone, Debug, Default)]
struct Model {
    /// When each is scheduled and due, and whether it failed.
    rows: BTreeMap<usize, (i64, i64, Failures)>,
    touched: [bool; 3],
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn runs_know_what_was_touched_whatever_is_undone(steps in steps()) {
        const NAMES: [&str; 3] = ["", "a", "b"];
        let (_folder, storage) = fresh();
        let alarms = storage.alarms();
        let (mut now, mut runs) = (1000, [None; 3]);
        let mut model = Model::default();
        let (mut committed, mut inner) = (model.clone(), None::<HeldTransaction>);
        storage.enter_turn();
        for step in steps {
            match step {
                Step::Set(n, at) => {
                    alarms.set(NAMES[n], &Alarm::at(now + at), now)?;
                    let at = now.max(now + at);
                    let same = model.rows.get(&n).is_some_and(|row| row.0 == at && !row.2.any());
                    if runs[n].is_some() || !same {
                        // Never the time of the run.
                        let at = if runs[n] == Some(at) { at + 1 } else { at };
                        model.rows.insert(n, (at, at, Failures::default()));
                        model.touched[n] = true;
                    }
                }
                Step::Delete(n) => {
                    let hidden = runs[n].is_some() && !model.touched[n];
                    let was_set = model.rows.remove(&n).is_some() && !hidden;
                    model.touched[n] = true;
                    prop_assert_eq!(alarms.delete(NAMES[n])?, was_set);
                }
                Step::Begin => {
                    if let Some(row) = alarms.due(now, 1)?.pop() {
                        let n = NAMES.iter().position(|name| *name == row.name).expect("a name");
                        let at = row.alarm.at_ms;
                        prop_assert!(runs[n].is_none());
                        prop_assert_eq!(model.rows[&n], (at, row.due_ms, row.failures));
                        prop_assert!(alarms.begin_run(&row.name, at, now)?);
                        runs[n] = Some(at);
                        // What is undone from here on is of the run.
                        if let Some(held) = inner.take() {
                            held.commit()?;
                        }
                        storage.commit_turn()?;
                        storage.enter_turn();
                        model.touched[n] = false;
                        committed = model.clone();
                    }
                }
                Step::End(n, outcome) => {
                    let after = alarms.end_run(NAMES[n], outcome, now, 0)?;
                    prop_assert_eq!(after.is_some(), runs[n].is_some() && !model.touched[n]);
                    match after {
                        Some(After::Retry { due_ms, failures }) => {
                            let row = model.rows.get_mut(&n).expect("a row");
                            *row = (row.0, due_ms, failures);
                        }
                        Some(_) => drop(model.rows.remove(&n)),
                        None => {}
                    }
                    if runs[n].take().is_some() {
                        model.touched[n] = false;
                    }
                }
                Step::Turn(commit) => {
                    if commit {
                        if let Some(held) = inner.take() {
                            held.commit()?;
                        }
                        storage.commit_turn()?;
                        committed = model.clone();
                    } else {
                        inner = None;
                        storage.rollback_turn();
                        model = committed.clone();
                    }
                    storage.enter_turn();
                }
                Step::Inner => match inner.take() {
                    None => {
                        inner = Some(storage.begin_held()?);
                        committed = model.clone();
                    }
                    Some(held) => {
                        held.rollback()?;
                        model = committed.clone();
                    }
                },
                Step::DeleteAll => {
                    if inner.is_none() {
                        storage.delete_all()?;
                        model.rows.clear();
                        model.touched = [true; 3];
                    }
                }
                Step::Wait(ms) => now += ms,
            }
            let is_set = |n: usize| runs[n].is_none() || model.touched[n];
            let set = model.rows.iter().filter(|(n, _)| is_set(**n));
            let set: Vec<_> = set.map(|(n, row)| (NAMES[*n].to_owned(), row.0)).collect();
            prop_assert_eq!(storage.listed(), set);
            let earliest = model.rows.values().map(|row| row.1).min();
            prop_assert_eq!(alarms.next_due()?, earliest);
        }
    }
}
