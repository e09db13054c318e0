//! What an operator asks a vat, over HTTP: its numbers at `/metrics`, and at `/healthz` whether it
//! takes calls.

use std::{
    convert::Infallible,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
};

use super::{
    Gateway,
    listener::{Listener, Stream},
};
use crate::metrics::Metrics;

/// How many may ask at a time.
const CONNECTIONS: usize = 16;

/// How long a request may take to arrive.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// How long a connection may last: it is for one request.
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);

/// How long a request may be, in bytes; the least that `hyper` takes.
const REQUEST_BYTES: usize = 8192;

/// What operators are told.
pub struct Scrape {
    metrics: Metrics,
    gateway: Weak<Gateway>,
}

impl Scrape {
    /// The numbers, and whether calls are taken at `gateway`.
    pub fn new(metrics: Metrics, gateway: &Rc<Gateway>) -> Scrape {
        let gateway = Rc::downgrade(gateway);
        Scrape { metrics, gateway }
    }

    /// Answers whoever asks at `listener`, for ever, 16 at a time: others wait in the socket's
    /// queue.
    pub async fn accept(self, listener: Listener) {
        let this = Rc::new(self);
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let serve = |stream, room| {
            let this = this.clone();
            tokio::task::spawn_local(async move {
                match stream {
                    Stream::Tcp(stream) => this.serve(stream).await,
                    Stream::Unix(stream) => this.serve(stream).await,
                }
                drop(room);
            });
        };
        listener.each(room, serve).await;
    }

    /// Serves one connection to its end.
    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(async |request: Request<Incoming>| {
            Ok::<_, Infallible>(self.answer(request.method(), request.uri().path()))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_LIMIT)
            .max_buf_size(REQUEST_BYTES)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        match tokio::time::timeout(CONNECTION_LIMIT, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "answering an operator"),
            Err(_) => tracing::debug!("an operator took too long"),
        }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<String> {
        let (status, text) = match (method, path) {
            (&Method::GET, "/metrics") => (StatusCode::OK, self.metrics.encode()),
            (&Method::GET, "/healthz") if self.is_healthy() => (StatusCode::OK, "ok\n".into()),
            (&Method::GET, "/healthz") => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".into()),
            (_, "/metrics" | "/healthz") => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into()),
            _ => (StatusCode::NOT_FOUND, "not found\n".into()),
        };
        let mut response = Response::new(text);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let text = HeaderValue::from_static(Metrics::CONTENT_TYPE);
        headers.insert(header::CONTENT_TYPE, text);
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
        }
        response
    }

    fn is_healthy(&self) -> bool {
        let gateway = self.gateway.upgrade();
        gateway.is_some_and(|gateway| gateway.takes_calls())
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::Instant,
    };
    use vatwerk::vat_capnp::vat;

    use super::*;
    use crate::gateway::network;

    fn gateway() -> Rc<Gateway> {
        let nobody = capnp_rpc::new_future_client::<vat::Client>(std::future::pending());
        Gateway::new(nobody, 1, network::Limits::default())
    }

    #[tokio::test]
    async fn pages_methods_and_the_end_of_a_vat() {
        let gateway = gateway();
        let scrape = Scrape::new(Metrics::new("1", 0), &gateway);
        let cases = [
            (Method::GET, "/metrics", 200, "vatwerk_build_info"),
            (Method::GET, "/healthz", 200, "ok"),
            (Method::POST, "/metrics", 405, "only GET"),
            (Method::HEAD, "/healthz", 405, "only GET"),
            (Method::GET, "/", 404, "not found"),
            (Method::POST, "/metrics/", 404, "not found"),
        ];
        for (method, path, status, said) in cases {
            let response = scrape.answer(&method, path);
            assert_eq!(response.status(), status, "{method} {path}");
            assert!(response.body().contains(said), "{method} {path}");
        }
        gateway.finish_calls().await;
        assert_eq!(scrape.answer(&Method::GET, "/healthz").status(), 503);
        assert_eq!(scrape.answer(&Method::GET, "/metrics").status(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_holds_a_place_for_ever() {
        let gateway = gateway();
        let scrape = Scrape::new(Metrics::new("1", 0), &gateway);
        // Who does not say what it wants, and who does not read the answer.
        for (said, limit) in [
            ("GET /met", REQUEST_LIMIT),
            ("GET /metrics HTTP/1.1\r\n\r\n", CONNECTION_LIMIT),
        ] {
            let started = Instant::now();
            let (mut client, server) = duplex(32);
            client.write_all(said.as_bytes()).await.unwrap();
            scrape.serve(server).await;
            let took = started.elapsed();
            assert!(took >= limit && took < 2 * limit, "{said}: {took:?}");
        }
    }

    #[tokio::test]
    async fn a_long_request_is_refused() {
        let gateway = gateway();
        let scrape = Scrape::new(Metrics::new("1", 0), &gateway);
        let (mut client, server) = duplex(1 << 20);
        let long = format!("GET /metrics HTTP/1.1\r\nlong: {}\r\n", "x".repeat(9000));
        client.write_all(long.as_bytes()).await.unwrap();
        scrape.serve(server).await;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
}
