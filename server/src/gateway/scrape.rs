//! Answers to operators, over HTTP: the numbers of a vat at `/metrics`, and whether it works.
//!
//! | path | 200 as long as |
//! |---|---|
//! | `/livez` | the vat's thread gets on: a process for which this is 503 is to be restarted |
//! | `/readyz` | the vat takes writes and commits them: otherwise nobody is to be sent here |
//! | `/healthz` | as `/readyz` |
//!
//! Otherwise they answer 503, with a line for each reason.
//!
//! Operators are answered by a thread of their own, so that a vat whose thread is held answers too. Its
//! readings, the numbers that only the vat's thread can read, are then those of the last time.

use std::{
    convert::Infallible,
    io,
    rc::Rc,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
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
    sync::{Notify, Semaphore, oneshot, watch},
    task::LocalSet,
};
use vatwerk::Address;

use super::{
    Access, BindError, Hosts, Permission,
    host::BadHost,
    listener::{Listener, Stream},
};
use crate::{
    health::{Health, Problem, Services, thread_or_abort},
    metrics::{Exposition, Metrics, Vitals},
};

/// How many may ask at a time.
const CONNECTIONS: usize = 16;

/// How long a request may take to arrive.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// How long a connection may last: it is for one request.
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);

/// How long a request may be, in bytes; the least that `hyper` takes.
const REQUEST_BYTES: usize = 8192;

/// How long the vat's thread may take to bring its readings up to date, before they are shown as of the
/// last time.
const REFRESH_LIMIT: Duration = Duration::from_secs(1);

/// What operators are told. Cheap to clone.
#[derive(Clone)]
pub struct Scrape {
    health: Health,
    exposition: Exposition,
    hosts: Hosts,
    refresh: Arc<Refresh>,
}

/// Has the vat's thread bring its readings up to date.
#[derive(Default)]
struct Refresh {
    asked: Notify,
    done: watch::Sender<()>,
}

/// The thread that answers operators. Ends when this is dropped.
pub struct Operators {
    address: Address,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Scrape {
    /// The health of a vat, its numbers, and the names by which operators call it.
    pub fn new(health: Health, exposition: Exposition, hosts: Hosts) -> Scrape {
        Scrape {
            health,
            exposition,
            hosts,
            refresh: Arc::default(),
        }
    }

    /// Brings readings up to date whenever an operator asks, for ever. To be run on the vat's thread.
    pub async fn refresh(self, metrics: Metrics) {
        loop {
            self.refresh.asked.notified().await;
            metrics.refresh();
            self.refresh.done.send_replace(());
        }
    }

    /// Starts a thread that answers whoever asks at `address`. Returns when it listens.
    pub fn start(
        self,
        address: &Address,
        permission: Permission,
        access: Access,
        services: Services,
    ) -> Result<Operators, BindError> {
        let io = |source| BindError::Io {
            address: address.clone(),
            source,
        };
        let (bound, is_bound) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(io)?;
        let at = address.clone();
        let work = move || {
            let serve = async move {
                let listener = match Listener::bind(&at, permission, access).await {
                    Ok(listener) => Rc::new(listener),
                    Err(error) => return drop(bound.send(Err(error))),
                };
                // It is waited for.
                let _ = bound.send(Ok(listener.address().clone()));
                let begin = move || self.clone().accept(listener.clone());
                services.run("operators", begin);
                let _ = stopped.await;
            };
            LocalSet::new().block_on(&runtime, serve);
        };
        let thread = thread::Builder::new()
            .name("operators".into())
            .spawn(move || thread_or_abort("operators", work))
            .map_err(io)?;
        let ended = || io(io::Error::other("the thread of operators ended"));
        let address = is_bound.recv().map_err(|_| ended())??;
        Ok(Operators {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Answers whoever asks at `listener`, for ever, 16 at a time: others wait in the socket's
    /// queue.
    async fn accept(self, listener: Rc<Listener>) {
        let this = Rc::new(self);
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let serve = |stream, room| {
            let this = this.clone();
            tokio::task::spawn_local(async move {
                match stream {
                    Stream::Tcp(stream) => this.serve(stream, true).await,
                    Stream::Unix(stream) => this.serve(stream, false).await,
                }
                drop(room);
            });
        };
        let admit = async || room.clone().acquire_owned().await.ok();
        listener.each(admit, serve).await;
    }

    /// Serves one connection to its end.
    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin, is_tcp: bool) {
        let service = service_fn(async |request: Request<Incoming>| {
            let host = self.hosts.check(request.uri(), request.headers());
            let answer = match host {
                Err(bad) if is_tcp => misdirected(bad),
                _ => self.answer(request.method(), request.uri().path()).await,
            };
            Ok::<_, Infallible>(answer)
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

    async fn answer(&self, method: &Method, path: &str) -> Response<String> {
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        let (status, text) = match path {
            "/metrics" | "/livez" | "/readyz" | "/healthz" if !is_read => {
                let told = "only GET and HEAD\n".into();
                (StatusCode::METHOD_NOT_ALLOWED, told)
            }
            "/metrics" => (StatusCode::OK, self.numbers().await),
            "/livez" => told(self.health.held().as_slice()),
            "/readyz" | "/healthz" => told(&self.health.problems()),
            _ => (StatusCode::NOT_FOUND, "not found\n".into()),
        };
        let mut response = page(status, text);
        if status == StatusCode::METHOD_NOT_ALLOWED {
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(header::ALLOW, allowed);
        }
        response
    }

    async fn numbers(&self) -> String {
        let mut done = self.refresh.done.subscribe();
        self.refresh.asked.notify_one();
        // A vat whose thread is held is seen by its other numbers.
        let _ = tokio::time::timeout(REFRESH_LIMIT, done.changed()).await;
        self.exposition.encode(Vitals {
            busy: self.health.busy().unwrap_or_default(),
            turn_running: self.health.turn_running(),
            is_draining: self.health.is_stopping(),
            is_journal_down: self.health.is_journal_down(),
            disk_free: self.health.free_bytes(),
        })
    }
}

fn page(status: StatusCode, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let text = HeaderValue::from_static(Metrics::CONTENT_TYPE);
    headers.insert(header::CONTENT_TYPE, text);
    let sniffing = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, sniffing);
    response
}

/// What is said to who calls the vat by a name that is none of its own.
fn misdirected(bad: BadHost) -> Response<String> {
    let (status, told) = match bad {
        BadHost::Malformed => (
            StatusCode::BAD_REQUEST,
            "several Hosts, or none that is text\n",
        ),
        BadHost::Unknown => (
            StatusCode::MISDIRECTED_REQUEST,
            "operators do not call this vat by that Host: `metrics_hosts` in its settings names those by which \
             they do\n",
        ),
    };
    page(status, told.into())
}

/// That all is well, or what is not, a line each.
fn told(problems: &[Problem]) -> (StatusCode, String) {
    if problems.is_empty() {
        return (StatusCode::OK, "ok\n".into());
    }
    let lines = problems.iter().map(|problem| format!("{problem}\n"));
    (StatusCode::SERVICE_UNAVAILABLE, lines.collect())
}

impl Operators {
    /// Where it listens, with the real port.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl Drop for Operators {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // It does not panic: that would have ended the process.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::Instant,
    };

    use super::*;
    use crate::health::{Limits, Names};

    fn scrape() -> Scrape {
        let health = Health::new(Limits::default(), Names::default());
        Scrape::new(health, Metrics::new("1", 0).exposition(), Hosts::default())
    }

    // Nobody brings readings up to date: as if the vat's thread were held.
    #[tokio::test(start_paused = true)]
    async fn pages_methods_and_the_end_of_a_vat() {
        let scrape = scrape();
        let cases = [
            (Method::GET, "/metrics", 200, "vatwerk_build_info"),
            (Method::GET, "/healthz", 200, "ok"),
            (Method::GET, "/livez", 200, "ok"),
            (Method::GET, "/readyz", 200, "ok"),
            // `hyper` leaves the body out.
            (Method::HEAD, "/metrics", 200, "vatwerk_build_info"),
            (Method::HEAD, "/livez", 200, "ok"),
            (Method::HEAD, "/readyz", 200, "ok"),
            (Method::HEAD, "/healthz", 200, "ok"),
            (Method::POST, "/metrics", 405, "only GET and HEAD"),
            (Method::PUT, "/livez", 405, "only GET and HEAD"),
            (Method::DELETE, "/readyz", 405, "only GET and HEAD"),
            (Method::OPTIONS, "/healthz", 405, "only GET and HEAD"),
            (Method::GET, "/", 404, "not found"),
            (Method::POST, "/metrics/", 404, "not found"),
        ];
        for (method, path, status, said) in cases {
            let response = scrape.answer(&method, path).await;
            assert_eq!(response.status(), status, "{method} {path}");
            assert!(response.body().contains(said), "{method} {path}");
        }
        scrape.health.stopping();
        for path in ["/healthz", "/readyz"] {
            let health = scrape.answer(&Method::GET, path).await;
            assert_eq!(health.status(), 503);
            assert_eq!(health.body(), "stopping\n");
        }
        let live = scrape.answer(&Method::GET, "/livez").await;
        assert_eq!(live.status(), 200);
        let numbers = scrape.answer(&Method::GET, "/metrics").await;
        assert_eq!(numbers.status(), 200);
        let numbers = numbers.body();
        assert!(numbers.contains("vatwerk_draining 1\n"), "{numbers}");
        assert!(numbers.contains("vatwerk_journal_down 0\n"), "{numbers}");
        assert!(
            numbers.contains("vatwerk_disk_free_bytes NaN\n"),
            "{numbers}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_holds_a_place_for_ever() {
        let scrape = scrape();
        // Who does not say what it wants, and who does not read the answer.
        for (said, limit) in [
            ("GET /met", REQUEST_LIMIT),
            ("GET /metrics HTTP/1.1\r\n\r\n", CONNECTION_LIMIT),
        ] {
            let started = Instant::now();
            let (mut client, server) = duplex(32);
            client.write_all(said.as_bytes()).await.unwrap();
            scrape.serve(server, true).await;
            let took = started.elapsed();
            assert!(took >= limit && took < 2 * limit, "{said}: {took:?}");
        }
    }

    #[tokio::test]
    async fn a_long_request_is_refused() {
        let scrape = scrape();
        let (mut client, server) = duplex(1 << 20);
        let long = format!("GET /metrics HTTP/1.1\r\nlong: {}\r\n", "x".repeat(9000));
        client.write_all(long.as_bytes()).await.unwrap();
        scrape.serve(server, true).await;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }

    #[tokio::test]
    async fn operators_call_the_vat_by_its_names() {
        let mut scrape = scrape();
        scrape.hosts = Hosts::new(&["vat.example".into()]);
        for (host, is_tcp, status) in [
            ("host: vat.example:9464\r\n", true, 200),
            ("host: 10.0.0.1:9464\r\n", true, 200),
            ("", true, 200),
            ("host: evil.example\r\n", true, 421),
            ("host: evil.example\r\n", false, 200),
            ("host: a\r\nhost: b\r\n", true, 400),
        ] {
            for path in ["/metrics", "/livez", "/readyz", "/healthz"] {
                let (mut client, server) = duplex(1 << 20);
                let ask = format!("GET {path} HTTP/1.1\r\n{host}\r\n");
                client.write_all(ask.as_bytes()).await.unwrap();
                scrape.serve(server, is_tcp).await;
                let mut answer = String::new();
                client.read_to_string(&mut answer).await.unwrap();
                let start = format!("HTTP/1.1 {status} ");
                assert!(answer.starts_with(&start), "{path} {host}: {answer}");
            }
        }
    }
}
