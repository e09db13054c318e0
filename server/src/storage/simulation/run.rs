//! One run: several lives of a vat on one disk, each ended by a crash or a clean stop.

use std::collections::BTreeMap;

use vatwerk::ObjectId;

use super::{
    disturb,
    failure::{Check, Failure},
    model::{self, History},
    object::{Object, Step, Trouble},
    plain,
    random::Random,
    vat::{self, Vat},
};
use crate::{
    env::sim::{Operation, SimDisk, Survival},
    folder::DatabaseId,
    journal::{self, Driver, testing::Sabotage},
};

const STEPS: [(u64, Step); 15] = [
    (40, Step::Turn),
    (4, Step::TurnUndone),
    (4, Step::ClosureUndone),
    (4, Step::LargeTurn),
    (2, Step::LargeTurnUndone),
    (2, Step::LargeClosureUndone),
    (4, Step::DeleteAll),
    (2, Step::DeleteAllUndone),
    (4, Step::GiveBack),
    (5, Step::BeginHeld),
    (4, Step::WriteBack),
    (4, Step::Read),
    (10, Step::Close),
    (3, Step::Delete),
    (1, Step::DeleteHalf),
];

/// What kind of runs there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Whether operations of the disk fail, too.
    pub faults: bool,
    /// Whether the seed decides which of vat, writer and retirer takes the next step; else the writer has done
    /// everything when a commit returns.
    pub stepped: bool,
    /// What is wrong with the journal.
    pub sabotage: Option<Sabotage>,
}

/// What runs have met.
#[derive(Debug, Default)]
pub struct Met {
    /// How often a crash came at an operation of this kind, while a vat lived.
    pub living: BTreeMap<String, u64>,
    /// Likewise, while a vat recovered.
    pub recovering: BTreeMap<String, u64>,
    pub clean_stops: u64,
    pub steps: u64,
    pub refusals: u64,
    /// Whether to tell what happens.
    pub is_told: bool,
    /// What has happened, if that is to be kept.
    pub trace: Option<Vec<String>>,
}

impl Met {
    fn say(&mut self, text: impl FnOnce() -> String) {
        if !self.is_told && self.trace.is_none() {
            return;
        }
        let text = text();
        if self.is_told {
            println!("{text}");
        }
        if let Some(trace) = &mut self.trace {
            trace.push(text);
        }
    }

    fn crash(kinds: &mut BTreeMap<String, u64>, kind: Option<Operation>) {
        let kind = kind.map_or("between".into(), |kind| format!("{kind:?}"));
        *kinds.entry(kind).or_default() += 1;
    }
}

struct Run<'a> {
    random: Random,
    options: Options,
    settings: journal::Settings,
    disk: SimDisk,
    objects: Vec<Object>,
    /// How many operations the recovery takes that comes next, if it is not interrupted.
    recovery_operations: u64,
    met: &'a mut Met,
}

/// How a life ended.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Stopped,
    Crashed,
}

/// Does the run of a seed.
pub fn run(seed: u64, options: Options, met: &mut Met) -> Result<(), Failure> {
    let mut random = Random::new(seed);
    let segment = random.pick(&[16 << 10, 16 << 10, 32 << 10, 64 << 10, 256 << 10]);
    let mut settings = vat::settings(segment);
    if options.stepped {
        settings.driver = Driver::Stepped;
    }
    let objects = if random.percent(10) {
        9
    } else {
        random.among(2..7)
    };
    let ids = (0..objects).map(|n| DatabaseId {
        class: 1 + n % 2,
        object: ObjectId([n as u8; ObjectId::LEN]),
    });
    let mut run = Run {
        random,
        options,
        settings,
        disk: vat::new_disk(),
        objects: ids.chain([DatabaseId::CATALOG]).map(Object::new).collect(),
        recovery_operations: 0,
        met,
    };
    run.all_lives()
}

impl Run<'_> {
    fn all_lives(&mut self) -> Result<(), Failure> {
        let lives = self.random.among(1..5);
        for _ in 0..lives {
            let vat = self.start()?;
            self.compare(&vat)?;
            if self.live(&vat)? == End::Crashed {
                drop(vat);
                Met::crash(&mut self.met.living, self.disk.crashed_in());
                self.lose_power();
            }
        }
        let vat = self.start()?;
        self.compare(&vat)?;
        self.stop(&vat)?;
        plain::check(&self.disk, &self.objects)
    }

    fn lose_power(&mut self) {
        self.objects.iter_mut().for_each(Object::abandon);
        let seeded = Survival::Seeded(self.random.next());
        let survival = self
            .random
            .pick(&[Survival::Nothing, Survival::Everything, seeded, seeded]);
        self.met.say(|| {
            format!(
                "crash in {:?}, {survival:?} survives",
                self.disk.crashed_in()
            )
        });
        let crashed = self.disk.clone();
        let found = || {
            let disk = crashed.after_crash(survival);
            disk.set_capacity(None);
            disk
        };
        // Once to see how long it takes, so that a crash may come at any point of it.
        let trial = found();
        let _ = Vat::start_wrong(&trial, &self.settings, self.options.sabotage);
        self.recovery_operations = trial.operations();
        self.disk = found();
    }

    /// Recovers, after crashes on the way perhaps.
    fn start(&mut self) -> Result<Vat, Failure> {
        let mut crashes = self.random.pick(&[0, 0, 1, 1, 2, 4]);
        loop {
            let at = 1 + self.random.below(self.recovery_operations + 1);
            let at = self.disk.operations() + at;
            self.disk.crash_at(if crashes > 0 { at } else { u64::MAX });
            let started = Vat::start_wrong(&self.disk, &self.settings, self.options.sabotage);
            if self.disk.has_crashed() {
                Met::crash(&mut self.met.recovering, self.disk.crashed_in());
                self.lose_power();
                crashes -= 1;
                continue;
            }
            self.disk.crash_at(u64::MAX);
            self.met
                .say(|| format!("start, {} operations", self.disk.operations()));
            return started.map_err(|error| Failure::new(Check::Recovery, error.to_string()));
        }
    }

    /// Looks at what a start has found.
    fn compare(&mut self, vat: &Vat) -> Result<(), Failure> {
        let mut found = Vec::new();
        for object in &mut self.objects {
            let state = object
                .find(vat)
                .map_err(|trouble| trouble.into_failure().about(object.id))?;
            found.push(state);
        }
        let histories: Vec<&History> = self.objects.iter().map(|object| &object.history).collect();
        model::judge(&histories, &found)?;
        for (object, state) in self.objects.iter_mut().zip(found) {
            object.restart(state);
        }
        Ok(())
    }

    fn live(&mut self, vat: &Vat) -> Result<End, Failure> {
        let longest = self.random.pick(&[10, 40, 150]);
        let crash_at = self.disk.operations() + self.random.among(1..longest);
        self.disk.crash_at(crash_at);
        let steps = self.random.among(2..90);
        for _ in 0..steps {
            self.met.steps += 1;
            disturb::disturb(&mut self.random, vat, self.options.faults);
            if self.options.stepped {
                disturb::step_journal(&mut self.random, vat);
            }
            self.observe(vat);
            let is_behind = self.options.stepped && vat.journal().is_behind();
            let step = self.random.weighted(&STEPS);
            let chosen = self.random.below(self.objects.len() as u64) as usize;
            let object = &mut self.objects[chosen];
            let done = object.step(&mut self.random, vat, step);
            let excused = disturb::excuses(vat) || object.has_seen_faults || is_behind;
            self.met.say(|| {
                let done = match &done {
                    Ok(()) => "done".into(),
                    Err(trouble) => format!("{trouble}"),
                };
                let (at, newest) = (self.disk.operations(), object.history.position());
                let world = match (
                    vat.is_held.get(),
                    vat.is_faulty.get(),
                    vat.journal().is_down(),
                ) {
                    (false, false, false) => String::new(),
                    (held, faulty, down) => format!(", held {held} faulty {faulty} down {down}"),
                };
                format!("  {chosen} {step:?}: {done}, at operation {at}, {newest}{world}")
            });
            match done {
                _ if self.disk.has_crashed() => return Ok(End::Crashed),
                Ok(()) => {}
                Err(Trouble::Refused(_)) if excused => {
                    self.met.refusals += 1;
                    object.abandon();
                    vat.release();
                }
                Err(trouble) => return Err(trouble.into_failure()),
            }
            self.observe(vat);
        }
        disturb::heal(vat);
        self.observe(vat);
        if self.random.percent(40) {
            return self.stop(vat);
        }
        Ok(End::Crashed)
    }

    fn observe(&mut self, vat: &Vat) {
        for object in &mut self.objects {
            object.observe(vat);
        }
    }

    fn stop(&mut self, vat: &Vat) -> Result<End, Failure> {
        vat.release();
        self.observe(vat);
        for object in &mut self.objects {
            let closed = object.close();
            match closed {
                _ if self.disk.has_crashed() => return Ok(End::Crashed),
                Ok(()) => {}
                Err(trouble) => return Err(trouble.into_failure()),
            }
        }
        let stopped = vat.journal().stop();
        match stopped {
            _ if self.disk.has_crashed() => return Ok(End::Crashed),
            Ok(()) => {}
            Err(error) => return Err(Failure::new(Check::Stop, error.to_string())),
        }
        if vat.journal().live_segments() > 0 {
            return Err(Failure::new(Check::Stop, "segments still count"));
        }
        self.met.clean_stops += 1;
        self.disk.crash_at(u64::MAX);
        Ok(End::Stopped)
    }
}
