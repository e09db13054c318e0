//! The life of one instance: the one state that says what an awake object may do, and the one place
//! that changes it.
//!
//! ```text
//!   Waking ──woken──► Awake
//!      │                │
//!      └──end──► Ending(why) ◄──end──┘        the first reason stands
//!   Deleting                                  a life of its own, without an instance
//! ```
//! A slot has one life after another; what belonged to an instance keeps that instance's life, so it
//! stays ended whatever the slot does next.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use super::slot::State;
use crate::{
    Error,
    metrics::{Eviction, Reset},
};

/// What an instance may do at the moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Stage {
    /// The database is being opened, or `MIGRATIONS`, `create` or `activate` run. No event begins.
    Waking,
    /// Events begin.
    Awake,
    /// No turn begins any more. What has been said before may still leave.
    Ending(Why),
    /// There is no instance, and the object's database is being deleted. No event begins.
    Deleting,
}

/// Why an instance ends.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Why {
    /// Nothing needs it.
    Asleep(Eviction),
    /// `create`, `activate` or a migration failed: events that waited for the object fail with this.
    NotWoken(Error),
    /// The instance failed, or an operator reset it.
    Reset(Reset, Error),
    /// The object is to be deleted.
    Deleted,
    /// The object has deleted itself, in its last turn.
    DeletedItself,
    /// The vat stops, and does not wait any longer.
    Stopping,
}

/// The life of one instance. Cheap to clone by its `Rc`.
pub(super) struct Life {
    stage: RefCell<Stage>,
    /// Waits for the end while the object wakes.
    waker: Cell<Option<Waker>>,
    /// How many [`KeepAwake`](super::awake::KeepAwake) there are of the instance.
    pub pins: Cell<usize>,
}

impl Life {
    /// The life of an instance that is about to wake.
    pub fn waking() -> Rc<Life> {
        Life::at(Stage::Waking)
    }

    /// The time of a deletion.
    pub fn deleting() -> Rc<Life> {
        Life::at(Stage::Deleting)
    }

    fn at(stage: Stage) -> Rc<Life> {
        Rc::new(Life {
            stage: RefCell::new(stage),
            waker: Cell::default(),
            pins: Cell::default(),
        })
    }

    /// Lets events begin, unless the instance is ending already.
    pub fn woken(&self) {
        let mut stage = self.stage.borrow_mut();
        if let Stage::Waking = *stage {
            *stage = Stage::Awake;
        }
    }

    /// Ends the instance after the turn at hand. The first reason stands; returns whether this is it.
    pub fn end(&self, why: Why) -> bool {
        let mut stage = self.stage.borrow_mut();
        if !matches!(*stage, Stage::Waking | Stage::Awake) {
            return false;
        }
        *stage = Stage::Ending(why);
        drop(stage);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        true
    }

    /// Why the instance is ending, if it is.
    pub fn ending(&self) -> Option<Why> {
        match &*self.stage.borrow() {
            Stage::Ending(why) => Some(why.clone()),
            _ => None,
        }
    }

    /// Whether turns may begin.
    pub fn is_over(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Ending(_) | Stage::Deleting)
    }

    /// Whether the object has deleted itself: what its last turn has answered leaves all the same.
    pub fn has_deleted_itself(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Ending(Why::DeletedItself))
    }

    /// The error of whatever still asks something of an instance that is ending.
    pub fn error(&self) -> Option<Error> {
        self.ending().map(|why| why.error())
    }

    /// Ready when the instance is ending. One task at a time may wait.
    pub fn poll_ended(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_over() {
            return Poll::Ready(());
        }
        self.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// The state as an operator sees it.
    pub fn state(&self) -> State {
        match &*self.stage.borrow() {
            Stage::Waking | Stage::Deleting => State::Waking,
            Stage::Awake | Stage::Ending(_) => State::Awake,
        }
    }
}

impl Why {
    /// The error of whatever still asks something of the instance.
    pub fn error(&self) -> Error {
        match self {
            Why::Asleep(_) => Error::ObjectReset("the object fell asleep".into()),
            Why::NotWoken(error) | Why::Reset(_, error) => error.clone(),
            Why::Deleted => Error::ObjectReset("the object was deleted".into()),
            Why::DeletedItself => Error::ObjectReset("the object deleted itself".into()),
            Why::Stopping => Error::ShuttingDown,
        }
    }

    /// Whether what the instance said before its end still leaves, once it is durable.
    pub fn lets_out(&self) -> bool {
        matches!(self, Why::Asleep(_) | Why::Reset(..))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Woken,
        End(Why),
        Next { deleted: bool },
    }

    fn why() -> impl Strategy<Value = Why> {
        let error = || Error::ObjectReset("x".into());
        prop_oneof![
            Just(Why::Asleep(Eviction::Idle)),
            Just(Why::NotWoken(error())),
            Just(Why::Reset(Reset::Panic, error())),
            Just(Why::Deleted),
            Just(Why::DeletedItself),
            Just(Why::Stopping),
        ]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            Just(Step::Woken),
            why().prop_map(Step::End),
            any::<bool>().prop_map(|deleted| Step::Next { deleted }),
        ];
        prop::collection::vec(step, 0..40)
    }

    proptest! {
        /// Whatever happens, in whatever order: an end is final, the first reason stands, and a life
        /// that follows does not revive an earlier one.
        #[test]
        fn an_end_is_final_and_its_first_reason_stands(steps in steps()) {
            let mut life = Life::waking();
            let mut first: Option<Why> = None;
            let mut past: Vec<(Rc<Life>, Option<Why>)> = Vec::new();
            for step in steps {
                match step {
                    Step::Woken => life.woken(),
                    Step::End(why) => {
                        let deleting = matches!(*life.stage.borrow(), Stage::Deleting);
                        let took = life.end(why.clone());
                        prop_assert_eq!(took, first.is_none() && !deleting);
                        if took {
                            first = Some(why);
                        }
                    }
                    Step::Next { deleted } => {
                        let next = if deleted { Life::deleting() } else { Life::waking() };
                        past.push((std::mem::replace(&mut life, next), first.take()));
                    }
                }
                prop_assert_eq!(life.ending(), first.clone());
                prop_assert_eq!(life.error().is_some(), first.is_some());
                for (life, why) in &past {
                    prop_assert_eq!(life.ending(), why.clone());
                }
            }
        }
    }
}
