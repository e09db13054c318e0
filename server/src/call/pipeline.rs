//! Calling the results of a call that is not over yet.

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
};

use capnp::{
    Error,
    private::capability::{ClientHook, PipelineHook, PipelineOp},
};

use super::{
    Caller, Message, Resolver,
    promised::{never_begun, promised},
    reply::given_up,
};

/// What will say which results a pipeline leads to. Dropped undecided, it fails the pipeline.
pub struct PipelineResolver(Weak<RefCell<State>>);

struct Deferred {
    state: Rc<RefCell<State>>,
    /// Keeps the call going: a pipeline waits for it as its promise does.
    caller: Option<Rc<Caller>>,
}

enum State {
    /// Asked for so far, each once: two calls on the same one keep their order.
    Waiting(Vec<Asked>),
    Response(Rc<Message>),
    Elsewhere(Box<dyn PipelineHook>),
    Failed(Error),
}

/// A capability in results that are not there yet.
struct Asked {
    path: Vec<u16>,
    cap: Box<dyn ClientHook>,
    resolver: Resolver,
}

/// The pointers to follow.
fn path(ops: &[PipelineOp]) -> Vec<u16> {
    let field = |op: &PipelineOp| match op {
        PipelineOp::Noop => None,
        PipelineOp::GetPointerField(field) => Some(*field),
    };
    ops.iter().filter_map(field).collect()
}

/// A pipeline, and the resolver that will say where it leads. `caller` counts as waiting for as long as
/// the pipeline is held.
pub fn deferred(caller: Option<Rc<Caller>>) -> (Box<dyn PipelineHook>, PipelineResolver) {
    let state = Rc::new(RefCell::new(State::Waiting(Vec::new())));
    let resolver = PipelineResolver(Rc::downgrade(&state));
    (Box::new(Deferred { state, caller }), resolver)
}

impl PipelineResolver {
    /// The call returned these results, or this error.
    pub fn resolve(mut self, outcome: Result<Rc<Message>, Error>) {
        self.decide(match outcome {
            Ok(response) => State::Response(response),
            Err(error) => State::Failed(error),
        });
    }

    /// The call was handed on, and this is its pipeline there.
    pub fn follow(mut self, pipeline: Box<dyn PipelineHook>) {
        self.decide(State::Elsewhere(pipeline));
    }

    fn decide(&mut self, decided: State) {
        let Some(state) = std::mem::take(&mut self.0).upgrade() else {
            return;
        };
        let State::Waiting(waiting) = state.replace(decided) else {
            return;
        };
        for Asked { path, resolver, .. } in waiting {
            let ops: Vec<_> = path.into_iter().map(PipelineOp::GetPointerField).collect();
            let cap = state.borrow().pipelined_cap(&ops);
            if let Some(cap) = cap {
                resolver.resolve(Ok(cap));
            }
        }
    }
}

impl Drop for PipelineResolver {
    fn drop(&mut self) {
        self.decide(State::Failed(given_up()));
    }
}

impl State {
    /// The capability at `ops`, once it can be said.
    fn pipelined_cap(&self, ops: &[PipelineOp]) -> Option<Box<dyn ClientHook>> {
        let found = match self {
            State::Waiting(_) => return None,
            State::Elsewhere(pipeline) => Ok(pipeline.get_pipelined_cap(ops)),
            State::Response(response) => response
                .reader()
                .and_then(|reader| reader.get_pipelined_cap(ops)),
            State::Failed(error) => Err(never_begun(error)),
        };
        Some(found.unwrap_or_else(|error| capnp_rpc::new_broken_cap(error).hook))
    }
}

impl PipelineHook for Deferred {
    fn add_ref(&self) -> Box<dyn PipelineHook> {
        Box::new(Deferred {
            state: self.state.clone(),
            caller: self.caller.clone(),
        })
    }

    fn get_pipelined_cap(&self, ops: &[PipelineOp]) -> Box<dyn ClientHook> {
        if let Some(cap) = self.state.borrow().pipelined_cap(ops) {
            return cap;
        }
        let path = path(ops);
        let mut state = self.state.borrow_mut();
        let State::Waiting(waiting) = &mut *state else {
            unreachable!("what is decided has been asked already");
        };
        if let Some(asked) = waiting.iter().find(|asked| asked.path == path) {
            return asked.cap.add_ref();
        }
        let (cap, resolver) = promised();
        let again = cap.add_ref();
        waiting.push(Asked {
            path,
            cap,
            resolver,
        });
        again
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Hook, testing::Recorder},
        *,
    };

    #[tokio::test]
    async fn calls_on_what_was_asked_for_twice_keep_their_order() {
        let tasks = tokio::task::LocalSet::new();
        let _entered = tasks.enter();
        let recorder = Rc::new(Recorder::default());
        let (pipeline, resolver) = deferred(None);
        let ask = || pipeline.get_pipelined_cap(&[PipelineOp::Noop]);
        let caps = [ask(), ask()];
        for method in 0..4 {
            let cap = &caps[usize::from(method) % 2];
            drop(cap.new_call(1, method, None).send());
        }
        let mut results = Message::new(None);
        let cap = Box::new(Hook(recorder.clone()));
        results.root().set_as_capability(cap);
        resolver.resolve(Ok(Rc::new(results)));
        drop(ask().new_call(1, 4, None).send());
        assert_eq!(*recorder.0.borrow(), [0, 1, 2, 3, 4]);
    }
}
