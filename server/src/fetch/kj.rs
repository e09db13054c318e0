//! HTTP as kj has it over Cap'n Proto: a stub answers `HttpService` too.
//!
//! A call of `HttpService.request` becomes one of `Stub.fetch`, with the same reply, so that the one
//! lasts as long as the other. They differ in how methods and header fields are written, which is
//! written anew, and in the ids of interfaces: bodies and messages pass as they are.

use std::rc::Rc;

use capnp::{
    Error as Exception, MessageSize, any_pointer,
    capability::{FromClientHook, Promise, Request},
    private::capability::{ClientHook, ParamsHook, ResultsHook},
    struct_list, text,
    traits::HasTypeId,
};
use http::{HeaderMap, Method};
use vatwerk::{
    Delivery,
    http_capnp::exchange,
    kj::http_capnp::{client_request_context, http_header, http_request, http_service, web_socket},
    object_capnp::stub,
};

use super::{
    FETCH,
    head::{
        collect_headers, drop_hop_by_hop, is_bodiless, read_headers, read_response, set_length,
        write_headers, write_length,
    },
};

use crate::{
    Error,
    call::{self, Call, Capability, Hook, Message, settled},
    fault,
};

/// The ordinal of `HttpService.request`.
const REQUEST: u16 = 1;

/// The methods, by their numbers.
const METHODS: [&str; 28] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "PURGE",
    "OPTIONS",
    "TRACE",
    "COPY",
    "LOCK",
    "MKCOL",
    "MOVE",
    "PROPFIND",
    "PROPPATCH",
    "SEARCH",
    "UNLOCK",
    "ACL",
    "REPORT",
    "MKACTIVITY",
    "CHECKOUT",
    "MERGE",
    "MSEARCH",
    "NOTIFY",
    "SUBSCRIBE",
    "UNSUBSCRIBE",
    "QUERY",
    "BAN",
];

/// The names of header fields that have a number, from 1 on.
const NAMES: [&str; 47] = [
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "accept",
    "access-control-allow-origin",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
];

/// The values of header fields that have a number, from 1 on.
const VALUES: [&str; 1] = ["gzip, deflate"];

/// The call of `Stub.fetch` that a call of `HttpService` stands for. If it stands for none, the caller
/// has been told.
pub fn as_fetch(call: Call) -> Option<Call> {
    let params = match call.method_id {
        REQUEST => call.params.get().and_then(fetch_params),
        _ => {
            let error = Error::Unimplemented("of HttpService there is only `request`".into());
            Err(error.into())
        }
    };
    match params {
        Ok(params) => Some(Call {
            interface_id: stub::Client::TYPE_ID,
            method_id: FETCH,
            params: Box::new(params),
            ..call
        }),
        Err(error) => {
            call.reply
                .finish(Err(fault::mark(error, Delivery::NotDelivered)));
            None
        }
    }
}

fn fetch_params(from: any_pointer::Reader<'_>) -> capnp::Result<Message> {
    let from: http_service::request_params::Reader<'_> = from.get_as()?;
    let request = from.get_request()?;
    let method = numbered("method", &METHODS, request.get_method().into())?;
    let mut headers = read_fields(request.get_headers()?)?;
    drop_hop_by_hop(&mut headers);
    let length = match request.get_body_size().which()? {
        http_request::body_size::Unknown(()) => None,
        http_request::body_size::Fixed(length) => Some(length),
    };
    let exchange = Exchange {
        method: method.parse().expect("a method of HTTP"),
        context: from.get_context().map(settled_client)?,
    };
    let mut message = Message::new(None);
    let mut params: stub::fetch_params::Builder<'_> = message.root().init_as();
    let mut to = params.reborrow().init_request();
    to.set_method(method);
    to.set_url(request.get_url()?);
    write_headers(&headers, |count| to.reborrow().init_headers(count));
    write_length(length, to.init_body_size());
    params.set_exchange(call::serve(exchange));
    Ok(message)
}

fn read_fields(from: struct_list::Reader<'_, http_header::Owned>) -> capnp::Result<HeaderMap> {
    collect_headers(from.iter().map(|field| {
        Ok(match field.which()? {
            http_header::Common(field) => {
                let number = usize::from(field.get_name()).wrapping_sub(1);
                let name = numbered("header field", &NAMES, number)?;
                let value = match field.which()? {
                    http_header::common::Value(value) => value?,
                    http_header::common::CommonValue(number) => {
                        let number = usize::from(number).wrapping_sub(1);
                        numbered("value of a header field", &VALUES, number)?.into()
                    }
                };
                (name.into(), value)
            }
            http_header::Uncommon(field) => {
                let field = field?;
                (field.get_name()?, field.get_value()?)
            }
        })
    }))
}

fn numbered(what: &str, words: &[&'static str], number: usize) -> Result<&'static str, Error> {
    let word = words.get(number).copied();
    word.ok_or_else(|| Error::InvalidArgument(format!("an unknown {what}")))
}

fn write_fields<'a>(
    headers: &HeaderMap,
    init: impl FnOnce(u32) -> struct_list::Builder<'a, http_header::Owned>,
) {
    let mut fields = init(headers.len() as u32);
    for (i, (name, value)) in headers.iter().enumerate() {
        let mut field = fields.reborrow().get(i as u32).init_uncommon();
        field.set_name(name.as_str());
        field.set_value(text::Reader(value.as_bytes()));
    }
}

/// Takes the answer to where kj wants it.
struct Exchange {
    method: Method,
    context: client_request_context::Client,
}

impl exchange::Server for Exchange {
    async fn respond(
        self: Rc<Self>,
        params: exchange::RespondParams,
        mut results: exchange::RespondResults,
    ) -> capnp::Result<()> {
        let (mut response, mut length) = read_response(params.get()?.get_response()?)?;
        if is_bodiless(&self.method, response.status()) {
            if let Some(length) = length
                && self.method == Method::HEAD
            {
                set_length(response.status(), response.headers_mut(), length);
            }
            length = Some(0);
        }
        let mut call = self.context.start_response_request();
        let mut to = call.get().init_response();
        to.set_status_code(response.status().as_u16());
        write_fields(response.headers(), |count| {
            to.reborrow().init_headers(count)
        });
        match length {
            None => to.init_body_size().set_unknown(()),
            Some(length) => to.init_body_size().set_fixed(length),
        }
        let answer = call.send().promise.await?;
        let answer = answer.get()?;
        if answer.has_body() {
            results.get().set_body(alias(answer.get_body()?));
        }
        Ok(())
    }

    async fn upgrade(
        self: Rc<Self>,
        params: exchange::UpgradeParams,
        mut results: exchange::UpgradeResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let mut call = self.context.start_web_socket_request();
        let headers = read_headers(params.get_headers()?)?;
        write_fields(&headers, |count| call.get().init_headers(count));
        let up: web_socket::Client = alias(params.get_up()?);
        call.get().set_up_socket(up);
        // As long as anything of this call is left here, kj keeps `up`, and nobody hears that the
        // connection is lost.
        let answer = call.send().promise.await?;
        results
            .get()
            .set_down(alias(answer.get()?.get_down_socket()?));
        Ok(())
    }
}

fn settled_client<T: FromClientHook>(cap: T) -> T {
    T::new(settled(cap.into_client_hook()))
}

/// A capability of kj as one of ours, or the other way round. Their first methods are the same.
fn alias<From: FromClientHook + HasTypeId, To: FromClientHook + HasTypeId>(cap: From) -> To {
    To::new(Box::new(Hook(Rc::new(Alias {
        cap: settled(cap.into_client_hook()),
        known_as: To::TYPE_ID,
        is: From::TYPE_ID,
    }))))
}

/// A capability under the id of another interface.
struct Alias {
    cap: Box<dyn ClientHook>,
    /// The id of the interface that callers ask for ...
    known_as: u64,
    /// ... and of the one that it has.
    is: u64,
}

impl Alias {
    fn interface(&self, id: u64) -> u64 {
        if id == self.known_as { self.is } else { id }
    }
}

impl Capability for Alias {
    fn request(
        self: &Rc<Self>,
        interface_id: u64,
        method_id: u16,
        size_hint: Option<MessageSize>,
    ) -> Request<any_pointer::Owned, any_pointer::Owned> {
        let interface_id = self.interface(interface_id);
        self.cap.new_call(interface_id, method_id, size_hint)
    }

    fn answer(
        self: &Rc<Self>,
        interface_id: u64,
        method_id: u16,
        params: Box<dyn ParamsHook>,
        results: Box<dyn ResultsHook>,
    ) -> Promise<(), Exception> {
        let interface_id = self.interface(interface_id);
        self.cap.call(interface_id, method_id, params, results)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use vatwerk::kj::http_capnp::byte_stream;

    use super::*;

    /// What an object is asked when kj asks this.
    fn asked(fill: impl FnOnce(http_request::Builder<'_>)) -> capnp::Result<Message> {
        struct Nobody;
        impl client_request_context::Server for Nobody {}
        let mut message = Message::new(None);
        let mut params: http_service::request_params::Builder<'_> = message.root().init_as();
        params.set_context(call::serve(Nobody));
        fill(params.init_request());
        fetch_params(message.reader()?)
    }

    #[test]
    fn methods_and_fields_are_told_by_their_words() {
        let message = asked(|mut request| {
            request.set_method(13);
            request.set_url("http://vat/a%20b?c");
            request.reborrow().init_body_size().set_fixed(7);
            let mut fields = request.init_headers(6);
            for (i, number) in [(0, 1), (1, 44), (2, 47)] {
                let mut field = fields.reborrow().get(i).init_common();
                field.set_name(number);
                field.set_value("x");
            }
            let mut field = fields.reborrow().get(3).init_common();
            field.set_name(2);
            field.set_common_value(1);
            for (i, name, value) in [(4, "X-Mine", "\u{e9}"), (5, "Connection", "close")] {
                let mut field = fields.reborrow().get(i).init_uncommon();
                field.set_name(name);
                field.set_value(value);
            }
        });
        let message = message.unwrap();
        let params: stub::fetch_params::Reader<'_> = message.reader().unwrap().get_as().unwrap();
        let request = params.get_request().unwrap();
        assert_eq!(request.get_method().unwrap(), "PROPFIND");
        assert_eq!(request.get_url().unwrap(), "http://vat/a%20b?c");
        let fixed = request.get_body_size().unwrap().which().unwrap();
        assert!(matches!(fixed, vatwerk::http_capnp::body_size::Fixed(7)));
        let headers = read_headers(request.get_headers().unwrap()).unwrap();
        let expected: HeaderMap = [
            ("accept-charset", "x"),
            ("user-agent", "x"),
            ("www-authenticate", "x"),
            ("accept-encoding", "gzip, deflate"),
            ("x-mine", "\u{e9}"),
        ]
        .map(|(name, value)| {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            (name.parse().unwrap(), value)
        })
        .into_iter()
        .collect();
        assert_eq!(headers, expected);
    }

    #[test]
    fn what_kj_does_not_know_either_is_refused() {
        for (method, name) in [(28, 1), (0, 0), (0, 48)] {
            let outcome = asked(|mut request| {
                request.set_method(method);
                let mut field = request.init_headers(1).get(0).init_common();
                field.set_name(name);
                field.set_value("x");
            });
            let error = outcome.err().expect("it is refused");
            assert!(error.extra.starts_with("invalid-argument: "), "{error}");
        }
    }

    #[tokio::test]
    async fn a_sink_takes_a_body_from_kj() {
        use futures::StreamExt;

        let (sink, body) = super::super::sink();
        let stream = byte_stream::Client::new(sink.client.hook);
        let mut write = stream.write_request();
        write.get().set_bytes(b"tea");
        write.send().await.unwrap();
        stream.end_request().send().promise.await.unwrap();
        let pieces: Vec<_> = body.map(|piece| piece.unwrap()).collect().await;
        assert_eq!(pieces, ["tea"]);
        // Whoever reads no more is no failure to kj.
        let (sink, body) = super::super::sink();
        drop(body);
        let stream = byte_stream::Client::new(sink.client.hook);
        let error = stream.write_request().send().await.unwrap_err();
        assert_eq!(error.kind, capnp::ErrorKind::Disconnected);
    }
}
