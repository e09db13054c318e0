//! HTTP, as objects speak it: over a connection of a capnp client, as the HTTP listener does.

use std::{cell::Cell, rc::Rc, thread, time::Duration};

use capnp::capability::FromClientHook;
use futures::{StreamExt, stream};
use tokio::sync::Semaphore;
use vatwerk::{
    Code,
    counter_capnp::counter,
    http_capnp::{body_size, byte_sink, exchange},
    object_capnp::stub,
};
use vatwerk_server::{
    Body, Class, Context, Error, Request, Response, Server,
    classes::Counter,
    fetch::{Frame, ask, sink},
    http::StatusCode,
    testing::{TestVat, run},
};

use crate::{
    puppet_capnp::puppet,
    support::{
        code,
        puppet::{
            Client, DEED, Own, Program, Puppet, act, connect, fetch, get, keep, put, vat,
            wants_socket,
        },
    },
};

const PIECE: usize = 64 << 10;

fn get_request() -> Request {
    Request::new(Body::empty())
}

/// A body without an end, and how many pieces of it have been asked for.
fn endless() -> (Body, Rc<Cell<usize>>) {
    let asked = Rc::new(Cell::new(0));
    let counted = asked.clone();
    let pieces = stream::repeat_with(move || {
        counted.set(counted.get() + 1);
        Ok(vec![7; PIECE].into())
    });
    (Body::stream(pieces, None), asked)
}

/// Tells when it is dropped.
struct Guard(Rc<Cell<bool>>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

fn guard() -> (Guard, Rc<Cell<bool>>) {
    let dropped = Rc::new(Cell::new(false));
    (Guard(dropped.clone()), dropped)
}

#[test]
fn a_request_and_its_answer_arrive_as_they_were_sent() {
    run(async {
        let (_vat, p) = vat().await;
        let request = Request::builder()
            .method("PATCH")
            .uri("/a%20b?c=d")
            .header("x-many", "1")
            .header("x-many", "2")
            .body(Body::from("question"))
            .unwrap();
        let answered = fetch(&p, request, async |_, request| {
            assert_eq!(request.method(), "PATCH");
            assert_eq!(request.uri(), "/a%20b?c=d");
            let many: Vec<_> = request.headers().get_all("x-many").iter().collect();
            assert_eq!(many, ["1", "2"]);
            assert_eq!(request.body().length(), Some(8));
            assert_eq!(request.into_body().text(100).await?, "question");
            let response = Response::builder().status(418).header("x-answer", "42");
            Ok(response.body(Body::from("answer")).unwrap())
        });
        let answered = answered.await.unwrap();
        assert_eq!(answered.status(), 418);
        assert_eq!(answered.headers()["x-answer"], "42");
        assert_eq!(answered.body().length(), Some(6));
        assert_eq!(answered.into_body().text(100).await.unwrap(), "answer");
    });
}

#[test]
fn an_answer_to_head_tells_how_long_it_would_be() {
    run(async {
        let (_vat, p) = vat().await;
        for (method, status, length) in [("HEAD", 200, Some("6")), ("GET", 304, None)] {
            let request = Request::builder().method(method).body(Body::empty());
            let answered = fetch(&p, request.unwrap(), async move |_, _| {
                let mut response = Response::new("answer".into());
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                Ok(response)
            });
            let answered = answered.await.unwrap();
            let told = answered.headers().get("content-length");
            assert_eq!(told.map(|told| told.to_str().unwrap()), length);
            assert_eq!(answered.into_body().bytes(100).await.unwrap(), "");
        }
    });
}

/// Hears how long an answer is said to be.
struct Asker(Rc<Cell<Option<u64>>>);

impl exchange::Server for Asker {
    async fn respond(
        self: Rc<Self>,
        params: exchange::RespondParams,
        _: exchange::RespondResults,
    ) -> capnp::Result<()> {
        let length = params.get()?.get_response()?.get_body_size()?.which()?;
        if let body_size::Fixed(length) = length {
            self.0.set(Some(length));
        }
        Ok(())
    }
}

#[test]
fn an_answer_that_has_no_body_is_told_to_have_none() {
    run(async {
        let (_vat, p) = vat().await;
        for (method, status, length) in [("HEAD", 200, 6), ("GET", 204, 0), ("GET", 304, 0)] {
            let answer = keep(async move |_, _| {
                let mut response = Response::new("answer".into());
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                Ok(response)
            });
            let told = Rc::new(Cell::new(None));
            let stub: stub::Client = p.clone().cast_to();
            let mut request = stub.fetch_request();
            let mut params = request.get();
            params.set_exchange(capnp_rpc::new_client(Asker(told.clone())));
            let mut head = params.init_request();
            head.set_method(method);
            head.set_url("/");
            head.reborrow().init_body_size().set_fixed(0);
            let mut field = head.init_headers(1).get(0);
            field.set_name(DEED);
            field.set_value(answer.to_string());
            request.send().promise.await.unwrap();
            assert_eq!(told.get(), Some(length), "{method} {status}");
        }
    });
}

/// Takes the body of an answer, but for its last chunks.
#[derive(Clone)]
struct Picky {
    room: Rc<Semaphore>,
    taken: Rc<Cell<usize>>,
    has_ended: Rc<Cell<bool>>,
}

impl exchange::Server for Picky {
    async fn respond(
        self: Rc<Self>,
        _: exchange::RespondParams,
        mut results: exchange::RespondResults,
    ) -> capnp::Result<()> {
        let sink = capnp_rpc::new_client(Picky::clone(&self));
        results.get().set_body(sink);
        Ok(())
    }
}

impl byte_sink::Server for Picky {
    async fn write(self: Rc<Self>, _: byte_sink::WriteParams) -> capnp::Result<()> {
        let room = self.room.acquire().await;
        room.map_err(|_| capnp::Error::overloaded("the disk is full".into()))?
            .forget();
        self.taken.set(self.taken.get() + 1);
        Ok(())
    }

    async fn end(
        self: Rc<Self>,
        _: byte_sink::EndParams,
        _: byte_sink::EndResults,
    ) -> capnp::Result<()> {
        self.has_ended.set(true);
        Ok(())
    }
}

#[test]
fn an_answer_whose_body_is_refused_fails_even_at_its_last_chunk() {
    run(async {
        let (_vat, p) = vat().await;
        for (chunks, taken) in [(1, 0), (3, 0), (3, 2), (40, 1), (40, 39)] {
            let answer = keep(async move |_, _| {
                let piece = bytes::Bytes::from(vec![7; PIECE]);
                let pieces = stream::iter(vec![Ok(piece); chunks]);
                Ok(Response::new(Body::stream(pieces, None)))
            });
            let picky = Picky {
                room: Rc::new(Semaphore::new(taken)),
                taken: Rc::default(),
                has_ended: Rc::default(),
            };
            let stub: stub::Client = p.clone().cast_to();
            let mut request = stub.fetch_request();
            let mut params = request.get();
            params.set_exchange(capnp_rpc::new_client(picky.clone()));
            let mut head = params.init_request();
            head.set_method("GET");
            head.set_url("/");
            head.reborrow().init_body_size().set_fixed(0);
            let mut field = head.init_headers(1).get(0);
            field.set_name(DEED);
            field.set_value(answer.to_string());
            let asked = tokio::task::spawn_local(request.send().promise);
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(picky.taken.get(), taken);
            picky.room.close();
            let refused = asked.await.unwrap().err().expect("it is refused");
            assert_eq!(refused.kind, capnp::ErrorKind::Overloaded, "{refused}");
            assert!(refused.extra.contains("the disk is full"), "{refused}");
            assert!(!picky.has_ended.get());
        }
    });
}

#[test]
fn bodies_stream_both_ways_and_who_stalls_stalls_the_other() {
    run(async {
        let (_vat, p) = vat().await;
        let (endless, asked) = endless();
        let echo = async |_, request: Request| Ok(Response::new(request.into_body()));
        let request = Request::new(endless);
        let mut echoed = fetch(&p, request, echo).await.unwrap().into_body();
        // Nobody reads: some is under way, and it stays at that.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let under_way = asked.get();
        assert!(under_way * PIECE < 4 << 20, "{under_way}");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(asked.get(), under_way);
        let mut read = 0;
        while read < 64 << 20 {
            read += echoed.piece().await.unwrap().unwrap().len();
        }
        let ahead = asked.get() - read / PIECE;
        assert!(ahead * PIECE < 4 << 20, "{ahead}");
    });
}

#[test]
fn what_an_object_does_for_an_exchange_ends_with_it() {
    run(async {
        let (vat, p) = vat().await;
        // While the object thinks.
        put(&p, "k", "v").await.unwrap();
        let (guard_of, dropped) = guard();
        let thinking = fetch(&p, get_request(), async |own: Rc<Own>, _| {
            let _guard = guard_of;
            own.put("k", "begun")?;
            own.ctx.sleep(Duration::from_secs(3600)).await;
            own.put("k", "ended")?;
            Ok(Response::default())
        });
        let waited = tokio::time::timeout(Duration::from_secs(1), thinking).await;
        assert!(waited.is_err());
        vat.advance(Duration::from_secs(1)).await;
        assert!(dropped.get());
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "begun");
        // While it answers.
        let (guard_of, dropped) = guard();
        let answering = fetch(&p, get_request(), async |_, _| {
            let (endless, _) = endless();
            let guarded = endless.into_pieces().map(move |piece| {
                let _guard = &guard_of;
                piece
            });
            Ok(Response::new(Body::stream(guarded, None)))
        });
        let mut answer = answering.await.unwrap();
        answer.body_mut().piece().await.unwrap().unwrap();
        drop(answer);
        vat.advance(Duration::from_secs(1)).await;
        assert!(dropped.get());
        assert_eq!(vat.status::<Client>("p").in_flight, 0);
    });
}

#[test]
fn an_answer_waits_for_what_the_object_has_written() {
    run(async {
        let (vat, p) = vat().await;
        put(&p, "k", "v").await.unwrap();
        vat.hold_commits();
        let answer = fetch(&p, get_request(), async |own: Rc<Own>, _| {
            own.put("k", "w")?;
            Ok(Response::new("written".into()))
        });
        let mut answer = Box::pin(answer);
        let early = tokio::time::timeout(Duration::from_secs(5), &mut answer).await;
        assert!(early.is_err());
        vat.release_commits();
        assert_eq!(
            answer.await.unwrap().into_body().text(9).await.unwrap(),
            "written"
        );
    });
}

#[test]
fn failures_have_codes_and_none_is_the_caller_s_to_wait_for() {
    run(async {
        let (_vat, p) = vat().await;
        let failed = fetch(&p, get_request(), async |_, _| {
            Err(Error::NotFound("no such page".into()).into())
        });
        assert_eq!(code(failed.await), Code::NotFound);
        let panicked = fetch(&p, get_request(), async |_, _| panic!("as it is told"));
        assert_eq!(code(panicked.await), Code::ObjectReset);
        let informational = fetch(&p, get_request(), async |_, _| {
            let mut response = Response::default();
            *response.status_mut() = StatusCode::CONTINUE;
            Ok(response)
        });
        assert_eq!(code(informational.await), Code::InvalidArgument);
        // After the head.
        let broken = fetch(&p, get_request(), async |_, _| {
            let pieces = [
                Ok("half".into()),
                Err(capnp::Error::failed("no more".into())),
            ];
            Ok(Response::new(Body::stream(stream::iter(pieces), None)))
        });
        let body = broken.await.unwrap().into_body();
        assert_eq!(code(body.bytes(100).await), Code::ApplicationFailed);
        // A body that is shorter than it was said to be.
        let short = fetch(&p, get_request(), async |_, _| {
            let pieces = stream::iter([Ok("half".into())]);
            Ok(Response::new(Body::stream(pieces, Some(9))))
        });
        let body = short.await.unwrap().into_body();
        assert_eq!(code(body.bytes(100).await), Code::InvalidArgument);
    });
}

#[test]
fn a_class_without_fetch_says_so() {
    run(async {
        let start = |server: Server| server.class::<Counter>();
        let vat = TestVat::start(start).await;
        let counter: counter::Client = vat.object("c");
        let stub: stub::Client = counter.cast_to();
        assert_eq!(code(ask(&stub, get_request()).await), Code::Unimplemented);
    });
}

#[test]
fn objects_ask_objects_and_pass_on_what_they_answer() {
    run(async {
        let (_vat, p) = vat().await;
        let request = Request::new(Body::from("through two objects"));
        let proxied = fetch(&p, request, async |own: Rc<Own>, request| {
            let q = own.other("q");
            let shout = async |_, request: Request| {
                let text = request.into_body().text(100).await?;
                Ok(Response::new(text.to_uppercase().into()))
            };
            fetch(&q, Request::new(request.into_body()), shout).await
        });
        let answered = proxied.await.unwrap().into_body();
        assert_eq!(answered.text(100).await.unwrap(), "THROUGH TWO OBJECTS");
        // A WebSocket, too.
        let proxied = fetch(&p, wants_socket(), async |own: Rc<Own>, _| {
            let q = own.other("q");
            let accept =
                async |own: Rc<Own>, request| Ok(own.ctx.accept_web_socket(&request, &[])?.1);
            fetch(&q, wants_socket(), accept).await
        });
        let mut socket = proxied.await.unwrap().body_mut().take_socket().unwrap();
        let said = Frame::Text("there and back".into());
        socket.send(&said).await.unwrap();
        assert_eq!(socket.next().await.unwrap().into_frame(), said);
    });
}

struct Serial;

impl Program for Serial {
    const SERIAL: bool = true;
}

#[test]
fn a_class_that_takes_one_call_at_a_time_takes_bodies() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<Serial>>());
        let vat = vat.await;
        let p = vat.object("p");
        let pieces = stream::iter((0..100).map(|_| Ok(vec![1; PIECE].into())));
        let request = Request::new(Body::stream(pieces, None));
        let read = fetch(&p, request, async |_, request| {
            let length = request.into_body().bytes(100 * PIECE).await?.len();
            Ok(Response::new(length.to_string().into()))
        });
        let read = read.await.unwrap().into_body().text(100).await.unwrap();
        assert_eq!(read, (100 * PIECE).to_string());
    });
}

#[test]
fn who_does_not_wait_is_refused_and_a_body_nobody_reads_is_given_up() {
    run(async {
        let (_vat, p) = vat().await;
        let (endless, asked) = endless();
        let request = Request::new(endless);
        let answered = fetch(&p, request, async |_, _| {
            Ok(Response::new("no, thanks".into()))
        });
        let answered = answered.await.unwrap();
        assert_eq!(answered.into_body().text(100).await.unwrap(), "no, thanks");
        assert!(asked.get() * PIECE < 4 << 20);

        let (sink, incoming) = sink();
        let write = || {
            let mut write = sink.write_request();
            write.get().set_bytes(&[0; PIECE]);
            write.send()
        };
        let mut writes: Vec<_> = (0..40).map(|_| write()).collect();
        assert_eq!(code(writes.pop().unwrap().await), Code::Closed);
        let body = Body::stream(incoming, None);
        assert_eq!(code(body.bytes(usize::MAX).await), Code::Overloaded);
    });
}

#[test]
fn sockets_are_not_for_requests_that_do_not_ask_for_one() {
    run(async {
        let (_vat, p) = vat().await;
        let refused = fetch(&p, get_request(), async |own: Rc<Own>, request| {
            Ok(own.ctx.accept_web_socket(&request, &[])?.1)
        });
        assert_eq!(code(refused.await), Code::InvalidArgument);
        // One that is accepted and not returned is given up.
        let dropped = fetch(&p, wants_socket(), async |own: Rc<Own>, request| {
            own.ctx.accept_web_socket(&request, &[])?;
            assert_eq!(own.ctx.web_sockets(None).len(), 0);
            Ok(Response::default())
        });
        dropped.await.unwrap();
        let _socket = connect(&p, &[]).await.unwrap();
        let open = act(&p, async |own| Ok(own.ctx.web_sockets(None).len()));
        assert_eq!(open.await.unwrap(), 1);
    });
}

struct Deaf;

impl Program for Deaf {
    const WEB_SOCKETS: bool = false;
}

#[test]
fn a_class_without_handlers_accepts_no_socket() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<Deaf>>()).await;
        let refused = connect(&vat.object("p"), &[]).await;
        assert_eq!(code(refused), Code::InvalidArgument);
    });
}

#[test]
fn a_client_that_writes_a_body_is_told_when_its_object_ends() {
    run(async {
        let (vat, p) = vat().await;
        let answer = keep(async |own: Rc<Own>, request| {
            let mut body = request.into_body();
            body.piece().await.unwrap()?;
            own.put("k", "v")?;
            own.ctx.sleep(Duration::from_secs(1)).await;
            panic!("as it is told")
        });
        let stub: stub::Client = p.clone().cast_to();
        let mut request = stub.fetch_request();
        let mut params = request.get();
        params.set_exchange(capnp_rpc::new_client(Asker(Rc::default())));
        let mut head = params.init_request();
        head.set_method("POST");
        head.set_url("/");
        head.reborrow().init_body_size().set_unknown(());
        let mut field = head.init_headers(1).get(0);
        field.set_name(DEED);
        field.set_value(answer.to_string());
        let exchange = request.send();
        let body = exchange.pipeline.get_body();
        let write = || {
            let mut write = body.write_request();
            write.get().set_bytes(&[0; PIECE]);
            tokio::task::spawn_local(write.send())
        };
        // More than has room before it is read.
        let writes: Vec<_> = (0..8).map(|_| write()).collect();
        vat.settle().await;
        assert!(writes.iter().any(|write| !write.is_finished()));
        assert_eq!(code(exchange.promise.await.map(drop)), Code::ObjectReset);
        vat.settle().await;
        assert!(writes.iter().all(|write| write.is_finished()));
        assert!(write().await.unwrap().is_err(), "nobody reads it");
    });
}

/// Panics before it returns a future.
struct Rash;

impl Class for Rash {
    const NAME: &'static str = "Rash";
    const SCHEMA: &'static [u8] = include_bytes!("support/puppet.cgr");
    const FETCH: bool = true;
    type Client = Client;

    async fn activate(_: Context) -> capnp::Result<Self> {
        Ok(Rash)
    }

    fn fetch(self: Rc<Self>, _: Request) -> impl Future<Output = capnp::Result<Response>> {
        assert!(thread::panicking(), "as it is told");
        async { Ok(Response::default()) }
    }
}

impl puppet::Server for Rash {}

#[test]
fn a_handler_that_panics_before_it_returns_resets_its_object_and_no_more() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Rash>()).await;
        let object: stub::Client = vat.object::<Client>("r").cast_to();
        assert_eq!(code(ask(&object, get_request()).await), Code::ObjectReset);
        assert_eq!(vat.status::<Client>("r").resets, 1);
    });
}
