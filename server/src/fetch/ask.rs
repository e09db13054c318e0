//! The side of who asks: `Stub.fetch`, from a request to its response.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use capnp::{
    capability::{FromClientHook, Promise},
    traits::HasTypeId,
};
use futures::{FutureExt, StreamExt, channel::oneshot, future::LocalBoxFuture};
use http::{Method, StatusCode};
use vatwerk::{
    http_capnp::{exchange, socket},
    object_capnp::stub,
};

use super::{
    Body, Frame, Frames, Incoming, Received, Request, Response, frames,
    head::{is_bodiless, read_headers, read_response, set_length, write_request},
    pour, send_frame, sink_within,
};
use crate::{
    Error,
    account::Account,
    call::{Call, Hook, Message, Target},
};

/// Has an object answer a request: returns when the head of the answer is there. The request's body is
/// sent meanwhile and for as long as the answer's body is read. Dropping the response, or this before
/// it is there, gives the exchange up, and ends what the object does for it; so does a body that breaks
/// off.
///
/// `unimplemented` if the class does not speak HTTP.
pub async fn ask(object: &stub::Client, request: Request) -> capnp::Result<Response> {
    ask_within(object, request, &Account::default()).await
}

/// Asks as [`ask`] does. What waits of the answer's body counts on `held`.
pub(crate) async fn ask_within(
    object: &stub::Client,
    request: Request,
    held: &Account,
) -> capnp::Result<Response> {
    let (head, body) = request.into_parts();
    let (tell, told) = oneshot::channel();
    let exchange = Hook(Rc::new(Exchange {
        tell: RefCell::new(Some(tell)),
        held: held.clone(),
    }));
    let mut call = object.fetch_request();
    let mut params = call.get();
    let length = body.length();
    write_request(&head, length, params.reborrow().init_request());
    params.set_exchange(exchange::Client::new(Box::new(exchange)));
    let sent = call.send();
    let broken = Broken::default();
    let mut work = Work {
        upload: (length != Some(0)).then(|| {
            let body = broken.watch(body, length);
            pour(body, sent.pipeline.get_body()).boxed_local()
        }),
        broken: broken.clone(),
        call: Promise::from_future(sent.promise.map(|done| done.map(drop))),
        _pipeline: Box::new(sent.pipeline),
        done: None,
    };
    let mut told = told;
    let answer = poll_fn(|cx| {
        let ended = work.poll(cx);
        match told.poll_unpin(cx) {
            Poll::Ready(Ok(answer)) => Poll::Ready(answer),
            _ => match ended {
                Poll::Ready(Ok(())) => Poll::Ready(Err(unanswered())),
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            },
        }
    })
    .await?;
    Ok(match answer {
        Answer::Response(mut response, length, _)
            if is_bodiless(&head.method, response.status()) =>
        {
            if let Some(length) = length
                && head.method == Method::HEAD
            {
                set_length(response.status(), response.headers_mut(), length);
            }
            response
        }
        Answer::Response(response, length, incoming) => {
            response.map(|_| Body::stream(work.beside(incoming), length))
        }
        Answer::Socket(response, up, down) => {
            response.map(|_| Body::asked(ClientSocket { up, down, work }))
        }
    })
}

fn unanswered() -> capnp::Error {
    capnp::Error::failed("application-failed: the object did not answer the request".into())
}

/// Why the request's body broke off, if it did. The object learns it only here: the called object holds its
/// own end of the sink.
#[derive(Clone, Default)]
struct Broken(Rc<RefCell<Option<capnp::Error>>>);

impl Broken {
    /// A body that tells here if it breaks off.
    fn watch(&self, body: Body, length: Option<u64>) -> Body {
        let broken = self.0.clone();
        let pieces = body.into_pieces().inspect(move |piece| {
            if let Err(error) = piece {
                broken.replace(Some(error.clone()));
            }
        });
        Body::stream(pieces, length)
    }
}

/// What goes on while an answer is read.
struct Work {
    broken: Broken,
    upload: Option<LocalBoxFuture<'static, capnp::Result<()>>>,
    call: Promise<(), capnp::Error>,
    /// As long as it is there, the call goes on.
    _pipeline: Box<dyn std::any::Any>,
    done: Option<capnp::Result<()>>,
}

impl Work {
    /// Gets on with it. Ready when the call has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<capnp::Result<()>> {
        // Who does not want the rest of the body may answer all the same.
        if let Some(upload) = &mut self.upload
            && upload.poll_unpin(cx).is_ready()
        {
            self.upload = None;
        }
        if let Some(error) = self.broken.0.take() {
            self.done = Some(Err(error));
        }
        if self.done.is_none()
            && let Poll::Ready(done) = Pin::new(&mut self.call).poll(cx)
        {
            self.done = Some(done);
        }
        match &self.done {
            Some(done) => Poll::Ready(done.clone()),
            None => Poll::Pending,
        }
    }

    /// The answer's body, as long as which this goes on.
    fn beside(
        mut self,
        mut incoming: Incoming,
    ) -> impl futures::Stream<Item = capnp::Result<Bytes>> {
        futures::stream::poll_fn(move |cx| {
            let ended = self.poll(cx);
            match (incoming.poll_next_unpin(cx), ended) {
                // Why the call failed says more than that its body was broken off.
                (Poll::Ready(Some(Err(_))) | Poll::Pending, Poll::Ready(Err(error))) => {
                    Poll::Ready(Some(Err(error)))
                }
                (piece, _) => piece,
            }
        })
    }
}

enum Answer {
    Response(Response, Option<u64>, Incoming),
    Socket(Response, socket::Client, Frames),
}

type Tell = oneshot::Sender<capnp::Result<Answer>>;

/// Takes the answer.
struct Exchange {
    tell: RefCell<Option<Tell>>,
    held: Account,
}

impl Target for Exchange {
    fn deliver(&self, call: Call) {
        let Call {
            interface_id,
            method_id,
            params,
            reply,
            ..
        } = call;
        if interface_id != exchange::Client::TYPE_ID {
            let error = Error::Unimplemented("this is an Exchange".into());
            return reply.finish(Err(error.into()));
        }
        let Some(tell) = self.tell.take() else {
            let error = Error::InvalidArgument("the request has been answered already".into());
            return reply.finish(Err(error.into()));
        };
        let mut results = Message::new(None);
        let answer = params.get().and_then(|params| match method_id {
            0 => {
                let params: exchange::respond_params::Reader<'_> = params.get_as()?;
                let (response, length) = read_response(params.get_response()?)?;
                let (body, incoming) = sink_within(&self.held);
                let mut told: exchange::respond_results::Builder<'_> = results.root().init_as();
                told.set_body(body);
                Ok(Answer::Response(response, length, incoming))
            }
            1 => {
                let params: exchange::upgrade_params::Reader<'_> = params.get_as()?;
                let mut response = Response::default();
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                *response.headers_mut() = read_headers(params.get_headers()?)?;
                let (down, said) = frames();
                let mut told: exchange::upgrade_results::Builder<'_> = results.root().init_as();
                told.set_down(down);
                Ok(Answer::Socket(response, params.get_up()?, said))
            }
            _ => Err(Error::Unimplemented("an Exchange has no such method".into()).into()),
        });
        let outcome = answer.as_ref().map(|_| Some(results)).map_err(Clone::clone);
        // If nobody waits, the exchange has been given up.
        let _ = tell.send(answer);
        reply.finish(outcome);
    }
}

/// A WebSocket to an object, as who asked for it has it. Dropping it without a word is a connection
/// that is lost.
pub struct ClientSocket {
    /// Takes what is said to the object.
    pub up: socket::Client,
    /// What the object says.
    pub down: Frames,
    work: Work,
}

impl ClientSocket {
    /// Says something, and waits until the object has taken it in.
    pub async fn send(&self, frame: &Frame) -> capnp::Result<()> {
        send_frame(&self.up, frame).await
    }

    /// What the object says next. `None` after the end, and if the connection is lost before it.
    pub async fn next(&mut self) -> Option<Received> {
        let ClientSocket { down, work, .. } = self;
        poll_fn(|cx| {
            // Nothing of it has a say in what comes; but it has to go on.
            let _ = work.poll(cx);
            down.poll_next(cx)
        })
        .await
    }

    /// The two directions, and what keeps the socket open as long as it is there.
    pub fn split(self) -> (socket::Client, Frames, impl Sized) {
        let ClientSocket { up, down, work } = self;
        (up, down, work)
    }
}
