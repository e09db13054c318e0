//! A call on its way, and where its outcome goes.

use std::{
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll},
};

use capnp::{
    Error,
    capability::{Promise, RemotePromise, Response},
    private::capability::{ClientHook, ParamsHook, ResultsHook},
};
use futures::channel::oneshot;
use vatwerk::Delivery;

use super::{Chain, HangUp, Message, Pins, PipelineResolver, deferred, message::SharedResponse};
use crate::fault;

/// A call on its way to its target.
pub struct Call {
    /// The interface that declares the method.
    pub interface_id: u64,
    /// The method's ordinal.
    pub method_id: u16,
    /// The parameters.
    pub params: Box<dyn ParamsHook>,
    /// The chain of calls that it is part of; `None` for one from elsewhere.
    pub chain: Option<Chain>,
    /// Where the outcome goes.
    pub reply: Reply,
}

impl Call {
    /// The call that is being sent.
    pub fn sending(
        interface_id: u64,
        method_id: u16,
        params: Box<dyn ParamsHook>,
        reply: Reply,
    ) -> Call {
        Call {
            interface_id,
            method_id,
            params,
            chain: Chain::of_sending(),
            reply,
        }
    }

    /// Makes the call on any capability.
    pub fn forward_to(self, target: &dyn ClientHook) {
        let Call {
            interface_id,
            method_id,
            params,
            chain,
            reply,
        } = self;
        let sent = match params.get().and_then(|params| {
            let size = params.target_size()?;
            let mut request = target.new_call(interface_id, method_id, Some(size));
            request.hook.get().set_as(params)?;
            Ok(Chain::send(chain, || request.hook.send()))
        }) {
            Ok(sent) => sent,
            Err(error) => return reply.finish(Err(error)),
        };
        reply.follow(sent);
    }
}

/// Where the outcome of a call goes, and how the callee learns that its caller is gone.
pub struct Reply(To);

enum To {
    /// A caller that brought a place for the results, such as an RPC connection.
    Results {
        results: Box<dyn ResultsHook>,
        set: bool,
        done: oneshot::Sender<Result<(), Error>>,
        hang_up: Option<HangUp>,
    },
    /// A caller in this process: results are handed over, not copied.
    Local {
        done: oneshot::Sender<Result<Rc<Message>, Error>>,
        pipeline: Option<PipelineResolver>,
        set: Option<Rc<Message>>,
        hang_up: HangUp,
    },
}

impl Reply {
    /// A reply that is copied into `results`; the promise tells the caller when.
    pub fn to_results(results: Box<dyn ResultsHook>) -> (Reply, Promise<(), Error>) {
        let (done, told) = oneshot::channel();
        let promise = Promise::from_future(async move { told.await.unwrap_or_else(gone) });
        (
            Reply(To::Results {
                results,
                set: false,
                done,
                hang_up: None,
            }),
            promise,
        )
    }

    /// A reply to a caller in this process.
    pub fn local() -> (Reply, RemotePromise<capnp::any_pointer::Owned>) {
        let (done, told) = oneshot::channel();
        let hang_up = HangUp::default();
        let caller = hang_up.when_dropped();
        let (pipeline, resolver) = deferred(Some(caller.clone()));
        let promise = Promise::from_future(async move {
            let _caller = caller;
            Ok(Response::new(Box::new(SharedResponse(
                told.await.unwrap_or_else(gone)?,
            ))))
        });
        let pipeline = capnp::any_pointer::Pipeline::new(pipeline);
        (
            Reply(To::Local {
                done,
                pipeline: Some(resolver),
                set: None,
                hang_up,
            }),
            RemotePromise { promise, pipeline },
        )
    }

    /// Lets calls that were pipelined on the results go to the capabilities in `early`, before the
    /// call itself is over. The results are thereby fixed: later ones are not looked at.
    pub fn set_pipeline(&mut self, early: Message) {
        match &mut self.0 {
            To::Results { results, set, .. } => {
                if !*set && fill(results.as_mut(), &early).is_ok() {
                    *set = results.set_pipeline().is_ok();
                }
            }
            To::Local { pipeline, set, .. } => {
                if let Some(resolver) = pipeline.take() {
                    let early = Rc::new(early);
                    *set = Some(early.clone());
                    resolver.resolve(Ok(early));
                }
            }
        }
    }

    /// Adds a signal by which a connection tells that the caller has hung up.
    pub fn listen_for(&mut self, told: Option<HangUp>) {
        if let To::Results { hang_up, .. } = &mut self.0 {
            *hang_up = told;
        }
    }

    /// The pins of the connection that the call came by; `None` for a caller in this process.
    pub fn pins(&self) -> Option<&Rc<Pins>> {
        match &self.0 {
            To::Results { hang_up, .. } => hang_up.as_ref()?.pins(),
            To::Local { .. } => None,
        }
    }

    /// Ready when the caller has hung up: it waits for the outcome no longer, and holds no promise of a
    /// capability in it.
    pub fn poll_hung_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            To::Results { done, hang_up, .. } => match hang_up {
                Some(hang_up) if hang_up.poll(cx).is_ready() => Poll::Ready(()),
                _ => done.poll_canceled(cx),
            },
            To::Local { hang_up, .. } => hang_up.poll(cx),
        }
    }

    /// Ends the call. `None` stands for results that were never written.
    pub fn finish(self, outcome: Result<Option<Message>, Error>) {
        match self.0 {
            To::Results {
                mut results,
                set,
                done,
                ..
            } => {
                let outcome = outcome.and_then(|message| match message {
                    Some(message) if !set => fill(results.as_mut(), &message),
                    _ => Ok(()),
                });
                drop(results);
                let _ = done.send(outcome);
            }
            To::Local {
                done,
                pipeline,
                set,
                ..
            } => {
                let outcome = outcome.map(|message| match set {
                    Some(early) => early,
                    None => Rc::new(message.unwrap_or_else(|| Message::new(None))),
                });
                if let Some(pipeline) = pipeline {
                    pipeline.resolve(outcome.clone());
                }
                let _ = done.send(outcome);
            }
        }
    }

    /// Ends the call as `sent` will end, or lets go of it when the caller hangs up. For capabilities of
    /// `capnp-rpc`, which do nothing until somebody polls them, that takes a task.
    fn follow(self, sent: RemotePromise<capnp::any_pointer::Owned>) {
        let RemotePromise { promise, pipeline } = sent;
        let mut this = self;
        if let To::Local {
            pipeline: resolver, ..
        } = &mut this.0
            && let Some(resolver) = resolver.take()
        {
            resolver.follow(pipeline.hook.add_ref());
        }
        tokio::task::spawn_local(async move {
            // Who only pipelines on it has the pipeline.
            let _pipeline = pipeline;
            let outcome = tokio::select! {
                biased;
                outcome = promise => outcome,
                () = poll_fn(|cx| this.poll_hung_up(cx)) => return,
            };
            let outcome = outcome.and_then(|response| Message::copy_of(response.get()?));
            this.finish(outcome.map(Some));
        });
    }
}

fn fill(results: &mut dyn ResultsHook, message: &Message) -> Result<(), Error> {
    results.get()?.set_as(message.reader()?)
}

/// The error of a call whose callee let go of it without a word.
pub(super) fn given_up() -> Error {
    fault::mark(
        fault::disconnected("the call was given up"),
        Delivery::Unknown,
    )
}

fn gone<T>(_: oneshot::Canceled) -> Result<T, Error> {
    Err(given_up())
}
