//! Nothing by which others could learn of a write leaves the vat before the write is on disk.
//!
//! The disk takes its time here: the thread that writes the journal is held ([`Hold`]). For each way out an
//! object writes and takes it. As long as the disk is held nobody notices, though the turn is long over;
//! then they do. A second time the vat is killed meanwhile: nobody has noticed what is not there afterwards.
//! A killed process loses nothing that it has given to the kernel, so this shows that nothing is heard before
//! it is written, and not that it is synced: for that see `storage::simulation` in `vatwerk-server`.

use std::{cell::Cell, rc::Rc};

use bytes::Bytes;
use capnp::capability::FromClientHook;
use futures::{FutureExt, SinkExt, StreamExt, future::LocalBoxFuture, stream};
use tempfile::tempdir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::spawn_local,
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};
use vatwerk::object_capnp::stub;
use vatwerk_client::LocalClient;
use vatwerk_server::fetch::{Body, ClientSocket, Frame, Request, ask, send_frame};

use super::{Ear, Noticed, block_on, connect, hold::Hold, metric, until, vat};
use crate::{promises_capnp::herald, vat::Vat};

/// A vat, a client of it, and the object `x`.
struct Stage {
    client: LocalClient,
    x: herald::Client,
    http: String,
}

impl Stage {
    async fn new(vat: &Vat) -> Stage {
        let client = connect(vat).await;
        let x = client.namespace().get("x");
        let http = vat.told("http").to_owned();
        Stage { client, x, http }
    }

    /// Makes sure that whatever the vat has sent is here: everything on the connection of the client, and
    /// with high probability everything on others.
    async fn hear_everything(&self) {
        let other: herald::Client = self.client.namespace().get("other");
        for _ in 0..20 {
            other.read_request().send().promise.await.unwrap();
        }
    }
}

/// Something that `x` does when it has counted, by which others may notice.
trait Way: Sized {
    /// Gets ready to notice.
    async fn new(stage: &Stage) -> Self;

    /// Has `x` count, and take this way.
    fn act(&self, stage: &Stage) -> LocalBoxFuture<'static, capnp::Result<()>>;

    /// Whether others have noticed it.
    async fn is_noticed(&mut self, stage: &Stage) -> bool;
}

fn check<W: Way>() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), "");
    block_on(async {
        let stage = Stage::new(&vat).await;
        for name in ["x", "other"] {
            let object: herald::Client = stage.client.namespace().get(name);
            object.count_request().send().promise.await.unwrap();
        }
        for killed in [false, true] {
            let mut way = W::new(&stage).await;
            let hold = Hold::journal(&vat);
            let turns = || metric(&vat, "vatwerk_turn_seconds_count{class=\"Herald\"}");
            let before = turns();
            let act = spawn_local(way.act(&stage));
            until("the turn is over", async || turns() > before).await;
            stage.hear_everything().await;
            assert!(!way.is_noticed(&stage).await, "the disk is held");
            assert!(!act.is_finished(), "the disk is held");
            if killed {
                hold.kill(vat);
                act.await.unwrap().unwrap_err();
                break;
            }
            drop(hold);
            act.await.unwrap().unwrap();
            let way = Rc::new(tokio::sync::Mutex::new(way));
            until("it is noticed", async || {
                way.lock().await.is_noticed(&stage).await
            })
            .await;
        }
    });
    let vat = super::vat(folder.path(), "");
    assert_eq!(vat.call("Herald", "x", "read", "{}"), r#"{"number":2}"#);
}

/// The answer to a call.
struct Answer(Rc<Cell<bool>>);

impl Way for Answer {
    async fn new(_: &Stage) -> Self {
        Answer(Rc::default())
    }

    fn act(&self, stage: &Stage) -> LocalBoxFuture<'static, capnp::Result<()>> {
        let noticed = self.0.clone();
        let call = stage.x.count_request().send().promise;
        let answered = async move {
            call.await?;
            noticed.set(true);
            Ok(())
        };
        answered.boxed_local()
    }

    async fn is_noticed(&mut self, _: &Stage) -> bool {
        self.0.get()
    }
}

#[test]
fn a_call_is_answered_when_its_write_is_on_disk() {
    check::<Answer>();
}

/// A call of a capability of the client.
struct Told(Noticed);

impl Way for Told {
    async fn new(_: &Stage) -> Self {
        Told(Noticed::default())
    }

    fn act(&self, stage: &Stage) -> LocalBoxFuture<'static, capnp::Result<()>> {
        let mut request = stage.x.tell_request();
        let ear = capnp_rpc::new_client(Ear(self.0.clone()));
        request.get().set_listener(ear);
        request
            .send()
            .promise
            .map(|told| told.map(drop))
            .boxed_local()
    }

    async fn is_noticed(&mut self, _: &Stage) -> bool {
        self.0.heard.get().is_some()
    }
}

#[test]
fn a_client_is_called_when_what_was_written_before_is_on_disk() {
    check::<Told>();
}

/// A call, by way of a capability in the results of a call that is not over.
struct Lent(Noticed);

impl Way for Lent {
    async fn new(_: &Stage) -> Self {
        Lent(Noticed::default())
    }

    fn act(&self, stage: &Stage) -> LocalBoxFuture<'static, capnp::Result<()>> {
        let mut request = stage.x.lend_request();
        request.get().set_listener(Ear::client().0);
        let loan = capnp_rpc::new_client(Ear(self.0.clone()));
        request.get().set_loan(loan);
        let lent = request.send();
        let mut early = lent.pipeline.get_loan().hear_request();
        early.get().set_number(1);
        let heard = early.send().promise;
        async move {
            heard.await?;
            lent.promise.await.map(drop)
        }
        .boxed_local()
    }

    async fn is_noticed(&mut self, _: &Stage) -> bool {
        self.0.heard.get().is_some()
    }
}

#[test]
fn a_capability_of_a_call_that_is_not_over_works_when_what_was_written_is_on_disk() {
    check::<Lent>();
}

/// The release of a capability of the client.
struct Dismissed(Noticed);

impl Way for Dismissed {
    async fn new(stage: &Stage) -> Self {
        let (ear, noticed) = Ear::client();
        let mut request = stage.x.keep_request();
        request.get().set_listener(ear);
        request.send().promise.await.unwrap();
        stage.hear_everything().await;
        Dismissed(noticed)
    }

    fn act(&self, stage: &Stage) -> LocalBoxFuture<'static, capnp::Result<()>> {
        let call = stage.x.dismiss_request().send().promise;
        call.map(|dismissed| dismissed.map(drop)).boxed_local()
    }

    async fn is_noticed(&mut self, _: &Stage) -> bool {
        self.0.let_go.get()
    }
}

#[test]
fn a_capability_is_let_go_of_when_what_was_written_before_is_on_disk() {
    check::<Dismissed>();
}

async fn open(stage: &Stage) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(&stage.http).await.unwrap();
    let url = format!("ws://{}/Herald/x/", stage.http);
    client_async(url, stream).await.unwrap().0
}

/// A message on a WebSocket.
struct Announced(WebSocketStream<TcpStream>);

impl Way for Announced {
    async fn new(stage: &Stage) -> Self {
        Announced(open(stage).await)
    }

    fn act(&self, stage: &Stage) -> LocalBoxFuture<'static, capnp::Result<()>> {
        let call = stage.x.announce_request().send().promise;
        call.map(|announced| announced.map(drop)).boxed_local()
    }

    async fn is_noticed(&mut self, stage: &Stage) -> bool {
        stage.hear_everything().await;
        match self.0.next().now_or_never() {
            None => false,
            Some(message) => {
                let text = message.unwrap().unwrap().into_text().unwrap();
                text.parse::<u64>().is_ok()
            }
        }
    }
}

#[test]
fn a_message_on_a_web_socket_leaves_when_what_was_written_before_is_on_disk() {
    check::<Announced>();
}

/// What the vat answers on a WebSocket without the object.
struct Answered(WebSocketStream<TcpStream>);

impl Way for Answered {
    async fn new(stage: &Stage) -> Self {
        Answered(open(stage).await)
    }

    fn act(&self, stage: &Stage) -> LocalBoxFuture<'static, capnp::Result<()>> {
        let call = stage.x.set_answer_request().send().promise;
        call.map(|set| set.map(drop)).boxed_local()
    }

    async fn is_noticed(&mut self, _: &Stage) -> bool {
        self.0.send(Message::text("ping")).await.unwrap();
        let answer = self.0.next().await.unwrap().unwrap();
        answer.into_text().unwrap() != "nothing yet"
    }
}

#[test]
fn an_automatic_response_counts_when_what_was_written_before_is_on_disk() {
    check::<Answered>();
}

/// The acceptance of a WebSocket, over HTTP.
struct Accepted(Rc<Cell<bool>>);

impl Way for Accepted {
    async fn new(_: &Stage) -> Self {
        Accepted(Rc::default())
    }

    fn act(&self, stage: &Stage) -> LocalBoxFuture<'static, capnp::Result<()>> {
        let (http, noticed) = (stage.http.clone(), self.0.clone());
        async move {
            let stream = TcpStream::connect(&http).await?;
            let opened = client_async(format!("ws://{http}/Herald/x/count"), stream).await;
            opened.map_err(|error| capnp::Error::failed(error.to_string()))?;
            noticed.set(true);
            Ok(())
        }
        .boxed_local()
    }

    async fn is_noticed(&mut self, _: &Stage) -> bool {
        self.0.get()
    }
}

#[test]
fn a_web_socket_is_accepted_when_what_was_written_before_is_on_disk() {
    check::<Accepted>();
}

/// The answer to a message on a WebSocket over Cap'n Proto: that it was dealt with.
struct Heard {
    socket: Rc<ClientSocket>,
    noticed: Rc<Cell<bool>>,
}

impl Way for Heard {
    async fn new(stage: &Stage) -> Self {
        let mut request = Request::new(Body::empty());
        let upgrade = http::HeaderValue::from_static("websocket");
        request.headers_mut().insert(http::header::UPGRADE, upgrade);
        let object: stub::Client = stage.x.clone().cast_to();
        let mut response = ask(&object, request).await.unwrap();
        let socket = response.body_mut().take_socket().unwrap();
        Heard {
            socket: Rc::new(socket),
            noticed: Rc::default(),
        }
    }

    fn act(&self, _: &Stage) -> LocalBoxFuture<'static, capnp::Result<()>> {
        let (socket, noticed) = (self.socket.clone(), self.noticed.clone());
        async move {
            send_frame(&socket.up, &Frame::Text("count".into())).await?;
            noticed.set(true);
            Ok(())
        }
        .boxed_local()
    }

    async fn is_noticed(&mut self, _: &Stage) -> bool {
        self.noticed.get()
    }
}

#[test]
fn a_message_on_a_web_socket_is_answered_when_what_was_written_for_it_is_on_disk() {
    check::<Heard>();
}

/// The answer to a request over HTTP.
struct Posted {
    stream: Rc<tokio::sync::Mutex<TcpStream>>,
    heard: Rc<Cell<bool>>,
}

impl Way for Posted {
    async fn new(stage: &Stage) -> Self {
        let stream = TcpStream::connect(&stage.http).await.unwrap();
        let stream = Rc::new(tokio::sync::Mutex::new(stream));
        let heard = Rc::default();
        Posted { stream, heard }
    }

    fn act(&self, _: &Stage) -> LocalBoxFuture<'static, capnp::Result<()>> {
        let (stream, heard) = (self.stream.clone(), self.heard.clone());
        let request = "POST /Herald/x/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
        async move {
            let mut stream = stream.lock().await;
            stream.write_all(request.as_bytes()).await?;
            let mut status = [0; 12];
            stream.read_exact(&mut status).await?;
            assert_eq!(&status, b"HTTP/1.1 200");
            heard.set(true);
            Ok(())
        }
        .boxed_local()
    }

    async fn is_noticed(&mut self, stage: &Stage) -> bool {
        // Others are answered meanwhile, over HTTP too.
        for _ in 0..20 {
            let mut stream = TcpStream::connect(&stage.http).await.unwrap();
            let request =
                "GET /Herald/other/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        self.heard.get()
    }
}

#[test]
fn a_request_over_http_is_answered_when_its_write_is_on_disk() {
    check::<Posted>();
}

/// The reading of a request's body, which lets its sender go on. Until then the client waits: it has not
/// sent more than the vat takes of a body that nobody reads.
struct BodyRead(Rc<Cell<usize>>);

/// Far more than the vat takes before somebody reads.
const CHUNKS: usize = 200;

impl Way for BodyRead {
    async fn new(_: &Stage) -> Self {
        BodyRead(Rc::default())
    }

    fn act(&self, stage: &Stage) -> LocalBoxFuture<'static, capnp::Result<()>> {
        let taken = self.0.clone();
        let chunks = stream::iter(0..CHUNKS).map(move |_| {
            taken.set(taken.get() + 1);
            Ok(Bytes::from_static(&[7; 8 << 10]))
        });
        let mut request = Request::new(Body::stream(chunks, None));
        *request.method_mut() = http::Method::POST;
        let object: stub::Client = stage.x.clone().cast_to();
        async move {
            let response = ask(&object, request).await?;
            let text = response.into_body().text(1024).await?;
            assert_eq!(text, format!("2 {}\n", CHUNKS * (8 << 10)));
            Ok(())
        }
        .boxed_local()
    }

    async fn is_noticed(&mut self, _: &Stage) -> bool {
        self.0.get() == CHUNKS
    }
}

#[test]
fn a_body_is_read_when_what_was_written_before_is_on_disk() {
    check::<BodyRead>();
}

/// How many objects with alarms an operator is told of.
async fn alarms(client: &LocalClient) -> usize {
    let mut request = client.session().alarms_request();
    request.get().set_limit(10);
    let told = request.send().promise.await.unwrap();
    told.get().unwrap().get_alarms().unwrap().len() as usize
}

#[test]
fn an_alarm_is_over_when_what_its_handler_wrote_is_on_disk() {
    let folder = tempdir().unwrap();
    let vat = vat(folder.path(), "");
    block_on(async {
        let stage = Stage::new(&vat).await;
        stage.x.count_request().send().promise.await.unwrap();
        stage.hear_everything().await;
        for killed in [false, true] {
            let mut request = stage.x.ring_request();
            request.get().set_after_ms(500);
            let ran = || {
                let outcome = "{class=\"Herald\",outcome=\"ok\"}";
                metric(&vat, &format!("vatwerk_alarm_runs_total{outcome}"))
            };
            let before = ran();
            request.send().promise.await.unwrap();
            assert_eq!(alarms(&stage.client).await, 1);
            let hold = Hold::journal(&vat);
            until("the handler has run", async || ran() > before).await;
            let client = stage.client.clone();
            let told = spawn_local(async move { alarms(&client).await });
            stage.hear_everything().await;
            // Either that it is there, or nothing.
            if told.is_finished() {
                assert_eq!(told.await.unwrap(), 1);
            }
            if killed {
                hold.kill(vat);
                break;
            }
            drop(hold);
            until("it is over", async || alarms(&stage.client).await == 0).await;
        }
    });
    // Of the run that the kill undid nothing is left, and the alarm runs again.
    let vat = super::vat(folder.path(), "");
    block_on(async {
        let client = connect(&vat).await;
        until("it is over", async || alarms(&client).await == 0).await;
    });
    assert_eq!(vat.call("Herald", "x", "read", "{}"), r#"{"number":3}"#);
}
