//! For tests: objects that are served wrong on purpose.

/// A way in which objects could be served wrong. With each of them the tests have to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Outcomes leave before what they could reveal is durable.
    OpenGate,
    /// Outputs that take this way leave before what they could reveal is durable.
    OpenGateFor(super::Way),
    /// Events are taken from the queue while the journal is behind, and wait beside it.
    BeginOutOfOrder,
    /// The catalog is told of an alarm some time after it is set, instead of before.
    IndexAlarmsLate,
    /// The scheduler is not told of an alarm that is set.
    LetSchedulerSleep,
    /// An alarm is gone before its handler has run.
    ClearAlarmBeforeRun,
    /// The catalog is told of an alarm that has not come to be deleted after all.
    NoteVoidCommits,
    /// An object that falls asleep makes room for the next instance before it is gone.
    WakeBeforeAsleep,
    /// The scheduler panics once, when an alarm is due.
    PanicInScheduler,
    /// What has an object look at its alarms panics once.
    PanicInLook,
    /// Removing the database of an object that failed to be made panics once.
    PanicInDiscard,
    /// An object is listed some time after it has come into being, instead of before.
    ListAfterBirth,
}

impl super::Host {
    /// From now on objects are served wrong in this way.
    pub fn sabotage(&self, sabotage: Sabotage) {
        self.sabotage.set(Some(sabotage));
    }

    /// Panics, once, if objects are served wrong in this way.
    pub(super) fn panic_once(&self, sabotage: Sabotage) {
        if self.is_sabotaged(sabotage) {
            self.sabotage.set(None);
            panic!("sabotage");
        }
    }

    pub(super) fn is_sabotaged(&self, sabotage: Sabotage) -> bool {
        self.sabotage.get() == Some(sabotage)
    }
}
