//! The output gate, and the sections that hold back other events.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    task::Waker,
};

use capnp::{
    Error,
    capability::{Promise, RemotePromise},
    private::capability::ClientHook,
};
use futures::channel::oneshot;

use super::{instance::Instance, membrane::InwardPipeline, results::Returning};
use crate::{
    call::{Message, PipelineResolver, settled},
    journal::{Commits, Lsn},
};

/// While a commit of the object, or the turn that is running, is not durable yet, whatever could
/// reveal it waits here, in order: results, errors, pipelined answers, calls to others.
///
/// A wait is for the newest commit at the time, so what only reads waits for the newest earlier
/// write too.
pub(super) struct OutputGate {
    commits: Commits,
    newest: Cell<Lsn>,
    waiting: RefCell<VecDeque<(Release, Output)>>,
    /// What waits, or for what, is not what [`OutputGate::opened`] saw.
    changed: tokio::sync::Notify,
}

/// When an output may leave.
enum Release {
    /// When the turn that made it has committed, and that is durable.
    ThisTurn,
    /// When this commit is durable.
    Durable(Lsn),
}

/// Something on its way out of an object.
pub(super) enum Output {
    /// A call is over.
    Return(Returning, Result<Option<Message>, Error>),
    /// A call is not over, but capabilities in its results may be called.
    Pipeline(Returning, Message),
    /// A call to somebody else.
    Send(Box<Outgoing>),
}

/// A call to somebody else, held back.
pub(super) struct Outgoing {
    pub target: Box<dyn ClientHook>,
    pub interface_id: u64,
    pub method_id: u16,
    pub params: Message,
    pub sent: Sent,
}

/// Who waits for the outcome of an [`Outgoing`] call.
pub(super) enum Sent {
    Call {
        promise:
            oneshot::Sender<Promise<capnp::capability::Response<capnp::any_pointer::Owned>, Error>>,
        pipeline: PipelineResolver,
        caller: Rc<Instance>,
    },
    Stream(oneshot::Sender<Promise<(), Error>>),
}

impl OutputGate {
    /// The gate of a new instance. An earlier one may have made commits that are not durable yet:
    /// `newest` is the last of them.
    pub fn new(commits: Commits, newest: Lsn) -> OutputGate {
        OutputGate {
            newest: Cell::new(newest),
            commits,
            waiting: RefCell::default(),
            changed: tokio::sync::Notify::new(),
        }
    }

    /// Whether something said now would leave at once. `dirty`: the turn has written.
    pub fn is_open(&self, dirty: bool) -> bool {
        !dirty
            && self.waiting.borrow().is_empty()
            && self.commits.is_durable(self.newest.get()) == Ok(true)
    }

    /// Lets `output` leave as soon as it may. `dirty`: the turn that makes it has written.
    pub fn pass(&self, dirty: bool, output: Output) {
        if self.is_open(dirty) {
            return output.release();
        }
        let release = match dirty {
            true => Release::ThisTurn,
            false => Release::Durable(self.newest.get()),
        };
        self.waiting.borrow_mut().push_back((release, output));
        self.changed.notify_one();
    }

    /// There is a commit at `lsn`: what the turn said may leave when that is durable.
    pub fn committed(&self, lsn: Lsn) {
        self.newest.set(lsn);
        self.settled();
    }

    /// The newest commit.
    pub fn newest(&self) -> Lsn {
        self.newest.get()
    }

    /// Nothing is left uncommitted of what the turn has written so far, if anything: what it said
    /// waits for the newest commit.
    pub fn settled(&self) {
        for (release, _) in self.waiting.borrow_mut().iter_mut() {
            if let Release::ThisTurn = release {
                *release = Release::Durable(self.newest.get());
                self.changed.notify_one();
            }
        }
    }

    /// The turn is undone: what it said must never leave.
    pub fn undone(&self) {
        let (said, kept) = self
            .waiting
            .take()
            .into_iter()
            .partition(|(release, _)| matches!(release, Release::ThisTurn));
        self.waiting.replace(kept);
        let said: VecDeque<_> = said;
        drop(said);
    }

    /// Waits until everything that was said before may leave, and lets it. `storage-failed` if some
    /// of it must not, because a commit has not happened.
    pub async fn flush(&self) -> Result<(), crate::Error> {
        let durable = self.commits.durable(self.newest.get()).await;
        self.release().and(durable)
    }

    /// Whether anything waits.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    /// Lets out what waits, as it may, for as long as it is polled. Returns when something must not
    /// leave because a commit has not happened.
    pub async fn drive(&self) -> crate::Error {
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
                Some((Release::Durable(lsn), _)) => Some(*lsn),
                _ => None,
            };
            let durable = async {
                match next {
                    // Whether it is, `release` looks.
                    Some(lsn) => _ = self.commits.durable(lsn).await,
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
    /// not happened: whoever was to be told of it is told that instead.
    pub fn release(&self) -> Result<(), crate::Error> {
        let mut failed = Ok(());
        loop {
            let mut waiting = self.waiting.borrow_mut();
            let durable = match waiting.front() {
                Some((Release::Durable(lsn), _)) => self.commits.is_durable(*lsn),
                _ => Ok(false),
            };
            if durable == Ok(false) {
                return failed;
            }
            let Some((_, output)) = waiting.pop_front() else {
                return failed;
            };
            drop(waiting);
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
        drop(self.waiting.take());
    }
}

impl Output {
    fn release(self) {
        match self {
            Output::Return(returning, outcome) => returning.finish(outcome),
            Output::Pipeline(returning, early) => returning.set_pipeline(early),
            Output::Send(outgoing) => outgoing.release(),
        }
    }

    /// It must never leave.
    fn fail(self, error: &crate::Error) {
        if let Output::Return(returning, _) = self {
            returning.finish(Err(error.clone().into()));
        }
    }
}

impl Outgoing {
    fn release(self) {
        let Outgoing {
            target,
            interface_id,
            method_id,
            params,
            sent,
        } = self;
        let target = settled(target);
        let request = params.reader().and_then(|params| {
            let size = params.target_size()?;
            let mut request = target.new_call(interface_id, method_id, Some(size));
            request.hook.get().set_as(params)?;
            Ok(request)
        });
        match (request, sent) {
            (
                Ok(request),
                Sent::Call {
                    promise: tell,
                    pipeline: resolver,
                    caller,
                },
            ) => {
                let RemotePromise { promise, pipeline } = request.hook.send();
                let pipeline = pipeline.hook;
                resolver.follow(Box::new(InwardPipeline {
                    instance: caller,
                    pipeline,
                }));
                let _ = tell.send(promise);
            }
            (Ok(request), Sent::Stream(tell)) => {
                let _ = tell.send(request.hook.send_streaming());
            }
            (Err(error), Sent::Call { promise, .. }) => {
                let _ = promise.send(Promise::err(error));
            }
            (Err(error), Sent::Stream(promise)) => {
                let _ = promise.send(Promise::err(error));
            }
        }
    }
}

/// Names one section of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SectionId(u64);

/// At most one section is open at a time; while it is, only events that belong to it proceed: new
/// ones are not delivered, and running ones are not polled.
#[derive(Default)]
pub(super) struct Sections {
    opened: Cell<u64>,
    open: Cell<Option<SectionId>>,
    held_back: RefCell<Vec<Waker>>,
}

impl Sections {
    /// Opens a section.
    pub fn open(&self) -> SectionId {
        debug_assert!(self.open.get().is_none(), "one section at a time");
        self.opened.set(self.opened.get() + 1);
        let section = SectionId(self.opened.get());
        self.open.set(Some(section));
        section
    }

    /// Ends a section; of one that has ended already, nothing.
    pub fn close(&self, section: SectionId) {
        if self.open.get() == Some(section) {
            self.open.set(None);
            self.held_back.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Whether an event of `section` may proceed.
    pub fn admits(&self, section: Option<SectionId>) -> bool {
        self.open.get().is_none() || self.open.get() == section
    }

    /// Wakes `waker` when the section that is open ends.
    pub fn wait(&self, waker: &Waker) {
        let mut held_back = self.held_back.borrow_mut();
        if !held_back.iter().any(|held| held.will_wake(waker)) {
            held_back.push(waker.clone());
        }
    }
}
