//! How an object answers HTTP.

use std::{pin::Pin, rc::Rc, time::Duration};

use capnp::capability::FromClientHook;
use http::{HeaderMap, Method, StatusCode};
use vatwerk::{
    Code, Delivery, ObjectId,
    http_capnp::exchange,
    object_capnp::stub::{fetch_params, fetch_results},
};

use super::{
    class::{ClassEntry, Dispatch},
    event::What,
    flow::Flow,
    gate::{Output, Way},
    host::Host,
    instance::Instance,
    outgoing::Held,
    results::{Outcome, Returning},
    slot::shielded,
    sockets::{Acceptance, Offer, Socket},
};
use crate::{
    Error,
    call::{Call, Message, Reply},
    fault,
    fetch::{
        Body, Incoming, Response, Shown, pour, read_length, read_request, send_frame, sink,
        write_headers, write_response,
    },
};

/// A request to an object.
pub(super) struct Fetch {
    /// `Stub.fetch`.
    pub call: Call,
    /// The body that the caller writes to the sink it has been given.
    body: Incoming,
    /// How many bytes the body has, if the caller knows.
    length: Option<u64>,
}

/// The answer to a chunk of a request's body, on its way out.
struct Taken(Shown);

impl Output for Taken {
    const WAY: Way = Way::Body;

    fn release(self) {
        self.0.release();
    }

    /// Gives the body up: the writer is told so.
    fn fail(self, _: &Error) {}
}

impl Host {
    /// Brings a request to its object, waking it if need be. The caller may begin with the body.
    pub(super) fn fetch(
        self: &Rc<Self>,
        class: &Rc<ClassEntry>,
        id: ObjectId,
        name: Option<&Rc<str>>,
        call: Call,
    ) {
        let mut call = call;
        let taken = take_body(class, &mut call);
        let slot = taken.and_then(|taken| Ok((taken, self.slot(class, id, name)?)));
        match slot {
            Ok(((body, length), slot)) => {
                let chain = call.chain;
                let fetch = Fetch { call, body, length };
                slot.push(self, None, chain, What::Fetch(fetch));
            }
            Err(error) => {
                let code = Code::split(&error.extra).0.unwrap_or(Code::Internal);
                let metrics = self.metrics.class(class.name);
                metrics.call(Err(code), Duration::ZERO);
                call.reply
                    .finish(Err(fault::mark(error, Delivery::NotDelivered)));
            }
        }
    }
}

/// Gives the caller a sink for the request's body, and what it takes to the object.
fn take_body(class: &ClassEntry, call: &mut Call) -> capnp::Result<(Incoming, Option<u64>)> {
    if !class.fetch {
        let error = format!("class {} does not speak HTTP", class.name);
        return Err(Error::Unimplemented(error).into());
    }
    let params: fetch_params::Reader<'_> = call.params.get()?.get_as()?;
    let length = read_length(params.get_request()?.get_body_size()?)?;
    let (sink, incoming) = sink();
    let mut results = Message::new(None);
    let mut told: fetch_results::Builder<'_> = results.root().init_as();
    told.set_body(sink);
    call.reply.set_pipeline(results);
    Ok((incoming, length))
}

/// Has the object answer a request. What it does ends when the caller hangs up.
pub(super) async fn run(
    instance: &Rc<Instance>,
    object: &Rc<dyn Dispatch>,
    flow: Rc<Flow>,
    fetch: Fetch,
    returning: impl FnOnce(Reply) -> Returning,
) {
    let Fetch {
        call,
        mut body,
        length,
    } = fetch;
    let returning = returning(call.reply);
    // They hold the caller's exchange.
    let params = Held::new(instance.clone(), call.params);
    let outlet = instance.clone();
    body.answer_through(move |answer| outlet.say(Taken(answer)));
    let read = params.get().and_then(|params| {
        let params: fetch_params::Reader<'_> = params.get_as()?;
        Ok((
            read_request(params.get_request()?, Body::stream(body, length))?,
            params.get_exchange()?,
        ))
    });
    let (request, asker) = match read {
        Ok(read) => read,
        Err(error) => return returning.finish(Err(fault::mark(error, Delivery::NotDelivered))),
    };
    let asker = Held::new(instance.clone(), asker);
    let exchange = exchange::Client::new(instance.inward(asker.client.hook.add_ref()));
    let method = request.method().clone();
    let mut answered = Box::pin(async move {
        let response = object.fetch(request).await?;
        respond(exchange, &method, response).await
    });
    let code = Pin::new(&mut answered);
    let outcome = instance.run_for_caller(&flow, &returning, code).await;
    // What it holds on to may panic.
    shielded(&instance.slot, || drop(answered));
    match outcome {
        Ok(Ok(None)) => instance.say(Outcome(returning, Ok(None))),
        Ok(Ok(Some((headers, socket)))) => instance.say(Box::new(Acceptance {
            exchange: asker.into_inner(),
            headers,
            socket,
            asked: returning.hand_on(),
        })),
        Ok(Err(error)) => instance.say(Outcome(returning, Err(instance.leaving(error)))),
        // The instance is at its end.
        Err(error) => instance.gate.pass(
            false,
            Outcome(returning, Err(fault::outcome_unknown(error))),
        ),
    }
}

/// Gives the object's answer to the asker, but for a WebSocket that the object accepts: that is not the
/// object's to give.
async fn respond(
    exchange: exchange::Client,
    method: &Method,
    response: Response,
) -> capnp::Result<Option<(HeaderMap, Rc<Socket>)>> {
    let (head, mut body) = response.into_parts();
    if let Some(offer) = body.take_accepted() {
        let socket = offer
            .downcast::<Offer>()
            .ok()
            .and_then(|offer| offer.take());
        let socket = socket.ok_or(Error::Closed("the WebSocket has been accepted already"))?;
        return Ok(Some((head.headers, socket)));
    }
    if let Some(socket) = body.take_socket() {
        // Somebody else's: this object stays between the two.
        let (up, mut said, _open) = socket.split();
        let mut request = exchange.upgrade_request();
        let mut params = request.get();
        write_headers(&head.headers, |count| params.reborrow().init_headers(count));
        params.set_up(up);
        let down = request.send().promise.await?.get()?.get_down()?;
        while let Some(received) = said.next().await {
            send_frame(&down, &received.frame).await?;
        }
        return Ok(None);
    }
    let status = head.status;
    if !(200..600).contains(&status.as_u16()) {
        let error = format!("{} is no status for an answer", status.as_u16());
        return Err(Error::InvalidArgument(error).into());
    }
    let length = match (method, status) {
        (&Method::HEAD, _) => body.length(),
        (_, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) => Some(0),
        _ => body.length(),
    };
    let mut request = exchange.respond_request();
    let to = request.get().init_response();
    write_response(status, &head.headers, length, to);
    let sent = request.send();
    let has_body = method != Method::HEAD && length != Some(0);
    if has_body {
        pour(body, sent.pipeline.get_body()).await?;
    } else {
        sent.promise.await?;
    }
    Ok(None)
}
