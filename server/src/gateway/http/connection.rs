//! One connection, and the requests on it.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    pin::pin,
    rc::{Rc, Weak},
    time::Duration,
};

use futures::future::AbortHandle;
use http::{HeaderName, HeaderValue, Method, StatusCode, Version, header, request::Parts};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    Ends, Http, Problem, STREAM, URL_BYTES,
    body::{Coming, Leaving, Taken},
    call,
    failure::{About, Failure},
    forward::{forward, moved},
    hook,
    patient::{Flag, Patient},
    proxy::drop_claims,
    route::{Named, Route, Want},
};
use crate::{
    fetch::{Body, Response},
    gateway::{
        host::{self, BadHost},
        pace::{Pace, Waited},
        room::Place,
    },
    metrics::{HttpKind, Overload, Slow},
};

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");

/// How long a connection that is asked to end may take, if nothing is under way.
const ENDING: Duration = Duration::from_secs(5);

/// An answer that is watched.
struct Wait {
    taken: Weak<Cell<Waited>>,
    /// Resets its stream, if it is one of HTTP/2.
    stream: Option<AbortHandle>,
}

impl Wait {
    /// When it is too late to take the piece that waits, if one does.
    fn late(&self, pace: &Pace) -> Option<Instant> {
        self.taken.upgrade()?.get().deadline(pace)
    }
}

/// One connection.
pub(super) struct Connection {
    pub http: Rc<Http>,
    pub ends: Ends,
    /// Its place among the vat's connections, which a WebSocket takes over.
    pub room: Rc<Place>,
    under_way: Cell<usize>,
    quiet_since: Cell<Instant>,
    waits: RefCell<Vec<Wait>>,
    finish: Notify,
    /// Whether the client has not sent the whole of a request, and whether it waits for an answer over
    /// HTTP/1.
    unread: Flag,
    awaits: Flag,
}

impl Connection {
    pub fn new(http: Rc<Http>, ends: Ends, room: Place) -> Connection {
        Connection {
            http,
            ends,
            room: Rc::new(room),
            under_way: Cell::default(),
            quiet_since: Cell::new(Instant::now()),
            waits: RefCell::default(),
            finish: Notify::new(),
            unread: Flag::default(),
            awaits: Flag::default(),
        }
    }

    /// Has it end when what is under way is answered.
    pub fn finish(&self) {
        self.finish.notify_one();
    }

    /// Serves it to its end, or until `hyper` has let go of it.
    pub async fn serve<S>(self: Rc<Self>, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = &self.http.settings.limits;
        let service = service_fn(|request: hyper::Request<Incoming>| {
            let this = self.clone();
            async move { Ok::<_, Infallible>(this.answer::<S>(request).await) }
        });
        let stream = TokioIo::new(Patient::new(
            stream,
            limits.stall,
            self.unread.clone(),
            self.awaits.clone(),
        ));
        let hyper = &self.http.hyper;
        let mut connection = pin!(hyper.serve_connection_with_upgrades(stream, service));
        let mut is_ending = false;
        loop {
            let idle = if is_ending { ENDING } else { limits.idle };
            let look = self.look_at(idle);
            tokio::select! {
                end = connection.as_mut() => {
                    if let Err(error) = end {
                        tracing::debug!(%error, "an HTTP connection ended");
                    }
                    return;
                }
                () = self.finish.notified() => {}
                () = sleep_until(look) => {
                    if self.end_stalled() {
                        return tracing::debug!("nobody reads an answer over HTTP");
                    }
                    // It may have become quiet only now.
                    if self.under_way.get() > 0 || self.quiet_since.get().elapsed() < idle {
                        continue;
                    }
                    if is_ending {
                        return;
                    }
                }
            }
            is_ending = true;
            self.quiet_since.set(Instant::now());
            connection.as_mut().graceful_shutdown();
        }
    }

    /// When to look whether it goes on: when the first of its answers has waited too long. One that begins to
    /// wait only then has not yet by the time of that look.
    fn look_at(&self, idle: Duration) -> Instant {
        let pace = self.http.settings.limits.pace();
        let waits = self.waits.borrow();
        let first = waits.iter().filter_map(|wait| wait.late(&pace)).min();
        let look = first.unwrap_or_else(|| Instant::now() + pace.patience);
        match self.under_way.get() {
            0 => look.min(self.quiet_since.get() + idle),
            _ => look,
        }
    }

    fn watch(&self, taken: &Taken) {
        let mut waits = self.waits.borrow_mut();
        if waits.len() > 2 * self.under_way.get() + 16 {
            waits.retain(|wait| wait.taken.strong_count() > 0);
        }
        waits.push(Wait {
            taken: taken.watch(),
            stream: STREAM.try_with(Clone::clone).ok(),
        });
    }

    /// Resets the streams whose answers nobody has taken on for too long. Whether the connection has to end,
    /// because it has no streams.
    fn end_stalled(&self) -> bool {
        let pace = self.http.settings.limits.pace();
        let now = Instant::now();
        let is_stalled = |wait: &Wait| wait.late(&pace).is_some_and(|late| now >= late);
        let mut waits = self.waits.borrow_mut();
        waits.retain(|wait| wait.taken.strong_count() > 0);
        let stalled: Vec<_> = waits.extract_if(.., |wait| is_stalled(wait)).collect();
        drop(waits);
        for wait in stalled {
            self.http.directory.metrics().http_slow(Slow::Answer);
            match wait.stream {
                Some(stream) => stream.abort(),
                None => return true,
            }
        }
        false
    }

    /// Answers one request.
    async fn answer<S>(
        self: Rc<Self>,
        mut request: hyper::Request<Incoming>,
    ) -> hyper::Response<Leaving>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let under_way = UnderWay::new(self.clone());
        let began = Instant::now();
        self.awaits.set(request.version() < Version::HTTP_2);
        let on_upgrade = hyper::upgrade::on(&mut request);
        let (mut head, body) = request.into_parts();
        let body = Coming::new(body, head.version, self.unread.clone());
        let origin = head.headers.get(header::ORIGIN).cloned();
        let (is_head, version) = (head.method == Method::HEAD, head.version);
        let mut about = None;
        let answered = match self.check(&mut head) {
            Ok(Some(response)) => Ok(response),
            Ok(None) => self.route::<S>(head, body, on_upgrade, &mut about).await,
            Err(problem) => Err(problem),
        };
        let mut response = answered.unwrap_or_else(|problem| {
            if problem.is_slow_body() {
                self.http.directory.metrics().http_slow(Slow::Body);
            }
            if let Some(failure) = problem.failure() {
                self.http.tell(about.as_ref(), &failure);
            }
            problem.into_response()
        });
        self.http
            .settings
            .origins
            .mark(origin.as_ref(), response.headers_mut());
        if is_head {
            leave_body_out(&mut response);
        }
        mind_status(&mut response);
        protect(&mut response);
        if version == Version::HTTP_2 {
            response.headers_mut().remove(header::CONNECTION);
            response.headers_mut().remove(header::UPGRADE);
        }
        self.http
            .count(about.as_ref(), response.status(), began.elapsed());
        let taken = Taken::new();
        self.watch(&taken);
        let held = self.http.held.clone();
        response.map(|body| Leaving::new(body, held, taken, about, under_way))
    }

    /// What is refused whatever it is about, or answered here.
    fn check(&self, head: &mut Parts) -> Result<Option<Response>, Problem> {
        let Http {
            settings, requests, ..
        } = &*self.http;
        let limits = &settings.limits;
        if self.http.draining.get() {
            return Err(Problem::Stopping);
        }
        if requests.get() > limits.requests {
            self.http
                .directory
                .metrics()
                .overloaded(Overload::HttpRequests);
            let what = "the vat (requests under way over HTTP)";
            return Err(Problem::Busy(what, limits.requests));
        }
        if self.http.held.sum() > limits.held_bytes {
            return Err(self.http.no_room(None));
        }
        if head.method == Method::CONNECT {
            // An object's answer would make a tunnel of the connection.
            return Err(Problem::NoSuchPath);
        }
        if head.headers.len() > limits.head_fields {
            return Err(Problem::ManyFields(limits.head_fields));
        }
        let url = head.uri.path_and_query().map_or("", |url| url.as_str());
        if url.len() > URL_BYTES {
            return Err(Problem::LongUrl(URL_BYTES));
        }
        self.check_host(head)?;
        Ok(settings.origins.preflight(head))
    }

    /// Refuses a request whose `Host` is none of the vat's, or that has none. One that its URL says is the header's
    /// from here on.
    fn check_host(&self, head: &mut Parts) -> Result<(), Problem> {
        let settings = &self.http.settings;
        let host = host::host(&head.uri, &head.headers).map_err(|_| Problem::NoHost)?;
        let Some(said) = host else {
            // No browser.
            let is_old = head.version < Version::HTTP_11;
            return if is_old { Ok(()) } else { Err(Problem::NoHost) };
        };
        let name = host::name(said);
        let is_objects = settings
            .objects
            .as_ref()
            .is_some_and(|it| it.read(name).is_some());
        if self.ends.is_tcp && !is_objects {
            let known = settings.hosts.check(&head.uri, &head.headers);
            known.map_err(|bad| match bad {
                BadHost::Malformed => Problem::NoHost,
                BadHost::Unknown => Problem::WrongHost,
            })?;
        }
        let said = HeaderValue::from_str(said).map_err(|_| Problem::NoHost)?;
        head.headers.insert(header::HOST, said);
        Ok(())
    }

    /// The route of a request: by its `Host`, if that is an object's, and by its path. `None` if that names no
    /// object.
    fn find(&self, head: &Parts) -> Result<Option<Route>, Problem> {
        let path = head.uri.path();
        let named = self.http.settings.objects.as_ref().and_then(|objects| {
            let said = head.headers.get(header::HOST)?.to_str().ok()?;
            objects.read(host::name(said))
        });
        let route = match named {
            None => Route::read(path),
            Some(None) => Err(Problem::NoSuchHost),
            Some(Some(labels)) => {
                let class = self.http.class_by_label(&labels.class);
                let class = class.map_or(labels.class, |class| class.name.to_owned());
                let name = labels.name;
                Route::of_object(Named { class, name }, path)
            }
        };
        match route {
            Err(Problem::NoSuchPath) => Ok(None),
            route => route.map(Some),
        }
    }

    async fn route<S>(
        self: &Rc<Self>,
        mut head: Parts,
        body: Coming,
        on_upgrade: hyper::upgrade::OnUpgrade,
        about: &mut Option<About>,
    ) -> Result<Response, Problem>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Http { settings, hook, .. } = &*self.http;
        let route = self.find(&head)?;
        let is_call = matches!(
            &route,
            Some(Route {
                want: Want::Call(_),
                ..
            })
        );
        settings.origins.check(&head, is_call)?;
        drop_claims(&mut head.headers, self.ends);
        let route = match hook {
            Some(hook) => match hook::pass(&self.http, hook, &mut head, self.ends, route).await? {
                Ok(route) => route,
                Err(answer) => return Ok(answer),
            },
            None => route.ok_or(Problem::NoSuchPath)?,
        };
        let Route { object, want } = route;
        let class = self.http.class(&object.class)?;
        crate::id::check_name(&object.name).map_err(|_| Problem::BadName)?;
        *about = Some(About {
            class: class.clone(),
            name: object.name.clone(),
            kind: match want {
                Want::Call(_) => HttpKind::Call,
                Want::Page(_) | Want::Moved(_) => HttpKind::Page,
            },
        });
        match want {
            Want::Call(method) => {
                call::call(&self.http, &class, &object.name, &method, &head, body).await
            }
            _ if !class.fetch => Err(Problem::NoPages(class.name)),
            Want::Moved(to) => Ok(moved(&to, head.uri.query())),
            Want::Page(prefix) => {
                let uri = head.uri.clone();
                let prefix = uri.path().get(..prefix).unwrap_or_default();
                forward::<S>(self, &class, &object.name, prefix, head, body, on_upgrade).await
            }
        }
    }
}

/// Says what a browser may take an answer for, unless the object has said so itself: what its type says, and
/// nothing of other origins' pages.
fn protect(response: &mut Response) {
    if response.status().is_informational() {
        return;
    }
    for (name, usual) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
    ] {
        let headers = response.headers_mut();
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(usual));
    }
}

/// Sees to it that the header says what the status wants: 204 has no length, and 426 says what to upgrade to.
fn mind_status(response: &mut Response) {
    match response.status() {
        StatusCode::NO_CONTENT => {
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        StatusCode::UPGRADE_REQUIRED => {
            let headers = response.headers_mut();
            let socket = HeaderValue::from_static("websocket");
            headers.entry(header::UPGRADE).or_insert(socket);
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        }
        _ => {}
    }
}

/// What an answer to `HEAD` is: the head, which says how long the body would be.
fn leave_body_out(response: &mut Response) {
    let body = std::mem::take(response.body_mut());
    if let Some(length @ 1..) = body.length() {
        let length = HeaderValue::from(length);
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length);
    }
    *response.body_mut() = Body::empty();
}

/// A request that is under way, as long as this is there.
pub(super) struct UnderWay(Rc<Connection>);

impl UnderWay {
    /// Counts and logs that the answer breaks off.
    pub fn breaks_off(&self, about: Option<&About>, error: capnp::Error) {
        if let Some(failure) = Failure::broken_off(error) {
            self.0.http.tell(about, &failure);
        }
    }

    fn new(connection: Rc<Connection>) -> UnderWay {
        let add = |count: &Cell<usize>| count.set(count.get() + 1);
        add(&connection.under_way);
        add(&connection.http.requests);
        UnderWay(connection)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let take = |count: &Cell<usize>| count.set(count.get() - 1);
        let Connection {
            http,
            under_way,
            quiet_since,
            ..
        } = &*self.0;
        take(under_way);
        self.0.awaits.set(false);
        take(&http.requests);
        quiet_since.set(Instant::now());
        http.less.notify_waiters();
    }
}
