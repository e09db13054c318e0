//! The hook behind every capability that a client hands out: it never breaks.

use std::{cell::RefCell, rc::Rc};

use capnp::{
    Error, MessageSize, any_pointer,
    capability::{FromClientHook, Promise, RemotePromise, Request},
    private::capability::{ClientHook, ParamsHook, PipelineHook, RequestHook, ResultsHook},
};

use crate::{
    connection::{Connection, innermost},
    gate::{Place, Tally},
    link::Link,
    path::Path,
    request::{StubRequest, pass},
};

/// A capability that names what is at the end of a path, on whatever connection there is. It is
/// settled: it resolves to nothing, so nobody replaces it with what it leads to today.
pub(crate) struct Settled(Rc<SettledInner>);

pub(crate) struct SettledInner {
    link: Rc<Link>,
    path: Path,
    target: RefCell<Target>,
}

enum Target {
    /// Not asked for yet.
    Unknown,
    /// A capability of a connection, perhaps of one that has ended.
    Asked(Box<dyn ClientHook>),
    /// Calls are held back, in order, until there is a connection. They count until then.
    Waiting(Box<dyn ClientHook>, Rc<Tally>),
}

/// Where the next call goes.
enum Route {
    Live(Box<dyn ClientHook>, Rc<Connection>),
    Waiting(Box<dyn ClientHook>, Rc<Tally>),
}

impl Route {
    fn target(&self) -> &dyn ClientHook {
        match self {
            Route::Live(target, _) | Route::Waiting(target, _) => &**target,
        }
    }

    /// Whether a call may still be sent there.
    fn is_good(&self) -> bool {
        match self {
            Route::Live(target, connection) => {
                connection.is_live() && connection.owns(&*innermost(&**target))
            }
            Route::Waiting(target, _) => target.get_resolved().is_none(),
        }
    }

    /// The answer to a call that was sent there now.
    fn guard<T: 'static>(&self, answer: Promise<T, Error>) -> Promise<T, Error> {
        match self {
            Route::Live(_, connection) => connection.guard(answer),
            Route::Waiting(_, calls) => {
                let place = Place::new(calls);
                Promise::from_future(async move {
                    let outcome = answer.await;
                    drop(place);
                    outcome
                })
            }
        }
    }
}

impl Settled {
    pub(crate) fn new(inner: Rc<SettledInner>) -> Self {
        Settled(inner)
    }
}

impl SettledInner {
    pub(crate) fn new(link: Rc<Link>, path: Path) -> Self {
        SettledInner {
            link,
            path,
            target: RefCell::new(Target::Unknown),
        }
    }

    fn route(self: &Rc<Self>) -> Route {
        let live = self.link.live();
        if let Some(known) = self.known(live.as_ref()) {
            return known;
        }
        let (route, target) = match live {
            Some(connection) => {
                let hook = innermost(&*connection.capability(&self.path));
                (Route::Live(hook.add_ref(), connection), Target::Asked(hook))
            }
            None => {
                let (hook, calls) = self.wait();
                let route = Route::Waiting(hook.add_ref(), calls.clone());
                (route, Target::Waiting(hook, calls))
            }
        };
        let before = self.target.replace(target);
        // Outside of the borrow: it may release capabilities.
        drop(before);
        route
    }

    /// The target of the calls before, if it is still good. It must then be used: another one would
    /// lead to the same object, but calls could overtake each other.
    fn known(&self, live: Option<&Rc<Connection>>) -> Option<Route> {
        let target = match &*self.target.borrow() {
            Target::Unknown => return None,
            Target::Waiting(hook, calls) if hook.get_resolved().is_none() => {
                return Some(Route::Waiting(hook.add_ref(), calls.clone()));
            }
            Target::Waiting(hook, _) | Target::Asked(hook) => innermost(&**hook),
        };
        let connection = live.filter(|connection| connection.owns(&*target))?;
        Some(Route::Live(target, connection.clone()))
    }

    /// A capability that holds calls back until there is a connection, and how many they are.
    fn wait(self: &Rc<Self>) -> (Box<dyn ClientHook>, Rc<Tally>) {
        let (connecting, path) = (self.link.connected(), self.path.clone());
        let this = Rc::downgrade(self);
        let calls = Rc::new(Tally::new(self.link.gate().clone()));
        let waiting = calls.clone();
        let hook = capnp_rpc::new_future_client::<capnp::capability::Client>(async move {
            let connected = connecting.await;
            // From here on they count as calls of the connection, whoever looks at their answers.
            waiting.clear();
            let target = connected?.capability(&path);
            // The calls that were held back are sent when this returns. Sending one of them may ask
            // what this capability leads to, and the queue itself does not stand being asked then.
            if let Some(this) = this.upgrade() {
                let before = this.target.replace(Target::Asked(target.add_ref()));
                drop(before);
            }
            Ok(capnp::capability::Client::new(target))
        })
        .into_client_hook();
        // Callers may give up, so somebody else has to see to it that it resolves.
        if let Some(resolved) = hook.when_more_resolved() {
            tokio::task::spawn_local(async move {
                let _ = resolved.await;
            });
        }
        (hook, calls)
    }
}

impl Drop for SettledInner {
    fn drop(&mut self) {
        self.link.release(&self.path);
    }
}

impl ClientHook for Settled {
    fn add_ref(&self) -> Box<dyn ClientHook> {
        Box::new(Settled(self.0.clone()))
    }

    fn new_call(
        &self,
        interface_id: u64,
        method_id: u16,
        size_hint: Option<MessageSize>,
    ) -> Request<any_pointer::Owned, any_pointer::Owned> {
        let route = self.0.route();
        let request = route.target().new_call(interface_id, method_id, size_hint);
        Request::new(Box::new(StubRequest {
            request: Box::new(RoutedRequest {
                request: request.hook,
                route,
                settled: self.0.clone(),
                interface_id,
                method_id,
            }),
            link: self.0.link.clone(),
        }))
    }

    fn call(
        &self,
        interface_id: u64,
        method_id: u16,
        params: Box<dyn ParamsHook>,
        results: Box<dyn ResultsHook>,
    ) -> Promise<(), Error> {
        let settled = self.0.clone();
        pass(
            &self.0.link,
            || false,
            move || {
                let route = settled.route();
                let target = route.target();
                route.guard(target.call(interface_id, method_id, params, results))
            },
        )
    }

    fn get_brand(&self) -> usize {
        0
    }

    fn get_ptr(&self) -> usize {
        Rc::as_ptr(&self.0) as usize
    }

    /// What RPC sends when the capability is passed on: back to the vat its own, not a detour
    /// through this process.
    fn get_resolved(&self) -> Option<Box<dyn ClientHook>> {
        self.0.link.live()?;
        match self.0.route() {
            Route::Live(target, _) => Some(target),
            Route::Waiting(..) => None,
        }
    }

    fn when_more_resolved(&self) -> Option<Promise<Box<dyn ClientHook>, Error>> {
        None
    }

    fn when_resolved(&self) -> Promise<(), Error> {
        Promise::ok(())
    }
}

/// A request that goes where calls go when it is sent: not to the connection on which it was begun, if
/// that has ended since.
struct RoutedRequest {
    request: Box<dyn RequestHook>,
    route: Route,
    settled: Rc<SettledInner>,
    interface_id: u64,
    method_id: u16,
}

impl RoutedRequest {
    /// The request, or its copy on the route of now. capnp-rpc would copy a request whose target has
    /// broken to where that leads, and trips over capabilities among its parameters.
    fn ready(mut self) -> (Box<dyn RequestHook>, Route) {
        if self.route.is_good() {
            return (self.request, self.route);
        }
        let route = self.settled.route();
        let target = route.target();
        let mut request = target.new_call(self.interface_id, self.method_id, None);
        let params = self.request.get().into_reader();
        request
            .get()
            .set_as(params)
            .expect("a message of this process is well-formed");
        (request.hook, route)
    }
}

impl RequestHook for RoutedRequest {
    fn get(&mut self) -> any_pointer::Builder<'_> {
        self.request.get()
    }

    fn get_brand(&self) -> usize {
        self.request.get_brand()
    }

    fn send(self: Box<Self>) -> RemotePromise<any_pointer::Owned> {
        let (request, route) = self.ready();
        let RemotePromise { promise, pipeline } = request.send();
        RemotePromise {
            promise: route.guard(promise),
            pipeline,
        }
    }

    fn send_streaming(self: Box<Self>) -> Promise<(), Error> {
        let (request, route) = self.ready();
        route.guard(request.send_streaming())
    }

    /// For the connection that the request was begun on, and no other.
    fn tail_send(self: Box<Self>) -> Option<(u32, Promise<(), Error>, Box<dyn PipelineHook>)> {
        match self.route {
            Route::Live(..) if self.route.is_good() => self.request.tail_send(),
            _ => None,
        }
    }
}
