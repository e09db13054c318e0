//! One database of a run: whether it is open, what it should hold, and what can be done to it.

use std::{cell::RefCell, fmt, rc::Rc, time::Duration};

use super::{
    edit::{self, Target},
    failure::{Check, Failure},
    model::{History, State},
    random::Random,
    vat::Vat,
};
use crate::{
    Error, Result,
    folder::DatabaseId,
    journal::Lsn,
    storage::{Backing, HeldTransaction, Settings, Storage},
};

pub struct Object {
    pub id: DatabaseId,
    pub history: History,
    open: Option<Open>,
    /// Whether a commit did not happen that what is open has.
    is_stale: bool,
    /// Whether the disk has failed while it was open: then it may have to be opened anew.
    pub has_seen_faults: bool,
}

struct Open {
    held: Option<HeldTransaction>,
    storage: Storage,
    /// What whoever reads now finds.
    working: State,
    /// Commits that nobody returned.
    reported: Rc<RefCell<Vec<Lsn>>>,
}

impl Open {
    fn new(storage: Storage, working: State) -> Open {
        let reported: Rc<RefCell<Vec<Lsn>>> = Rc::default();
        let report = reported.clone();
        storage.on_commit(move |lsn| report.borrow_mut().push(lsn));
        Open {
            held: None,
            storage,
            working,
            reported,
        }
    }

    /// What SQLite thinks of it.
    fn check_integrity(&self) -> Result<(), Trouble> {
        let connection = self.storage.0.live()?;
        let _trusted = self.storage.0.gate.trust();
        let answer: rusqlite::Result<String> =
            connection.query_row("PRAGMA integrity_check", [], |row| row.get(0));
        match answer {
            Ok(answer) if answer == "ok" => Ok(()),
            Ok(answer) => Err(Failure::new(Check::Integrity, answer).into()),
            Err(error) => Err(Failure::new(Check::Integrity, error.to_string()).into()),
        }
    }
}

/// What can be done to a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Turn,
    TurnUndone,
    ClosureUndone,
    LargeTurn,
    LargeTurnUndone,
    LargeClosureUndone,
    DeleteAll,
    DeleteAllUndone,
    GiveBack,
    BeginHeld,
    WriteBack,
    Read,
    Close,
    Delete,
    DeleteHalf,
}

/// Small caches, so that a transaction of a few pages is written before it ends.
fn settings() -> Settings {
    Settings {
        cache_bytes: 16 << 10,
        statement_time_limit: Duration::from_secs(600),
        ..Settings::default()
    }
}

impl Object {
    pub fn new(id: DatabaseId) -> Object {
        Object {
            id,
            history: History::default(),
            open: None,
            is_stale: false,
            has_seen_faults: false,
        }
    }

    /// Drops what is open, as when its vat crashes.
    pub fn abandon(&mut self) {
        self.open = None;
        self.is_stale = false;
        self.has_seen_faults = false;
    }

    /// What a start has left of it.
    pub fn find(&mut self, vat: &Vat) -> Result<State, Trouble> {
        let storage = Storage::open(&vat.vfs, self.id, &settings())?;
        let found = edit::read(&Target::from(&storage));
        let open = Open::new(storage, State::default());
        open.check_integrity()?;
        open.storage.close()?;
        Ok(found?)
    }

    /// A new life starts from that.
    pub fn restart(&mut self, found: State) {
        self.history.restart(found);
    }

    /// Opens it if it is closed.
    pub fn open(&mut self, vat: &Vat) -> Result<(), Trouble> {
        if self.open.is_some() {
            return Ok(());
        }
        let storage = Storage::open(&vat.vfs, self.id, &settings())?;
        // Since it opens, the journal has said on the disk what did not happen.
        self.history.observe(vat.journal());
        self.open = Some(Open::new(storage, self.history.newest().clone()));
        self.read()
    }

    /// Asks what became of its commits.
    pub fn observe(&mut self, vat: &Vat) {
        self.has_seen_faults |= self.open.is_some() && vat.is_faulty.get();
        if self.history.observe(vat.journal()) {
            self.is_stale = self.open.is_some();
        }
    }

    /// What a failed commit has left in SQLite is of no use, and the journal must see to it that
    /// nothing is built on it.
    fn end_stale(&mut self, random: &mut Random) -> Result<(), Trouble> {
        let Some(open) = &self.open else {
            return Ok(());
        };
        if random.percent(50) && open.held.is_none() {
            open.storage.enter_turn();
            let edited = edit::edit(random, &Target::from(&open.storage), &mut State::default());
            if edited.is_ok() && matches!(open.storage.commit_turn(), Ok(Some(_))) {
                let text = "a commit follows one that did not happen";
                return Err(Failure::new(Check::NoCommit, text).into());
            }
        }
        self.abandon();
        Ok(())
    }

    /// Compares what is there with what should be.
    pub fn read(&self) -> Result<(), Trouble> {
        let Some(open) = &self.open else {
            return Ok(());
        };
        let found = edit::read(&Target::from(&open.storage))?;
        if found != open.working {
            let text = format!("{}: found {found:?}, wrote {:?}", self.id, open.working);
            return Err(Failure::new(Check::Reading, text).into());
        }
        Ok(())
    }

    /// Does one step; opens it first if need be.
    pub fn step(&mut self, random: &mut Random, vat: &Vat, step: Step) -> Result<(), Trouble> {
        if self.is_stale {
            self.end_stale(random)?;
        }
        self.open(vat)?;
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let storage = open.storage.clone();
        if let Some(held) = open.held.take() {
            return self.go_on(random, held);
        }
        let target = Target::from(&storage);
        match step {
            Step::Turn | Step::TurnUndone => {
                storage.enter_turn();
                let mut next = open.working.clone();
                for _ in 0..random.among(1..6) {
                    edit::edit(random, &target, &mut next)?;
                }
                self.end_turn(next, step == Step::Turn)
            }
            Step::LargeTurn | Step::LargeTurnUndone => {
                storage.enter_turn();
                let mut next = open.working.clone();
                let pages = random.among(4..50);
                edit::edit_much(random, &target, &mut next, pages)?;
                self.end_turn(next, step == Step::LargeTurn)
            }
            Step::ClosureUndone | Step::LargeClosureUndone => {
                storage.enter_turn();
                let mut next = open.working.clone();
                if random.percent(70) {
                    edit::edit(random, &target, &mut next)?;
                }
                let pages = if step == Step::ClosureUndone { 1 } else { 20 };
                let undone = storage.transaction(|_| {
                    let mut forgotten = next.clone();
                    edit::edit(random, &target, &mut forgotten)?;
                    edit::edit_much(random, &target, &mut forgotten, pages)?;
                    Err::<(), Undone>(Undone::OnPurpose)
                });
                if let Err(Undone::Because(error)) = undone {
                    return Err(error.into());
                }
                if random.percent(70) {
                    edit::edit(random, &target, &mut next)?;
                }
                self.end_turn(next, true)
            }
            Step::DeleteAll | Step::DeleteAllUndone => {
                storage.enter_turn();
                if random.percent(30) {
                    edit::edit(random, &target, &mut State::default())?;
                }
                storage.delete_all()?;
                let mut next = State::default();
                let pages = random.pick(&[0, 0, 1, 12, 40]);
                edit::edit_much(random, &target, &mut next, pages)?;
                self.end_turn(next, step == Step::DeleteAll)?;
                self.read()
            }
            Step::GiveBack => {
                storage.enter_turn();
                storage.give_back(random.pick(&[1, 5, 1000]), Duration::MAX)?;
                let next = open.working.clone();
                self.end_turn(next, random.percent(80))
            }
            Step::BeginHeld => {
                open.held = Some(storage.begin_held()?);
                Ok(())
            }
            Step::WriteBack => {
                let written = vat.journal().write_back();
                Ok(written.map_err(|error| Error::StorageFailed(error.to_string()))?)
            }
            Step::Read => self.read(),
            Step::Close => self.close(),
            Step::Delete | Step::DeleteHalf => self.delete(vat, step == Step::DeleteHalf),
        }
    }

    fn end_turn(&mut self, next: State, keep: bool) -> Result<(), Trouble> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        if !keep {
            open.storage.rollback_turn();
            return Ok(());
        }
        let lsn = open.storage.commit_turn()?;
        match lsn {
            Some(lsn) => self.history.commit(lsn, next.clone())?,
            None if next != open.working => {
                return Err(
                    Failure::new(Check::Reading, "a turn that wrote has no position").into(),
                );
            }
            None => {}
        }
        open.working = next;
        Ok(())
    }

    /// A held transaction is open: writes in it, or ends it.
    fn go_on(&mut self, random: &mut Random, held: HeldTransaction) -> Result<(), Trouble> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        if random.percent(60) {
            let target = Target {
                kv: held.kv(),
                sql: held.sql(),
            };
            let pages = random.pick(&[0, 0, 0, 12]);
            edit::edit(random, &target, &mut open.working)?;
            edit::edit_much(random, &target, &mut open.working, pages)?;
            open.held = Some(held);
            return Ok(());
        }
        if random.percent(30) {
            // By being dropped.
            drop(held);
            open.working = self.history.newest().clone();
            return self.read();
        }
        let committed = held.commit();
        if let Some(lsn) = open.reported.take().pop() {
            self.history.commit(lsn, open.working.clone())?;
        }
        Ok(committed?)
    }

    /// Puts it to sleep.
    pub fn close(&mut self) -> Result<(), Trouble> {
        self.is_stale = false;
        self.has_seen_faults = false;
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        drop(open.held);
        Ok(open.storage.close()?)
    }

    /// Ends it, as the vat does with an object that failed to be made. `half`: who wanted it gone does
    /// not wait until that is durable.
    fn delete(&mut self, vat: &Vat, half: bool) -> Result<(), Trouble> {
        self.close()?;
        let backing = Backing::open(&vat.vfs, self.id)?;
        if !backing.exists() {
            return Ok(());
        }
        let lsn = backing.delete(backing.failures())?;
        self.history.commit(lsn, State::default())?;
        if half {
            return Ok(());
        }
        vat.release();
        if vat.journal().is_durable(lsn)? {
            Ok(backing.forget(lsn)?)
        } else {
            Err(Failure::new(Check::Refused, "a commit is pending on a free disk").into())
        }
    }
}

/// Why a step did not do what it was to.
pub enum Trouble {
    /// Storage refused, as it does when the disk fails.
    Refused(Error),
    /// That must not be.
    Wrong(Failure),
}

impl Trouble {
    /// On a disk that works, nothing may be refused.
    pub fn into_failure(self) -> Failure {
        match self {
            Trouble::Refused(error) => Failure::new(Check::Refused, error.to_string()),
            Trouble::Wrong(failure) => failure,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Refused(error) => error.fmt(f),
            Trouble::Wrong(failure) => failure.fmt(f),
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Refused(error)
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble::Wrong(failure)
    }
}

/// Why a closure's transaction is undone.
enum Undone {
    OnPurpose,
    Because(Error),
}

impl From<Error> for Undone {
    fn from(error: Error) -> Undone {
        Undone::Because(error)
    }
}
