//! A capability that is not there yet: it keeps calls in order until it is.

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
};

use capnp::{Error, capability::Promise, private::capability::ClientHook};
use futures::channel::oneshot;
use vatwerk::Delivery;

use super::{Call, Hook, Target, reply::given_up, settled};
use crate::fault;

/// What will decide a promised capability. Dropped undecided, it fails it.
pub struct Resolver(Weak<Promised>);

struct Promised(RefCell<State>);

enum State {
    Waiting {
        calls: Vec<Call>,
        waiters: Vec<oneshot::Sender<()>>,
    },
    Resolved(Box<dyn ClientHook>),
    Failed(Error),
}

/// A capability to call at once, and the resolver that will say what it is.
pub fn promised() -> (Box<dyn ClientHook>, Resolver) {
    let state = State::Waiting {
        calls: Vec::new(),
        waiters: Vec::new(),
    };
    let promised = Rc::new(Promised(RefCell::new(state)));
    let resolver = Resolver(Rc::downgrade(&promised));
    (Box::new(Hook(promised)), resolver)
}

/// The error of a call on a capability that never came to be: whatever became of the call that was to
/// return the capability, this one has not begun.
pub(super) fn never_begun(error: &Error) -> Error {
    fault::mark(error.clone(), Delivery::NotDelivered)
}

impl Resolver {
    /// Decides. Calls made so far are delivered in order before this returns.
    pub fn resolve(mut self, outcome: Result<Box<dyn ClientHook>, Error>) {
        self.decide(outcome);
    }

    fn decide(&mut self, outcome: Result<Box<dyn ClientHook>, Error>) {
        let Some(promised) = std::mem::take(&mut self.0).upgrade() else {
            return;
        };
        let outcome = outcome.map(settled).and_then(|target| {
            if target.get_ptr() == Rc::as_ptr(&promised) as usize {
                return Err(Error::failed(
                    "a promised capability resolved to itself".into(),
                ));
            }
            Ok(target)
        });
        let decided = match &outcome {
            Ok(target) => State::Resolved(target.add_ref()),
            Err(error) => State::Failed(error.clone()),
        };
        let State::Waiting { calls, waiters } = promised.0.replace(decided) else {
            return;
        };
        for call in calls {
            match &outcome {
                Ok(target) => call.forward_to(target.as_ref()),
                Err(error) => call.reply.finish(Err(never_begun(error))),
            }
        }
        for waiter in waiters {
            let _ = waiter.send(());
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.decide(Err(given_up()));
    }
}

impl Target for Promised {
    fn deliver(&self, call: Call) {
        let mut state = self.0.borrow_mut();
        match &mut *state {
            State::Waiting { calls, .. } => calls.push(call),
            State::Resolved(target) => {
                let target = target.add_ref();
                drop(state);
                call.forward_to(target.as_ref());
            }
            State::Failed(error) => {
                let error = never_begun(error);
                drop(state);
                call.reply.finish(Err(error));
            }
        }
    }

    fn resolved(&self) -> Option<Box<dyn ClientHook>> {
        match &*self.0.borrow() {
            State::Resolved(target) => Some(target.add_ref()),
            State::Failed(error) => Some(capnp_rpc::new_broken_cap(never_begun(error)).hook),
            State::Waiting { .. } => None,
        }
    }

    fn more_resolved(self: Rc<Self>) -> Option<Promise<Box<dyn ClientHook>, Error>> {
        let (tell, told) = oneshot::channel();
        if let State::Waiting { waiters, .. } = &mut *self.0.borrow_mut() {
            waiters.push(tell);
        }
        Some(Promise::from_future(async move {
            let _ = told.await;
            self.resolved()
                .ok_or_else(|| Error::failed("nothing decided the promise".into()))
        }))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::{super::testing::Recorder, *};

    #[tokio::test]
    async fn calls_keep_their_order_across_the_resolution() {
        let tasks = tokio::task::LocalSet::new();
        let _entered = tasks.enter();
        let recorder = Rc::new(Recorder::default());
        let (cap, resolver) = promised();
        for method in 0..3 {
            drop(cap.new_call(1, method, None).send());
        }
        resolver.resolve(Ok(Box::new(Hook(recorder.clone()))));
        drop(cap.new_call(1, 3, None).send());
        assert_eq!(*recorder.0.borrow(), [0, 1, 2, 3]);
    }

    #[test]
    fn a_promise_that_resolves_to_itself_fails() {
        let (cap, resolver) = promised();
        resolver.resolve(Ok(cap.add_ref()));
        let outcome = cap.new_call(1, 0, None).send().promise.now_or_never();
        assert!(outcome.expect("it is decided").is_err());
    }

    #[test]
    fn dropping_the_resolver_fails_what_waits() {
        let (cap, resolver) = promised();
        let sent = cap.new_call(1, 0, None).send();
        drop(resolver);
        let outcome = sent.promise.now_or_never().expect("it is decided");
        let error = outcome.err().expect("it fails");
        assert_eq!(error.kind, capnp::ErrorKind::Disconnected);
    }
}
