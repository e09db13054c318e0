//! The gateway of the vat's own program: code that sees each request before an object does.

use std::{net::IpAddr, rc::Rc, task::Poll};

use capnp::{capability::FromClientHook, traits::HasTypeId};
use futures::future::{LocalBoxFuture, poll_fn};
use http::{HeaderMap, Method, Uri, request::Parts};

use super::{
    Ends, Http, Problem,
    route::{Named, Route, Want},
};
use crate::{
    Error,
    fetch::{Response, drop_hop_by_hop, is_web_socket},
    object::Directory,
    panics::{Panic, caught},
};

/// The code of a [`Server::gateway`](crate::Server::gateway).
pub type Hook = Rc<dyn Fn(GatewayRequest) -> Passing>;

/// What the code of a gateway does with a request.
pub type Passing = LocalBoxFuture<'static, Result<GatewayRequest, Box<Response>>>;

/// An HTTP request that has reached no object yet, as a [`Server::gateway`](crate::Server::gateway) sees it: its
/// head, who sends it, and the object it is for.
///
/// Of its header there is what the client may say: fields that begin with `vatwerk-` are dropped, whoever sends
/// them, and what proxies say is dropped unless `trusted_proxies` has their address.
pub struct GatewayRequest {
    directory: Directory,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    peer: Option<IpAddr>,
    object: Option<Named>,
    called: Option<String>,
}

impl GatewayRequest {
    /// The method of HTTP.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The URL as the client sent it: over HTTP/1 without scheme and host, as a rule.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The header.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The header, to be changed before [`Class::fetch`](crate::Class::fetch) sees it. A field that begins with
    /// `vatwerk-` cannot come from outside: the class may trust it. Methods that are called as JSON do not see the
    /// header.
    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }

    /// The address of the connection's other end, which may be a proxy's. `None` at a unix socket.
    pub fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// The class and the name of the object that the request is for. `None` if its path is that of no object. There
    /// need not be such a class.
    pub fn object(&self) -> Option<(&str, &str)> {
        let object = self.object.as_ref()?;
        Some((&object.class, &object.name))
    }

    /// Has another object answer. The rest of the path stays; of a path that is of no object it is all of it.
    pub fn set_object(&mut self, class: impl Into<String>, name: impl Into<String>) {
        self.object = Some(Named {
            class: class.into(),
            name: name.into(),
        });
    }

    /// A stub of the object of that name, of 1 to 1,024 bytes, of the class whose interface is `C`: one that knows
    /// sessions, or counts for a quota. What it answers is durable.
    ///
    /// # Errors
    ///
    /// `not-found` if the vat does not serve the class, `invalid-argument` for the name.
    pub fn stub<C: FromClientHook + HasTypeId>(&self, name: &str) -> Result<C, Error> {
        let class = self.directory.class_by_interface(C::TYPE_ID)?;
        self.directory.stub_of_name(&class, name)
    }

    /// The method of the class that the request calls, if it is a call: any name that the client has sent.
    pub fn called(&self) -> Option<&str> {
        self.called.as_deref()
    }

    /// Whether it asks for a WebSocket.
    pub fn is_web_socket(&self) -> bool {
        is_web_socket(&self.headers)
    }
}

/// Has the hook look at a request, for a limited time. Returns where it goes.
pub(super) async fn pass(
    http: &Http,
    hook: &Hook,
    head: &mut Parts,
    ends: Ends,
    route: Option<Route>,
) -> Result<Result<Route, Response>, Problem> {
    let limit = http.settings.limits.gateway;
    let (object, want) = route.map(|it| (it.object, it.want)).unzip();
    let called = match &want {
        Some(Want::Call(method)) => Some(method.clone()),
        _ => None,
    };
    let request = GatewayRequest {
        directory: http.directory.clone(),
        method: head.method.clone(),
        uri: head.uri.clone(),
        headers: std::mem::take(&mut head.headers),
        peer: ends.peer,
        object,
        called,
    };
    let passed = tokio::time::timeout(limit, guarded(hook, request)).await;
    let passed = passed.map_err(|_| Problem::SlowGateway(limit))?;
    let passed = passed.map_err(|Panic { message, place }| {
        let place = place.unwrap_or_default();
        Problem::Gateway(format!(
            "the gateway of the program panicked: {message} {place}"
        ))
    })?;
    let request = match passed {
        Ok(request) => request,
        Err(answer) => return answered(*answer).map(Err),
    };
    head.headers = request.headers;
    let route = match (request.object, want) {
        (None, _) => Err(Problem::NoSuchPath),
        (Some(object), Some(want)) => Ok(Route { object, want }),
        (Some(object), None) => Route::of_object(object, head.uri.path()),
    };
    route.map(Ok)
}

/// Runs the hook, which may panic.
async fn guarded(
    hook: &Hook,
    request: GatewayRequest,
) -> Result<Result<GatewayRequest, Box<Response>>, Panic> {
    let mut passing = caught(|| hook(request))?;
    poll_fn(|cx| match caught(|| passing.as_mut().poll(cx)) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

/// An answer of the hook's own, which is the whole answer to the request.
fn answered(mut answer: Response) -> Result<Response, Problem> {
    if answer.status().is_informational() {
        let said = format!(
            "the gateway of the program answered with {}",
            answer.status()
        );
        return Err(Problem::Gateway(said));
    }
    drop_hop_by_hop(answer.headers_mut());
    Ok(answer)
}
