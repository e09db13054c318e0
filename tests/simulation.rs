//! Objects that are called, set alarms, fall asleep, fail and lose their vat, all at random: whatever
//! comes, an object has one instance, every alarm runs at or after its time and no later than can be
//! helped, and what was acknowledged is there.
//!
//! More of it: `VATWERK_SEEDS=5000 cargo test --release -p vatwerk --test vatwerk simulation`. A seed that
//! fails is printed; `VATWERK_SEED=` runs it alone.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::Duration,
};

use capnp::Error;
use vatwerk_server::{
    Alarm,
    env::sim::{Fault, Operation},
    object::testing::Sabotage,
    testing::{Survival, TestVat, run},
};

use crate::support::{
    clockwork::{Clockwork, Spring},
    on_this_thread,
    puppet::{Client, Puppet},
};

const SECOND: i64 = 1000;
const OBJECTS: [&str; 4] = ["a", "b", "c", "d"];
const ALARMS: [&str; 3] = ["", "tea", "egg"];
const STEPS: u32 = 60;

/// How late an alarm may be while nothing fails.
const PUNCTUAL_MS: i64 = 50;

/// How late it may be if its handler may have ended the process before: it is held back.
const SUSPECT_MS: i64 = 3 * SECOND;

/// How late it may be while the disk has failed lately: the vat tries again after a while.
const PATIENT_MS: i64 = 90 * SECOND;

/// A number generator that is the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// What is known of an object.
#[derive(Default)]
struct Known {
    /// The number that was last written for certain, or seen.
    number: u64,
    /// The highest that may have been.
    attempted: u64,
    /// By name: when the alarm is due that is set for certain, until it has run.
    alarms: HashMap<&'static str, i64>,
    /// Likewise, until another time is set, or none.
    owed: HashMap<&'static str, i64>,
}

impl Known {
    /// The alarm is set to that time for certain; `None`: nobody knows.
    fn set(&mut self, name: &'static str, due_ms: Option<i64>) {
        for alarms in [&mut self.alarms, &mut self.owed] {
            alarms.remove(name);
            alarms.extend(due_ms.map(|due_ms| (name, due_ms)));
        }
    }
}

/// One run of the simulation.
struct World {
    vat: TestVat,
    spring: Spring,
    random: Random,
    known: HashMap<&'static str, Known>,
    /// The number that is written next.
    next: u64,
    /// Since when the vat has been up.
    up_since_ms: i64,
    /// When the disk last failed, since then.
    failed_ms: Option<i64>,
    /// How often the vat has ended by a crash since it last ended in order.
    crashes: u32,
    /// Whether the disk ever fails.
    may_fail: bool,
    /// What handlers do: so many in a hundred fail.
    failing: Rc<Cell<u64>>,
}

type Checked = Result<(), String>;

impl World {
    async fn new(seed: u64, sabotage: Option<Sabotage>) -> World {
        let spring = Spring::default();
        let bound = on_this_thread(spring.clone());
        let vat = TestVat::start(move |server| {
            let server = server
                .class::<Puppet<Clockwork>>()
                .binding_with(bound.clone());
            match sabotage {
                Some(sabotage) => server.sabotage(sabotage),
                None => server,
            }
        })
        .await;
        let failing = Rc::new(Cell::new(25));
        let (chance, drawn) = (failing.clone(), RefCell::new(Random(!seed)));
        spring.on_alarm(move |ctx, alarm| {
            // Often enough to be tried again, and not so often as to be given up.
            let fails = drawn.borrow_mut().below(100) < chance.get() && alarm.retry_count < 3;
            let how = drawn.borrow_mut().below(4);
            async move {
                match how {
                    0 => ctx.sleep(Duration::from_millis(30)).await,
                    1 => tokio::task::yield_now().await,
                    _ => {}
                }
                match (fails, how) {
                    (false, _) => {
                        let done = format!("done {}", alarm.name);
                        Ok(ctx.storage().kv().put(&done, &alarm.scheduled_ms)?)
                    }
                    (true, 0) => panic!("told to"),
                    (true, 1) => {
                        ctx.abort("told to");
                        Ok(())
                    }
                    (true, _) => Err(Error::failed("told to".into())),
                }
            }
        });
        World {
            up_since_ms: vat.now_ms(),
            failed_ms: None,
            crashes: 0,
            may_fail: seed % 2 == 1,
            vat,
            spring,
            random: Random(seed),
            known: HashMap::new(),
            next: 0,
            failing,
        }
    }

    fn known(&mut self, object: &'static str) -> &mut Known {
        self.known.entry(object).or_default()
    }

    async fn step(&mut self) -> Checked {
        let object = self.random.pick(&OBJECTS);
        match self.random.below(100) {
            0..25 => self.write(object).await,
            25..35 => self.read(object).await,
            35..55 => self.set_alarm(object).await,
            55..60 => self.delete_alarm(object).await,
            60..66 => {
                self.vat.evict::<Client>(object).await;
                Ok(())
            }
            66..70 => {
                // Nothing is acknowledged that a crash could take back.
                self.vat.hold_commits();
                let number = self.number(object);
                let spring = self.spring.clone();
                let written = spring.act(&self.vat, object, move |ctx| async move {
                    Ok(ctx.storage().kv().put("number", &number)?)
                });
                let acknowledged = tokio::time::timeout(Duration::from_millis(20), written).await;
                if let Ok(Ok(())) = acknowledged {
                    self.known(object).number = number;
                }
                match self.random.below(2) {
                    0 => self.vat.release_commits(),
                    _ => self.lose_vat().await,
                }
                Ok(())
            }
            70..76 if self.may_fail => {
                self.vat.fail_next_commit();
                let outcome = match self.random.below(3) {
                    0 => self.write(object).await,
                    1 => self.set_alarm(object).await,
                    _ => self.delete_alarm(object).await,
                };
                self.failed_ms = Some(self.vat.now_ms());
                outcome
            }
            76..80 if self.may_fail => self.meet_fault().await,
            76..82 => {
                self.lose_vat().await;
                Ok(())
            }
            82..85 => {
                self.vat.restart().await;
                self.is_up();
                self.crashes = 0;
                Ok(())
            }
            _ => {
                let most = 1 << self.random.below(16);
                let ms = self.random.below(most);
                self.vat.advance(Duration::from_millis(ms)).await;
                Ok(())
            }
        }?;
        self.check_runs()
    }

    /// The disk fails for some steps, everywhere or at one kind of file.
    async fn meet_fault(&mut self) -> Checked {
        let fault = fault(&mut self.random);
        self.vat.disk().fail(fault);
        for _ in 0..1 + self.random.below(4) {
            let object = self.random.pick(&OBJECTS);
            let outcome = match self.random.below(8) {
                0..3 => self.write(object).await,
                3 => self.set_alarm(object).await,
                4 => self.delete_alarm(object).await,
                5 => self.read(object).await,
                6 => {
                    self.vat.evict::<Client>(object).await;
                    Ok(())
                }
                _ => {
                    let ms = self.random.below(300);
                    self.vat.advance(Duration::from_millis(ms)).await;
                    Ok(())
                }
            };
            outcome?;
        }
        self.vat.disk().heal();
        self.failed_ms = Some(self.vat.now_ms());
        Ok(())
    }

    async fn lose_vat(&mut self) {
        let seeded = Survival::Seeded(self.random.below(u64::MAX));
        let survival = [Survival::Nothing, Survival::Everything, seeded, seeded];
        match self.random.below(5) {
            0 => self.vat.crash().await,
            n => self.vat.lose_power(survival[n as usize - 1]).await,
        }
        self.is_up();
        self.crashes += 1;
    }

    /// The vat has been started.
    fn is_up(&mut self) {
        self.up_since_ms = self.vat.now_ms();
        self.failed_ms = None;
    }

    /// A number that is higher than all before.
    fn number(&mut self, object: &'static str) -> u64 {
        self.next += 1;
        let next = self.next;
        self.known(object).attempted = next;
        next
    }

    async fn write(&mut self, object: &'static str) -> Checked {
        let number = self.number(object);
        let spring = self.spring.clone();
        let written = spring.act(&self.vat, object, move |ctx| async move {
            Ok(ctx.storage().kv().put("number", &number)?)
        });
        if written.await.is_ok() {
            self.known(object).number = number;
        }
        Ok(())
    }

    async fn read(&mut self, object: &'static str) -> Checked {
        let spring = self.spring.clone();
        let read = spring.act(&self.vat, object, |ctx| async move {
            Ok(ctx.storage().kv().get::<u64>("number")?.unwrap_or(0))
        });
        let Ok(number) = read.await else {
            return Ok(());
        };
        let known = self.known(object);
        if number < known.number || number > known.attempted {
            return Err(format!(
                "{object} has {number}, and {} was acknowledged",
                known.number
            ));
        }
        // Who has been told of it may rely on it.
        known.number = number;
        Ok(())
    }

    async fn set_alarm(&mut self, object: &'static str) -> Checked {
        let name = self.random.pick(&ALARMS);
        let after = 1 + self.random.below(20 * SECOND as u64) as i64;
        let due_ms = self.vat.now_ms() + after;
        self.known(object).set(name, None);
        let spring = self.spring.clone();
        let set = spring.act(&self.vat, object, move |ctx| async move {
            Ok(ctx.alarms()?.set_named(name, &Alarm::at(due_ms))?)
        });
        if set.await.is_ok() {
            self.known(object).set(name, Some(due_ms));
        }
        Ok(())
    }

    async fn delete_alarm(&mut self, object: &'static str) -> Checked {
        let name = self.random.pick(&ALARMS);
        let Known { alarms, owed, .. } = self.known(object);
        let was = (alarms.get(name).copied(), owed.get(name).copied());
        self.known(object).set(name, None);
        let spring = self.spring.clone();
        let deleted = spring.act(&self.vat, object, move |ctx| async move {
            Ok(ctx.alarms()?.delete_named(name)?)
        });
        // What has failed for certain has changed nothing.
        if let Err(error) = deleted.await
            && error.extra.contains("storage-failed")
        {
            let known = self.known(object);
            known.alarms.extend(was.0.map(|due_ms| (name, due_ms)));
            known.owed.extend(was.1.map(|due_ms| (name, due_ms)));
        }
        Ok(())
    }

    /// Every alarm that has run did so in time, and none is missing.
    fn check_runs(&mut self) -> Checked {
        let (now_ms, up_since_ms) = (self.vat.now_ms(), self.up_since_ms);
        let allowed = match self.failed_ms {
            Some(failed_ms) if now_ms - failed_ms < 2 * PATIENT_MS => PATIENT_MS,
            // The first crash makes suspects, and the next finds that they were about to run.
            _ if self.crashes > 1 => SUSPECT_MS,
            _ => PUNCTUAL_MS,
        };
        for ran in self.spring.ran() {
            let due_ms = ran.alarm.scheduled_ms;
            if ran.at_ms < due_ms {
                return Err(format!("{ran:?} came too early"));
            }
            let object = OBJECTS.into_iter().find(|object| *object == ran.object);
            let known = self.known(object.ok_or("an object that nobody called")?);
            let alarm = known
                .alarms
                .iter()
                .find(|(name, set)| **name == ran.alarm.name && **set == due_ms);
            if let Some((name, _)) = alarm {
                let name = *name;
                known.alarms.remove(name);
                if ran.at_ms > due_ms.max(up_since_ms) + allowed {
                    return Err(format!("{ran:?} came too late"));
                }
            }
        }
        for (object, known) in &self.known {
            for (name, due_ms) in &known.alarms {
                if now_ms > (*due_ms).max(up_since_ms) + allowed {
                    return Err(format!(
                        "{object}: the alarm `{name}` has not run, {} ms after its time",
                        now_ms - due_ms
                    ));
                }
            }
        }
        match self.spring.most_instances() {
            0 | 1 => Ok(()),
            many => Err(format!("an object had {many} instances at a time")),
        }
    }

    /// When nothing happens any more everything is as it should be.
    async fn end(&mut self) -> Checked {
        self.failing.set(0);
        for _ in 0..10 {
            self.vat.advance(Duration::from_secs(60)).await;
            self.check_runs()?;
        }
        for object in OBJECTS {
            self.read(object).await?;
            let owed = self.known(object).owed.clone();
            for (name, due_ms) in owed {
                let spring = self.spring.clone();
                let done = spring.act(&self.vat, object, move |ctx| async move {
                    Ok(ctx.storage().kv().get::<i64>(&format!("done {name}"))?)
                });
                let done = done.await.map_err(|error| error.to_string())?;
                if done != Some(due_ms) {
                    return Err(format!(
                        "{object}: the alarm `{name}` is not done: {due_ms}, {done:?}"
                    ));
                }
            }
            let left = self.vat.next_alarm::<Client>(object);
            if let Some(due_ms) = left {
                return Err(format!("{object} is still looked at, at {due_ms}"));
            }
        }
        Ok(())
    }
}

/// A way in which the disk fails: with one error, at all files or some, always or a few times.
fn fault(random: &mut Random) -> Fault {
    let fault = match random.below(3) {
        0 => Fault::no_space(),
        _ => Fault::io_error(),
    };
    let place = random.pick(&["", "journal", "journal", "objects", "catalog", ".sqlite"]);
    let only = random.pick(&[None, Some(Operation::Write), Some(Operation::Sync)]);
    let fault = fault.when(move |path, operation| {
        let is_meant = only.map_or(operation.is_change(), |only| only == operation);
        is_meant && path.to_string_lossy().contains(place)
    });
    let seeded = Survival::Seeded(random.below(u64::MAX));
    let fault = fault.leaving(random.pick(&[Survival::Nothing, Survival::Everything, seeded]));
    let fault = match random.below(2) {
        0 => fault.evicting(),
        _ => fault,
    };
    match random.below(4) {
        0 => fault,
        times => fault.times(times),
    }
}

fn simulate(seed: u64, sabotage: Option<Sabotage>) -> Checked {
    run(async move {
        let mut world = World::new(seed, sabotage).await;
        for _ in 0..STEPS {
            world.step().await?;
        }
        world.end().await
    })
}

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}: a number")))
}

#[test]
fn whatever_comes_alarms_run_and_what_was_acknowledged_is_there() {
    let seeds = match setting("VATWERK_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("VATWERK_SEEDS").unwrap_or(100),
    };
    for seed in seeds {
        if let Err(problem) = simulate(seed, None) {
            panic!("VATWERK_SEED={seed}: {problem}");
        }
    }
}

/// A vat that is wrong in this way is found out before long.
#[track_caller]
fn is_found_out(sabotage: Sabotage) {
    let found = (0..300).find_map(|seed| simulate(seed, Some(sabotage)).err());
    let found = found.unwrap_or_else(|| panic!("nobody noticed {sabotage:?}"));
    println!("{sabotage:?}: {found}");
}

#[test]
fn an_open_gate_is_found_out() {
    is_found_out(Sabotage::OpenGate);
}

#[test]
fn an_index_that_is_told_late_is_found_out() {
    is_found_out(Sabotage::IndexAlarmsLate);
}

#[test]
fn a_scheduler_that_sleeps_is_found_out() {
    is_found_out(Sabotage::LetSchedulerSleep);
}

#[test]
fn an_alarm_that_is_cleared_before_its_run_is_found_out() {
    is_found_out(Sabotage::ClearAlarmBeforeRun);
}

#[test]
fn notes_of_commits_that_have_not_happened_are_found_out() {
    is_found_out(Sabotage::NoteVoidCommits);
}

#[test]
fn a_second_instance_is_found_out() {
    is_found_out(Sabotage::WakeBeforeAsleep);
}
