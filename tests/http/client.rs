//! Clients: one that does what HTTP says, and one that says anything.

use bytes::Bytes;
use futures::{Stream, stream};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{JoinHandle, spawn_local},
};
use tokio_tungstenite::{WebSocketStream, client_async};
use vatwerk::Address;
use vatwerk_server::http::{HeaderMap, Request, Response};

use crate::support::TestVat;

type Sent = UnsyncBoxBody<Bytes, capnp::Error>;

/// A connection.
pub async fn connect(vat: &TestVat) -> TcpStream {
    let Address::Tcp { host, port } = vat.http() else {
        panic!("not at a port")
    };
    let stream = TcpStream::connect((host.as_str(), *port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A client of one connection.
pub enum Client {
    One(http1::SendRequest<Sent>),
    Two(http2::SendRequest<Sent>),
}

/// Runs what `hyper` has to do beside.
#[derive(Clone)]
struct Local;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        spawn_local(task);
    }
}

impl Client {
    /// HTTP/1.1.
    pub async fn one(vat: &TestVat) -> Client {
        let stream = TokioIo::new(connect(vat).await);
        let (send, connection) = http1::handshake(stream).await.unwrap();
        spawn_local(connection);
        Client::One(send)
    }

    /// HTTP/2.
    pub async fn two(vat: &TestVat) -> Client {
        let stream = TokioIo::new(connect(vat).await);
        let (send, connection) = http2::handshake(Local, stream).await.unwrap();
        spawn_local(connection);
        Client::Two(send)
    }

    /// That version.
    pub async fn of_version(version: u8, vat: &TestVat) -> Client {
        match version {
            1 => Client::one(vat).await,
            _ => Client::two(vat).await,
        }
    }

    /// Both.
    pub async fn each(vat: &TestVat) -> [Client; 2] {
        [Client::one(vat).await, Client::two(vat).await]
    }

    /// Sends a request whose body is a stream.
    pub async fn stream(
        &mut self,
        request: Request<()>,
        body: impl Stream<Item = Bytes> + Send + 'static,
    ) -> hyper::Result<Response<Incoming>> {
        let (mut head, ()) = request.into_parts();
        let frames = futures::StreamExt::map(body, |piece| Ok(Frame::data(piece)));
        let body = BodyExt::boxed_unsync(StreamBody::new(frames));
        match self {
            Client::One(send) => {
                let host = "localhost".parse().unwrap();
                head.headers.entry("host").or_insert(host);
                send.ready().await?;
                send.send_request(Request::from_parts(head, body)).await
            }
            Client::Two(send) => {
                let path = head.uri.path_and_query().unwrap().as_str();
                let host = head.headers.remove("host");
                let host = host.as_ref().map_or("localhost", |it| it.to_str().unwrap());
                head.uri = format!("http://{host}{path}").parse().unwrap();
                send.ready().await?;
                send.send_request(Request::from_parts(head, body)).await
            }
        }
    }

    /// Sends a request, and reads the whole answer.
    pub async fn send(&mut self, request: Request<&'static str>) -> Answer {
        let (head, text) = request.into_parts();
        let mut request = Request::from_parts(head, ());
        let body = match text {
            "" => stream::iter(None),
            text => {
                let length = text.len().to_string().parse().unwrap();
                request
                    .headers_mut()
                    .entry("content-length")
                    .or_insert(length);
                stream::iter(Some(Bytes::from_static(text.as_bytes())))
            }
        };
        let response = self.stream(request, body).await.expect("an answer");
        let (head, body) = response.into_parts();
        let whole = body.collect().await.expect("a whole body").to_bytes();
        Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            text: String::from_utf8(whole.into()).expect("text"),
        }
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(Request::get(path).body("").unwrap()).await
    }

    pub async fn post(&mut self, path: &str, body: &'static str) -> Answer {
        self.send(Request::post(path).body(body).unwrap()).await
    }
}

/// A connection of HTTP/2 frame by frame, whose streams have the usual window of 64 KiB each. Aborting the
/// task closes it without a word.
pub async fn frames(vat: &TestVat) -> (h2::client::SendRequest<Bytes>, JoinHandle<()>) {
    let stream = connect(vat).await;
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(16 << 20);
    let (send, connection) = builder.handshake(stream).await.unwrap();
    let driver = spawn_local(async move {
        let _ = connection.await;
    });
    (send.ready().await.unwrap(), driver)
}

/// A WebSocket to an object, as a browser opens it.
pub async fn web_socket(vat: &TestVat) -> WebSocketStream<TcpStream> {
    let request = Request::get("ws://localhost/Page/n/socket")
        .header("host", "localhost")
        .header("connection", "keep-alive, Upgrade")
        .header("upgrade", "websocket")
        .header("origin", "http://localhost")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", "chat");
    let request = request.body(()).unwrap();
    let opened = client_async(request, connect(vat).await).await;
    let (socket, answer) = opened.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
    socket
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    /// The code of an error, which is told twice, and its message.
    #[track_caller]
    pub fn error(&self) -> (u16, String, String) {
        let said: serde_json::Value = serde_json::from_str(&self.text).expect("JSON");
        let code = said["error"]["code"].as_str().unwrap();
        assert_eq!(self.headers["vatwerk-error"], code);
        assert_eq!(self.headers["content-type"], "application/json");
        let message = said["error"]["message"].as_str().unwrap();
        (self.status, code.into(), message.into())
    }
}

/// What the vat says to these bytes until it closes the connection.
pub async fn raw(vat: &TestVat, said: &[u8]) -> String {
    let mut stream = connect(vat).await;
    // The vat may have heard enough before the end.
    let _ = stream.write_all(said).await;
    rest(&mut stream).await
}

/// What comes until the end.
pub async fn rest(stream: &mut TcpStream) -> String {
    let mut heard = Vec::new();
    // It may end with a reset.
    let _ = stream.read_to_end(&mut heard).await;
    String::from_utf8_lossy(&heard).into_owned()
}
