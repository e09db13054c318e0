//! What one running event of an object carries from turn to turn, and how an event with a caller runs to
//! its end.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use futures::FutureExt;
use tokio::time::sleep;

use super::{event::What, instance::Instance, results::Returning, sections::SectionId};
use crate::{
    Error, Result,
    call::{Chain, Pins},
    fault,
    health::Runs,
    metrics::Cut,
};

/// The context of one event, which is set for each of its turns.
pub(super) struct Flow {
    /// The section that the event is in.
    pub section: RefCell<Option<SectionId>>,
    /// The chain that the calls of the event are part of.
    pub chain: Chain,
    /// What the turns of the event run, for those who watch the thread.
    pub runs: Runs,
    /// The pins of the connection that the event came by, on which what it hands out counts.
    pub pins: Option<Rc<Pins>>,
    /// Whether the event has had a turn.
    pub has_begun: Cell<bool>,
    /// Whether the caller has hung up.
    is_caller_gone: Cell<bool>,
    /// Code of the event that waits for the caller to hang up.
    waiting: RefCell<Vec<Waker>>,
}

impl Flow {
    /// The context of an event that is taken from the queue, and begins at once.
    pub fn new(section: Option<SectionId>, chain: Chain, what: &What) -> Rc<Flow> {
        Rc::new(Flow {
            section: RefCell::new(section),
            chain,
            runs: what.runs(),
            pins: what.pins().cloned(),
            has_begun: Cell::new(false),
            is_caller_gone: Cell::default(),
            waiting: RefCell::default(),
        })
    }

    /// The context of code that waits its turn from the start: background work, `create`, `activate`.
    pub fn begun(section: Option<SectionId>, chain: Chain, runs: Runs) -> Rc<Flow> {
        Rc::new(Flow {
            section: RefCell::new(section),
            chain,
            runs,
            pins: None,
            has_begun: Cell::new(true),
            is_caller_gone: Cell::default(),
            waiting: RefCell::default(),
        })
    }

    /// Ready when the caller of the event has hung up.
    pub fn poll_caller_gone(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_caller_gone.get() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    fn set_caller_gone(&self) {
        if !self.is_caller_gone.replace(true) {
            self.waiting.take().into_iter().for_each(Waker::wake);
        }
    }
}

impl Instance {
    /// Runs the code of an event that has a caller, in turns, until it is done. Where it waits outside of
    /// any section it is given up when its caller has hung up, unless its class finishes calls, and when
    /// its time is over. What its turns have written is kept.
    pub(super) async fn run_for_caller<T>(
        &self,
        flow: &Rc<Flow>,
        returning: &Returning,
        mut code: Pin<&mut impl Future<Output = capnp::Result<T>>>,
    ) -> Result<capnp::Result<T>> {
        let class = &self.slot.class;
        let limit = class.call_limit.unwrap_or(self.host.limits.call);
        let mut late = None;
        poll_fn(|cx| {
            let polled = self.poll_turn(flow, cx, |cx| code.as_mut().poll(cx));
            if polled.is_ready() {
                return polled;
            }
            if returning.poll_hung_up(cx).is_ready() {
                flow.set_caller_gone();
                if !class.finish_calls && !self.holds_others_back(flow) {
                    self.slot.metrics.cut(Cut::CallerGone);
                    return Poll::Ready(Ok(Err(fault::disconnected("the caller has hung up"))));
                }
            }
            if limit.is_zero() {
                return Poll::Pending;
            }
            let late = late.get_or_insert_with(|| Box::pin(sleep(limit)));
            if !late.is_elapsed() && late.poll_unpin(cx).is_pending() || self.holds_others_back(flow) {
                return Poll::Pending;
            }
            let (class, id) = (class.name, self.slot.id);
            tracing::warn!(class, %id, ?limit, "a call was given up: it took longer than limits.call_ms");
            self.slot.metrics.cut(Cut::Late);
            Poll::Ready(Ok(Err(Error::CallTimeout { limit }.into())))
        })
        .await
    }

    /// Whether everything else waits for this event, which is in a section: it is not left half done.
    fn holds_others_back(&self, flow: &Flow) -> bool {
        self.sections.depth(flow.section.borrow().as_ref()) > 0
    }
}
