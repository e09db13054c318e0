//! The floors: `hyper` and `tokio-tungstenite` doing the same work with nothing around them.

use std::{cell::RefCell, convert::Infallible, task::Poll};

use bytes::Bytes;
use futures::{SinkExt, StreamExt, channel::mpsc};
use http_body_util::{BodyExt, Either, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{LocalSet, spawn_local},
};
use tokio_tungstenite::{accept_async, tungstenite::Message};

/// The body of an answer: a text, or so many bytes in pieces.
type Body = Either<Full<Bytes>, Dots>;

/// Serves connections by `connection`, for ever.
pub fn serve<F: Future + 'static>(connection: impl Fn(TcpStream) -> F) -> ! {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("listening http {}", listener.local_addr().expect("a port"));
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            stream.set_nodelay(true).expect("a connection");
            spawn_local(connection(stream));
        }
    })
}

/// Answers requests as the example does: `/` with its text, `/bytes/N` and `/length`.
pub async fn hyper(stream: TcpStream) {
    let service = service_fn(async |request: Request<Incoming>| {
        let path = request.uri().path();
        let body: Body = match path.strip_prefix("/bytes/").map(str::parse) {
            Some(length) => Either::Right(Dots(length.expect("a number"))),
            None if path == "/length" => {
                let mut length = 0;
                let mut body = request.into_body();
                while let Some(frame) = body.frame().await {
                    let frame = frame.expect("a body");
                    length += frame.data_ref().map_or(0, Bytes::len);
                }
                Either::Left(format!("{length}\n").into())
            }
            None => Either::Left("There is an echo here.\n".into()),
        };
        Ok::<_, Infallible>(Response::new(body))
    });
    let connection = hyper::server::conn::http1::Builder::new();
    // Whoever hangs up ends it.
    let _ = connection
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// So many bytes.
pub struct Dots(u64);

impl http_body::Body for Dots {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        static PIECE: [u8; 64 << 10] = [b'.'; 64 << 10];
        let piece = self.0.min(PIECE.len() as u64);
        self.0 -= piece;
        let bytes = Bytes::from_static(&PIECE[..piece as usize]);
        Poll::Ready((piece > 0).then(|| Ok(http_body::Frame::data(bytes))))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.0)
    }
}

thread_local! {
    /// Where broadcasts go.
    static ALL: RefCell<Vec<mpsc::UnboundedSender<Message>>> = const { RefCell::new(Vec::new()) };
}

/// Sends each message back.
pub async fn echo(stream: TcpStream) {
    let Ok(mut socket) = accept_async(stream).await else {
        return;
    };
    while let Some(Ok(message)) = socket.next().await {
        if is_told(&message) && socket.send(message).await.is_err() {
            return;
        }
    }
}

/// Sends each message to all sockets.
pub async fn broadcast(stream: TcpStream) {
    let Ok(socket) = accept_async(stream).await else {
        return;
    };
    let (tell, told) = mpsc::unbounded();
    ALL.with_borrow_mut(|all| all.push(tell));
    let (sink, mut messages) = socket.split();
    spawn_local(told.map(Ok).forward(sink));
    while let Some(Ok(message)) = messages.next().await {
        if is_told(&message) {
            ALL.with_borrow(|all| {
                for socket in all {
                    // It may have hung up.
                    let _ = socket.unbounded_send(message.clone());
                }
            });
        }
    }
}

fn is_told(message: &Message) -> bool {
    message.is_text() || message.is_binary()
}
