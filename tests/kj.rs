//! A stub answers capnp's own `HttpService` too, so that kj's HTTP server can stand in front of an
//! object. The other end here is a client of our own that does what kj's does.

use std::{cell::RefCell, rc::Rc};

use capnp::{
    ErrorKind,
    capability::{FromClientHook, RemotePromise},
};
use futures::{StreamExt, channel::mpsc, stream};
use vatwerk::{
    CODE_GENERATOR_REQUEST, Code,
    counter_capnp::counter,
    kj::http_capnp::{
        byte_stream, client_request_context, http_request, http_response, http_service, web_socket,
    },
};
use vatwerk_server::{
    Class, Context,
    fetch::{Body, Request, Response},
    object::{SocketClose, SocketMessage, WebSocket},
};

use crate::support::{TestVat, Wire, code, run};

/// kj's numbers of some methods, ...
const HEAD: u16 = 1;
const POST: u16 = 2;
const PROPFIND: u16 = 13;
/// ... and of some header fields.
const CONTENT_TYPE: u16 = 17;
const USER_AGENT: u16 = 44;

/// An object that answers requests by their paths.
struct Web(Context, Rc<Seen>);

/// What objects have seen.
type Seen = mpsc::UnboundedSender<String>;

impl Web {
    fn saw(&self, what: impl Into<String>) {
        let _ = self.1.unbounded_send(what.into());
    }
}

impl counter::Server for Web {}

impl Class for Web {
    const NAME: &'static str = "Web";
    const SCHEMA: &'static [u8] = CODE_GENERATOR_REQUEST;
    const FETCH: bool = true;
    const WEB_SOCKETS: bool = true;
    type Client = counter::Client;

    async fn activate(ctx: Context) -> capnp::Result<Self> {
        let seen = ctx.binding().expect("it is bound");
        Ok(Web(ctx, seen))
    }

    async fn fetch(self: Rc<Self>, request: Request) -> capnp::Result<Response> {
        match request.uri().path() {
            "/echo" => {
                let mut response = Response::default();
                let fields = response.headers_mut();
                fields.clone_from(request.headers());
                fields.insert("x-method", request.method().as_str().parse().unwrap());
                fields.insert("x-uri", request.uri().to_string().parse().unwrap());
                let length = request.body().length();
                let pieces = request.into_body().into_pieces();
                *response.body_mut() = Body::stream(pieces, length);
                Ok(response)
            }
            "/five" => Ok(Response::new(Body::from("12345"))),
            "/break" => {
                let broken = Err(capnp::Error::failed("out-of-tea: none left".into()));
                let pieces = stream::iter([Ok("half".into()), broken]);
                Ok(Response::new(Body::stream(pieces, None)))
            }
            "/fail" => Err(capnp::Error::failed("out-of-tea: none left".into())),
            "/panic" => panic!("a secret"),
            "/stay" => {
                struct Gone(Rc<Web>);
                impl Drop for Gone {
                    fn drop(&mut self) {
                        self.0.saw("gone");
                    }
                }
                self.saw("stays");
                let _gone = Gone(self.clone());
                std::future::pending().await
            }
            _ => {
                let (socket, mut response) = self.0.accept_web_socket(&request, &[])?;
                socket.send("welcome")?;
                let protocol = "tea".parse().unwrap();
                response
                    .headers_mut()
                    .insert("sec-websocket-protocol", protocol);
                Ok(response)
            }
        }
    }

    async fn web_socket_message(
        self: Rc<Self>,
        socket: WebSocket,
        message: SocketMessage,
    ) -> capnp::Result<()> {
        match message {
            SocketMessage::Text(text) if text == "close" => socket.close(4001, "no more")?,
            message => socket.send(message)?,
        }
        Ok(())
    }

    async fn web_socket_close(
        self: Rc<Self>,
        _: WebSocket,
        close: SocketClose,
    ) -> capnp::Result<()> {
        let SocketClose {
            code,
            reason,
            was_clean,
        } = close;
        self.saw(format!("{code} {reason:?} {was_clean}"));
        Ok(())
    }
}

/// What kj is told of the answer.
#[derive(Default)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    length: Option<u64>,
    up: Option<web_socket::Client>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(it, _)| it == name);
        found.map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, PartialEq)]
enum Told {
    Bytes(Vec<u8>),
    End,
    Text(String),
    Data(Vec<u8>),
    Close(u16, String),
    /// What takes them was let go of.
    Gone,
}

/// What kj's side of an exchange takes the answer with.
struct Kj {
    answer: RefCell<mpsc::UnboundedSender<Answer>>,
    told: mpsc::UnboundedSender<Told>,
}

/// A stream, or a socket, to kj.
struct Taker(mpsc::UnboundedSender<Told>);

impl Taker {
    fn is_told(&self, told: Told) {
        let _ = self.0.unbounded_send(told);
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.is_told(Told::Gone);
    }
}

impl byte_stream::Server for Taker {
    async fn write(self: Rc<Self>, params: byte_stream::WriteParams) -> capnp::Result<()> {
        self.is_told(Told::Bytes(params.get()?.get_bytes()?.to_vec()));
        Ok(())
    }

    async fn end(
        self: Rc<Self>,
        _: byte_stream::EndParams,
        _: byte_stream::EndResults,
    ) -> capnp::Result<()> {
        self.is_told(Told::End);
        Ok(())
    }
}

impl web_socket::Server for Taker {
    async fn send_text(self: Rc<Self>, params: web_socket::SendTextParams) -> capnp::Result<()> {
        self.is_told(Told::Text(params.get()?.get_text()?.to_string()?));
        Ok(())
    }

    async fn send_data(self: Rc<Self>, params: web_socket::SendDataParams) -> capnp::Result<()> {
        self.is_told(Told::Data(params.get()?.get_data()?.to_vec()));
        Ok(())
    }

    async fn close(
        self: Rc<Self>,
        params: web_socket::CloseParams,
        _: web_socket::CloseResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let reason = params.get_reason()?.to_string()?;
        self.is_told(Told::Close(params.get_code(), reason));
        Ok(())
    }
}

type Fields<'a> = capnp::struct_list::Reader<'a, vatwerk::kj::http_capnp::http_header::Owned>;

fn read_fields(fields: Fields<'_>) -> capnp::Result<Vec<(String, String)>> {
    use vatwerk::kj::http_capnp::http_header::{Common, Uncommon};

    let read = |field: vatwerk::kj::http_capnp::http_header::Reader<'_>| match field.which()? {
        Common(_) => Err(capnp::Error::failed("a vat numbers nothing".into())),
        Uncommon(field) => {
            let field = field?;
            let value = field.get_value()?.to_string()?;
            Ok((field.get_name()?.to_string()?, value))
        }
    };
    fields.iter().map(read).collect()
}

impl client_request_context::Server for Kj {
    async fn start_response(
        self: Rc<Self>,
        params: client_request_context::StartResponseParams,
        mut results: client_request_context::StartResponseResults,
    ) -> capnp::Result<()> {
        let response = params.get()?.get_response()?;
        let length = match response.get_body_size().which()? {
            http_response::body_size::Unknown(()) => None,
            http_response::body_size::Fixed(length) => Some(length),
        };
        if length != Some(0) {
            let taker = Taker(self.told.clone());
            results.get().set_body(capnp_rpc::new_client(taker));
        }
        let answer = Answer {
            status: response.get_status_code(),
            headers: read_fields(response.get_headers()?)?,
            length,
            up: None,
        };
        let _ = self.answer.borrow().unbounded_send(answer);
        Ok(())
    }

    async fn start_web_socket(
        self: Rc<Self>,
        params: client_request_context::StartWebSocketParams,
        mut results: client_request_context::StartWebSocketResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let taker = Taker(self.told.clone());
        results.get().set_down_socket(capnp_rpc::new_client(taker));
        let answer = Answer {
            status: 101,
            headers: read_fields(params.get_headers()?)?,
            length: None,
            up: Some(params.get_up_socket()?),
        };
        let _ = self.answer.borrow().unbounded_send(answer);
        Ok(())
    }
}

/// An exchange, from kj's side.
struct Exchange {
    call: RemotePromise<http_service::request_results::Owned>,
    answer: mpsc::UnboundedReceiver<Answer>,
    told: mpsc::UnboundedReceiver<Told>,
}

impl Exchange {
    fn begin(object: &http_service::Client, fill: impl FnOnce(http_request::Builder<'_>)) -> Self {
        let (answers, answer) = mpsc::unbounded();
        let (tell, told) = mpsc::unbounded();
        let mut call = object.request_request();
        fill(call.get().init_request());
        call.get().set_context(capnp_rpc::new_client(Kj {
            answer: RefCell::new(answers),
            told: tell,
        }));
        let call = call.send();
        Exchange { call, answer, told }
    }

    fn get(object: &http_service::Client, path: &str) -> Self {
        Exchange::begin(object, |mut request| {
            request.set_url(path);
            request.init_body_size().set_fixed(0);
        })
    }

    fn socket(object: &http_service::Client) -> Self {
        Exchange::begin(object, |mut request| {
            request.set_url("/socket");
            request.reborrow().init_body_size().set_fixed(0);
            let mut field = request.init_headers(1).get(0).init_uncommon();
            field.set_name("Upgrade");
            field.set_value("websocket");
        })
    }

    /// The head of the answer.
    async fn answer(&mut self) -> Answer {
        self.answer.next().await.expect("it is answered")
    }

    /// The body of the answer, to its end.
    async fn body(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            match self.told.next().await.expect("the body ends") {
                Told::Bytes(bytes) => body.extend(bytes),
                Told::End => return body,
                told => panic!("{told:?} after {} bytes", body.len()),
            }
        }
    }

    async fn is_told(&mut self) -> Told {
        self.told.next().await.expect("it is told something")
    }
}

/// An object as kj calls it, what it sees, and what has to be there meanwhile.
async fn page() -> (
    http_service::Client,
    mpsc::UnboundedReceiver<String>,
    (Wire, TestVat),
) {
    let (see, seen) = mpsc::unbounded();
    let mut vat = TestVat::start().await;
    vat.stop().await;
    let serving = move |server: vatwerk_server::Server| server.class::<Web>().binding::<Seen>(see);
    vat.start_serving(serving).await.expect("it starts");
    let wire = vat.wire().await;
    let object: counter::Client = wire.object("page");
    (object.cast_to(), seen, (wire, vat))
}

/// Sends a body of a megabyte and takes it back.
async fn echo_a_megabyte(object: &http_service::Client, length: Option<u64>) -> Answer {
    let mut exchange = Exchange::begin(object, |mut request| {
        request.set_method(POST);
        request.set_url("/echo");
        match length {
            Some(length) => request.init_body_size().set_fixed(length),
            None => request.init_body_size().set_unknown(()),
        }
    });
    let body: Vec<u8> = (0..1 << 20).map(|i| (i % 251) as u8).collect();
    let sink = exchange.call.pipeline.get_request_body();
    let upload = async {
        for piece in body.chunks(10_000) {
            let mut write = sink.write_request();
            write.get().set_bytes(piece);
            write.send().await.unwrap();
        }
        sink.end_request().send().promise.await.unwrap();
    };
    let download = async {
        let answer = exchange.answer().await;
        assert!(exchange.body().await == body);
        assert_eq!(exchange.is_told().await, Told::Gone);
        exchange.call.promise.await.unwrap();
        answer
    };
    futures::join!(upload, download).1
}

#[test]
fn kj_asks_an_object_and_is_answered() {
    run(async {
        let (object, _, _kept) = page().await;

        let mut exchange = Exchange::begin(&object, |mut request| {
            request.set_method(PROPFIND);
            request.set_url("http://example.com/echo?a=%20b");
            request.reborrow().init_body_size().set_fixed(0);
            let mut fields = request.init_headers(4);
            for (i, number, value) in [(0, USER_AGENT, "kj"), (1, CONTENT_TYPE, "text/tea")] {
                let mut field = fields.reborrow().get(i).init_common();
                field.set_name(number);
                field.set_value(value);
            }
            for (i, name, value) in [(2, "X-Mine", "1"), (3, "Connection", "keep-alive")] {
                let mut field = fields.reborrow().get(i).init_uncommon();
                field.set_name(name);
                field.set_value(value);
            }
        });
        let answer = exchange.answer().await;
        assert_eq!((answer.status, answer.length), (200, Some(0)));
        for (name, value) in [
            ("x-method", "PROPFIND"),
            ("x-uri", "http://example.com/echo?a=%20b"),
            ("user-agent", "kj"),
            ("content-type", "text/tea"),
            ("x-mine", "1"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{name}");
        }
        assert_eq!(answer.header("connection"), None);
        exchange.call.promise.await.unwrap();

        let mut exchange = Exchange::get(&object, "/five");
        let answer = exchange.answer().await;
        assert_eq!((answer.status, answer.length), (200, Some(5)));
        assert_eq!(exchange.body().await, b"12345");
        exchange.call.promise.await.unwrap();

        // What kj writes in its place has no body either.
        let mut exchange = Exchange::begin(&object, |mut request| {
            request.set_method(HEAD);
            request.set_url("/five");
            request.init_body_size().set_fixed(0);
        });
        let answer = exchange.answer().await;
        assert_eq!((answer.status, answer.length), (200, Some(0)));
        assert_eq!(answer.header("content-length"), Some("5"));
        exchange.call.promise.await.unwrap();
    });
}

#[test]
fn bodies_stream_both_ways() {
    run(async {
        let (object, _, _kept) = page().await;
        for length in [Some(1 << 20), None] {
            let answer = echo_a_megabyte(&object, length).await;
            assert_eq!(answer.length, length);
        }
    });
}

#[test]
fn who_does_not_want_a_body_is_no_failure_to_kj() {
    run(async {
        let (object, _, _kept) = page().await;
        let mut exchange = Exchange::begin(&object, |mut request| {
            request.set_method(POST);
            request.set_url("/five");
            request.init_body_size().set_unknown(());
        });
        let sink = exchange.call.pipeline.get_request_body();
        assert_eq!(exchange.answer().await.status, 200);
        let refused = loop {
            let mut write = sink.write_request();
            write.get().set_bytes(&[0; 1000]);
            if let Err(error) = write.send().await {
                break error;
            }
        };
        assert_eq!(refused.kind, ErrorKind::Disconnected, "{refused}");
        assert_eq!(exchange.body().await, b"12345");
    });
}

#[test]
fn errors_reach_kj_and_nothing_internal_does() {
    run(async {
        let (object, _, _kept) = page().await;

        let exchange = Exchange::get(&object, "/fail");
        let error = exchange.call.promise.await.err().expect("it fails");
        assert_eq!(Code::split(&error.extra), (None, "out-of-tea: none left"));

        let exchange = Exchange::get(&object, "/panic");
        let outcome = exchange.call.promise.await;
        let error = outcome.as_ref().err().expect("it fails").extra.clone();
        assert_eq!(code(outcome), Code::ObjectReset);
        assert!(!error.contains("secret"), "{error}");

        let mut exchange = Exchange::get(&object, "/break");
        assert_eq!(exchange.answer().await.length, None);
        assert_eq!(exchange.is_told().await, Told::Bytes(b"half".into()));
        assert_eq!(exchange.is_told().await, Told::Gone);
        assert!(exchange.call.promise.await.is_err());

        assert_eq!(
            code(object.start_request_request().send().promise.await),
            Code::Unimplemented
        );
        let exchange = Exchange::begin(&object, |mut request| request.set_method(28));
        assert_eq!(code(exchange.call.promise.await), Code::InvalidArgument);
    });
}

#[test]
fn kj_and_an_object_have_a_web_socket() {
    run(async {
        let (object, mut seen, _kept) = page().await;

        let mut exchange = Exchange::socket(&object);
        let answer = exchange.answer().await;
        assert_eq!(answer.header("sec-websocket-protocol"), Some("tea"));
        let up = answer.up.expect("it is a WebSocket");
        assert_eq!(exchange.is_told().await, Told::Text("welcome".into()));
        let mut text = up.send_text_request();
        text.get().set_text("\u{1fad6}");
        text.send().await.unwrap();
        assert_eq!(exchange.is_told().await, Told::Text("\u{1fad6}".into()));
        let long = vec![7; 300_000];
        let mut data = up.send_data_request();
        data.get().set_data(&long);
        data.send().await.unwrap();
        assert!(exchange.is_told().await == Told::Data(long));

        // The object closes, and kj after it.
        let mut text = up.send_text_request();
        text.get().set_text("close");
        text.send().await.unwrap();
        let close = Told::Close(4001, "no more".into());
        assert_eq!(exchange.is_told().await, close);
        let mut close = up.close_request();
        close.get().set_code(4001);
        close.send().promise.await.unwrap();
        assert_eq!(exchange.is_told().await, Told::Gone);
        exchange.call.promise.await.unwrap();

        // kj closes.
        let mut exchange = Exchange::socket(&object);
        let up = exchange.answer().await.up.expect("it is a WebSocket");
        let mut close = up.close_request();
        close.get().set_code(4002);
        close.get().set_reason("enough");
        close.send().promise.await.unwrap();
        while seen.next().await.expect("it is seen") != "4002 \"enough\" true" {}
    });
}

#[test]
fn kj_that_lets_go_of_a_web_socket_has_lost_it() {
    run(async {
        let (object, mut seen, _kept) = page().await;
        let mut exchange = Exchange::socket(&object);
        let answer = exchange.answer().await;
        assert_eq!(exchange.is_told().await, Told::Text("welcome".into()));
        // The call goes on, as it does when a browser is gone and kj does not know yet.
        drop(answer);
        let lost = seen.next().await.expect("it is seen");
        assert!(lost.starts_with("1006 "), "{lost}");
        assert!(lost.ends_with(" false"), "{lost}");
    });
}

#[test]
fn an_object_works_for_kj_no_longer_than_the_call_lasts() {
    run(async {
        let (object, mut seen, _kept) = page().await;
        let exchange = Exchange::get(&object, "/stay");
        let watched = async {
            assert_eq!(seen.next().await.as_deref(), Some("stays"));
        };
        let call = exchange.call.promise;
        futures::pin_mut!(watched);
        // Nothing is sent while nobody polls.
        futures::future::select(watched, call).await;
        drop(exchange.call.pipeline);
        assert_eq!(seen.next().await.as_deref(), Some("gone"));
    });
}
