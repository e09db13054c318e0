//! The output gate.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::Duration,
};

use tokio::time::{Instant, timeout, timeout_at};
use tracing::Span;

use super::host::Host;
use crate::{
    Error, Result,
    journal::{Commits, Lsn},
    metrics::ClassMetrics,
};

/// How long a commit may take to become durable. After that the object is reset: whether the commit
/// will ever be durable, nobody knows.
pub(super) const COMMIT_LIMIT: Duration = Duration::from_secs(30);

/// A way out of an object: ARCHITECTURE has a row for each, with the test that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The outcome of a call or a request.
    Return,
    /// Capabilities in the results of a call that is not over.
    Pipeline,
    /// A call to another party.
    Call,
    /// The end of a call, a promise or a capability of another party that the object lets go of.
    LetGo,
    /// The answer to a chunk of a request's body: that it was read, or that nobody reads it.
    Body,
    /// The end of a look at alarms.
    Alarms,
    /// A frame on a WebSocket.
    Frame,
    /// A WebSocket that is accepted.
    Accept,
    /// The answer to a message on a WebSocket.
    Heard,
    /// The text that the vat answers on WebSockets without the object.
    AutoResponse,
}

/// Something on its way out of an object.
pub(super) trait Output: 'static {
    /// The way that it takes.
    const WAY: Way;

    /// Lets it leave.
    fn release(self);

    /// Drops it: the commit that it waits for has not happened. Callers that wait for it are told.
    fn fail(self, error: &Error);
}

/// An [`Output`] of any kind.
trait AnyOutput {
    fn way(&self) -> Way;
    fn release(self: Box<Self>);
    fn fail(self: Box<Self>, error: &Error);
}

impl<O: Output> AnyOutput for O {
    fn way(&self) -> Way {
        O::WAY
    }

    fn release(self: Box<Self>) {
        Output::release(*self);
    }

    fn fail(self: Box<Self>, error: &Error) {
        Output::fail(*self, error);
    }
}

/// While a commit of the object, or the turn that is running, is not durable yet, whatever could
/// reveal it waits here, in order: results, errors, pipelined answers, calls to others.
///
/// A wait is for the newest commit at the time, so what only reads waits for the newest earlier
/// write too.
pub(super) struct OutputGate {
    commits: Commits,
    metrics: Rc<ClassMetrics>,
    /// Outputs that do not wait: the gate is wrong on purpose.
    #[cfg(any(test, feature = "testing"))]
    sabotage: Option<super::testing::Sabotage>,
    newest: Cell<Lsn>,
    /// The newest commit, which may be one that nothing waits for.
    latest: Cell<Lsn>,
    waiting: RefCell<VecDeque<Waiting>>,
    /// What waits, or for what, is not what [`OutputGate::opened`] saw.
    changed: tokio::sync::Notify,
    is_closed: Cell<bool>,
}

/// An output, and when it may leave.
struct Waiting {
    release: Release,
    since: Instant,
    /// What it is part of, for logs: a call.
    span: Span,
    output: Box<dyn AnyOutput>,
}

/// When an output may leave.
#[derive(Clone, Copy)]
enum Release {
    /// When the turn that made it has committed, and that is durable.
    ThisTurn,
    /// When this commit is durable.
    Durable(Lsn),
}

impl OutputGate {
    /// The gate of a new instance. An earlier one may have made commits that are not durable yet:
    /// `newest` is the last of them.
    pub fn new(host: &Host, metrics: Rc<ClassMetrics>, newest: Lsn) -> OutputGate {
        OutputGate {
            #[cfg(any(test, feature = "testing"))]
            sabotage: host.sabotage.get(),
            newest: Cell::new(newest),
            latest: Cell::new(newest),
            commits: host.commits.clone(),
            metrics,
            waiting: RefCell::default(),
            changed: tokio::sync::Notify::new(),
            is_closed: Cell::default(),
        }
    }

    /// Whether something said now would leave at once. `dirty`: the turn has written.
    pub fn is_open(&self, dirty: bool) -> bool {
        !dirty
            && self.waiting.borrow().is_empty()
            && self.commits.is_durable(self.newest.get()) == Ok(true)
    }

    /// Lets `output` leave as soon as it may. `dirty`: the turn that makes it has written.
    pub fn pass<O: Output>(&self, dirty: bool, output: O) {
        if self.is_open(dirty) || self.lets_through(O::WAY) {
            return output.release();
        }
        let release = if dirty {
            Release::ThisTurn
        } else {
            Release::Durable(self.newest.get())
        };
        self.waiting.borrow_mut().push_back(Waiting {
            release,
            since: Instant::now(),
            span: Span::current(),
            output: Box::new(output),
        });
        self.changed.notify_one();
    }

    #[cfg(any(test, feature = "testing"))]
    fn lets_through(&self, way: Way) -> bool {
        use super::testing::Sabotage;
        match self.sabotage {
            Some(Sabotage::OpenGate) => true,
            Some(Sabotage::OpenGateFor(open)) => open == way,
            _ => false,
        }
    }

    #[cfg(not(any(test, feature = "testing")))]
    fn lets_through(&self, _: Way) -> bool {
        false
    }

    /// There is a commit at `lsn`: what the turn said may leave when that is durable.
    pub fn committed(&self, lsn: Lsn) {
        self.newest.set(lsn);
        self.latest.set(lsn);
        self.turn_ended();
    }

    /// There is a commit at `lsn` that nothing waits for.
    pub fn committed_unconfirmed(&self, lsn: Lsn) {
        self.latest.set(lsn);
        self.turn_ended();
    }

    /// The newest commit.
    pub fn newest(&self) -> Lsn {
        self.latest.get()
    }

    /// Why the object cannot go on, if one of its commits has not happened.
    pub fn lost(&self) -> Option<Error> {
        self.commits.is_durable(self.newest()).err()
    }

    /// Whether nobody knows yet what becomes of a commit.
    pub fn is_undecided(&self) -> bool {
        self.commits.is_durable(self.newest()) == Ok(false)
    }

    /// Waits until that is known of every commit so far.
    pub async fn decided(&self) {
        // Whether it has happened, `lost` tells.
        let _ = self.commits.durable(self.newest()).await;
    }

    /// Waits until every commit so far is durable. `storage-failed` if one of them has not happened,
    /// `outcome-unknown` if that is not known or takes too long.
    pub async fn synced(&self) -> Result<()> {
        let durable = timeout(COMMIT_LIMIT, self.commits.durable(self.newest())).await;
        durable.unwrap_or_else(|_| Err(stuck()))
    }

    /// Nothing is left uncommitted of what the turn has written so far, if anything: what it said
    /// waits for the newest commit.
    pub fn turn_ended(&self) {
        for waiting in self.waiting.borrow_mut().iter_mut() {
            if let Release::ThisTurn = waiting.release {
                waiting.release = Release::Durable(self.newest.get());
                self.changed.notify_one();
            }
        }
    }

    /// The turn is undone: what it said must never leave. What it let go of is let go of all the same, when
    /// the commits before it are durable.
    pub fn undone(&self) {
        let newest = Release::Durable(self.newest.get());
        let is_said = |waiting: &Waiting| matches!(waiting.release, Release::ThisTurn);
        let (said, kept) = self
            .waiting
            .take()
            .into_iter()
            .map(|mut waiting| {
                if is_said(&waiting) && waiting.output.way() == Way::LetGo {
                    waiting.release = newest;
                }
                waiting
            })
            .partition(is_said);
        self.waiting.replace(kept);
        let said: VecDeque<_> = said;
        drop(said);
        self.changed.notify_one();
    }

    /// Lets something go of an instance that is ending: when the commits so far are durable, or with the
    /// instance.
    pub fn let_go(&self, output: impl Output) {
        if !self.is_closed.get() {
            self.pass(false, output);
        }
    }

    /// Waits until everything that was said before may leave, and lets it. `storage-failed` if some
    /// of it must not, because a commit has not happened.
    pub async fn flush(&self) -> Result<()> {
        let durable = self.commits.durable(self.newest.get()).await;
        self.release().and(durable)
    }

    /// Whether anything waits.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    /// Lets out what waits, as it may, for as long as it is polled. Returns when something must not
    /// leave because a commit has not happened.
    pub async fn drive(&self) -> Error {
        loop {
            self.opened().await;
            if let Err(error) = self.release() {
                return error;
            }
        }
    }

    /// Waits until [`OutputGate::release`] has something to do.
    pub async fn opened(&self) {
        loop {
            let next = match self.waiting.borrow().front() {
                Some(Waiting {
                    release: Release::Durable(lsn),
                    since,
                    ..
                }) => Some((*lsn, *since + COMMIT_LIMIT)),
                _ => None,
            };
            let durable = async {
                match next {
                    // Whether it is, `release` looks.
                    Some((lsn, at)) => _ = timeout_at(at, self.commits.durable(lsn)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = durable => return,
                () = self.changed.notified() => {}
            }
        }
    }

    /// Lets out whatever may leave by now. `storage-failed` if a commit that something waits for has
    /// not happened, `outcome-unknown` if that is not known or takes too long: whoever was to be told of
    /// it is told that instead.
    pub fn release(&self) -> Result<()> {
        let mut failed = Ok(());
        loop {
            let mut waiting = self.waiting.borrow_mut();
            let durable = match waiting.front() {
                Some(Waiting {
                    release: Release::Durable(lsn),
                    since,
                    ..
                }) => match self.commits.is_durable(*lsn) {
                    Ok(false) if since.elapsed() >= COMMIT_LIMIT => Err(stuck()),
                    durable => durable,
                },
                _ => Ok(false),
            };
            if durable == Ok(false) {
                return failed;
            }
            let Some(Waiting {
                output,
                since,
                span,
                ..
            }) = waiting.pop_front()
            else {
                return failed;
            };
            drop(waiting);
            let waited = since.elapsed();
            self.metrics.gate_waited(waited);
            span.in_scope(|| tracing::trace!(?waited, "passed the gate"));
            match durable {
                Ok(_) => output.release(),
                Err(error) => {
                    output.fail(&error);
                    failed = Err(error);
                }
            }
        }
    }

    /// The instance is gone: nothing that waits may leave any more.
    pub fn close(&self) {
        self.is_closed.set(true);
        drop(self.waiting.take());
    }
}

/// The error of whoever has waited for [`COMMIT_LIMIT`].
pub(super) fn stuck() -> Error {
    Error::OutcomeUnknown(format!(
        "a commit was not on disk after {} s, and may get there",
        COMMIT_LIMIT.as_secs()
    ))
}
