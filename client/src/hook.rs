//! The hook behind every capability that a client hands out: it never breaks.

use std::{cell::RefCell, rc::Rc};

use capnp::{
    Error, MessageSize, any_pointer,
    capability::{FromClientHook, Promise, RemotePromise, Request},
    private::capability::{ClientHook, ParamsHook, PipelineHook, RequestHook, ResultsHook},
};

use crate::{
    connection::{Connection, innermost},
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
    /// Calls are held back, in order, until there is a connection.
    Waiting(Box<dyn ClientHook>),
}

/// Where the next call goes.
enum Route {
    Live(Box<dyn ClientHook>, Rc<Connection>),
    Waiting(Box<dyn ClientHook>),
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
                let hook = self.wait();
                (Route::Waiting(hook.add_ref()), Target::Waiting(hook))
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
            Target::Waiting(hook) if hook.get_resolved().is_none() => {
                return Some(Route::Waiting(hook.add_ref()));
            }
            Target::Waiting(hook) | Target::Asked(hook) => innermost(&**hook),
        };
        let connection = live.filter(|connection| connection.owns(&*target))?;
        Some(Route::Live(target, connection.clone()))
    }

    /// A capability that holds calls back until there is a connection.
    fn wait(self: &Rc<Self>) -> Box<dyn ClientHook> {
        let (connecting, path) = (self.link.connected(), self.path.clone());
        let this = Rc::downgrade(self);
        let hook = capnp_rpc::new_future_client::<capnp::capability::Client>(async move {
            let target = connecting.await?.capability(&path);
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
        hook
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
        let waits = matches!(route, Route::Waiting(_));
        let request: Box<dyn RequestHook> = match route {
            Route::Live(target, connection) => {
                let request = target.new_call(interface_id, method_id, size_hint);
                Box::new(LiveRequest {
                    request: request.hook,
                    target,
                    interface_id,
                    method_id,
                    connection,
                })
            }
            Route::Waiting(target) => target.new_call(interface_id, method_id, size_hint).hook,
        };
        let link = self.0.link.clone();
        Request::new(Box::new(StubRequest {
            request,
            link,
            waits,
        }))
    }

    fn call(
        &self,
        interface_id: u64,
        method_id: u16,
        params: Box<dyn ParamsHook>,
        results: Box<dyn ResultsHook>,
    ) -> Promise<(), Error> {
        let route = self.0.route();
        let waits = matches!(route, Route::Waiting(_));
        pass(
            &self.0.link,
            waits,
            || false,
            move || match route {
                Route::Live(target, connection) => {
                    let answer = target.call(interface_id, method_id, params, results);
                    connection.guard(answer)
                }
                Route::Waiting(target) => target.call(interface_id, method_id, params, results),
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
            Route::Waiting(_) => None,
        }
    }

    fn when_more_resolved(&self) -> Option<Promise<Box<dyn ClientHook>, Error>> {
        None
    }

    fn when_resolved(&self) -> Promise<(), Error> {
        Promise::ok(())
    }
}

/// A request on a live connection.
struct LiveRequest {
    request: Box<dyn RequestHook>,
    target: Box<dyn ClientHook>,
    interface_id: u64,
    method_id: u16,
    connection: Rc<Connection>,
}

impl LiveRequest {
    /// The request, or the target's error in its place if the target broke while the request was
    /// being built. capnp-rpc would copy such a request to where the target has gone, and trips
    /// over capabilities among its parameters.
    fn checked(self) -> (Box<dyn RequestHook>, Rc<Connection>) {
        let target = innermost(&*self.target);
        let request = if target.get_brand() == self.target.get_brand() {
            self.request
        } else {
            target
                .new_call(self.interface_id, self.method_id, None)
                .hook
        };
        (request, self.connection)
    }
}

impl RequestHook for LiveRequest {
    fn get(&mut self) -> any_pointer::Builder<'_> {
        self.request.get()
    }

    fn get_brand(&self) -> usize {
        self.request.get_brand()
    }

    fn send(self: Box<Self>) -> RemotePromise<any_pointer::Owned> {
        let (request, connection) = self.checked();
        let RemotePromise { promise, pipeline } = request.send();
        RemotePromise {
            promise: connection.guard(promise),
            pipeline,
        }
    }

    fn send_streaming(self: Box<Self>) -> Promise<(), Error> {
        let (request, connection) = self.checked();
        connection.guard(request.send_streaming())
    }

    fn tail_send(self: Box<Self>) -> Option<(u32, Promise<(), Error>, Box<dyn PipelineHook>)> {
        self.checked().0.tail_send()
    }
}
