//! What an object's code holds: its storage, its identity, and the way to other objects.

use std::{future::poll_fn, rc::Rc, time::Duration};

use capnp::{capability::FromClientHook, traits::HasTypeId};
use tokio::time::timeout;
use vatwerk::ObjectId;

use super::{
    alarms::Alarms,
    awake::KeepAwake,
    facet::Facet,
    instance::Instance,
    namespace::Namespace,
    sections::Section,
    sockets::{ObjectSockets, Offer, WebSocket},
    stub::Stub,
};
use crate::{
    Error, Result,
    call::Hook,
    fetch::{Body, Request, Response, is_web_socket},
    metrics::Reset,
    storage::Storage,
};

/// How deep [`Context::block_concurrency_while`] may be nested.
const MAX_NESTING: u64 = 64;

/// One object, as its own code sees it. Cheap to clone. It belongs to one instance: when that is
/// gone, everything asked of it fails with `object-reset`.
#[derive(Clone)]
pub struct Context(Rc<Instance>);

impl Context {
    pub(super) fn new(instance: Rc<Instance>) -> Context {
        Context(instance)
    }

    /// The object's id.
    pub fn id(&self) -> ObjectId {
        self.0.slot.id
    }

    /// The object's name, if it was made by name, or has ever been reached by it.
    pub fn name(&self) -> Option<Rc<str>> {
        self.0.slot.name()
    }

    /// The object's storage. Synchronous: nothing else of the object runs meanwhile.
    pub fn storage(&self) -> &Storage {
        &self.0.storage
    }

    /// The object's alarms. `invalid-argument` if the class has no handler for them.
    pub fn alarms(&self) -> Result<Alarms> {
        let class = &self.0.slot.class;
        if !class.alarms {
            return Err(Error::InvalidArgument(format!(
                "class {} takes no alarms: implement Class::alarm, and set Class::ALARMS",
                class.name
            )));
        }
        Ok(Alarms::new(
            self.0.storage.alarms(),
            self.0.host.clock.clone(),
        ))
    }

    /// All objects of the class whose interface is `C`. `not-found` if the vat does not serve it.
    pub fn namespace<C: FromClientHook + HasTypeId>(&self) -> Result<Namespace<C>> {
        let class = self.0.host.classes.by_interface(C::TYPE_ID)?;
        Ok(Namespace::new(self.0.clone(), class.clone()))
    }

    /// All objects of the class of that name, to be cast to the interface that they answer.
    pub fn namespace_named(&self, name: &str) -> Result<Namespace<capnp::capability::Client>> {
        let class = self.0.host.classes.by_name(name)?;
        Ok(Namespace::new(self.0.clone(), class.clone()))
    }

    /// The object's own stub, to be passed to others or called like anybody's.
    pub fn stub<C: FromClientHook>(&self) -> C {
        C::new(self.0.inward(Box::new(Hook(Rc::new(self.own_stub())))))
    }

    /// A facet of the object, to be passed to others: a capability that names the object, as its stub
    /// does, and is served by [`Class::facet`](super::Class::facet) of the instance that is there when
    /// it is called. It outlives instances, and does not keep the object awake; capabilities of servers
    /// that a method makes end with their instance, and keep that awake. `name` says which facet it is:
    /// to the class only, for holders cannot read or change it. A facet cannot be saved.
    pub fn facet<C: FromClientHook>(&self, name: &str) -> C {
        C::new(self.0.inward(Facet::capability(self.own_stub(), name)))
    }

    fn own_stub(&self) -> Stub {
        let slot = &self.0.slot;
        Stub::new(&self.0.host, &slot.class, slot.id, slot.name())
    }

    /// A value of that type that the embedding program gave to its classes, with
    /// `Server::binding`.
    pub fn binding<T: 'static>(&self) -> Option<Rc<T>> {
        let binding = self.0.host.bindings.get(&std::any::TypeId::of::<T>())?;
        binding.clone().downcast().ok()
    }

    /// What time it is, in milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        self.0.host.clock.now_ms()
    }

    /// Waits. Other calls run meanwhile. The object stays awake if a call, or what
    /// [`Context::wait_until`] was given, waits for it.
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Accepts the WebSocket that `request` asks for, and has the object exist from then on: the socket, and
    /// the response that [`Class::fetch`](super::Class::fetch) is to return for it, whose headers may be
    /// changed. What is sent before it has been returned waits. The vat holds the socket from then on: the object may
    /// fall asleep, and wakes with the next message. `tags`, at most 10 of at most 256 bytes, are for
    /// [`Context::web_sockets`].
    ///
    /// `invalid-argument` if the request does not ask for one, or the class takes none;
    /// `limit-exceeded` if there are more tags, or if the object has 32,768 sockets.
    pub fn accept_web_socket(
        &self,
        request: &Request,
        tags: &[&str],
    ) -> Result<(WebSocket, Response)> {
        let slot = &self.0.slot;
        if !slot.class.web_sockets {
            return Err(Error::InvalidArgument(format!(
                "class {} takes no WebSockets: implement Class::web_socket_message, and set \
                 Class::WEB_SOCKETS",
                slot.class.name
            )));
        }
        if request.method() != http::Method::GET || !is_web_socket(request.headers()) {
            let error = "the request does not ask for a WebSocket";
            return Err(Error::InvalidArgument(error.into()));
        }
        let socket = self.sockets().open(tags)?;
        // The socket outlives the instance, and is to find the same object.
        self.0.storage.come_into_being()?;
        let mut response = Response::new(Body::accepted(Offer::new(socket.clone())));
        *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
        Ok((WebSocket::new(socket, self.0.clone()), response))
    }

    /// The object's WebSockets: those with a tag, in the order in which they were accepted, or all, the
    /// newest first. Some may be closing.
    pub fn web_sockets(&self, tag: Option<&str>) -> Vec<WebSocket> {
        let found = self.0.host.sockets.find(self.0.slot.id);
        let sockets = found.map(|found| found.list(tag)).unwrap_or_default();
        let socket = |socket| WebSocket::new(socket, self.0.clone());
        sockets.into_iter().map(socket).collect()
    }

    /// From now on the vat answers the first text with the second on every WebSocket of the object,
    /// without waking it: a heartbeat costs next to nothing. `None`: no more. Each is at most 2,048
    /// bytes. It is kept as long as the sockets are: until the object is reset, or sleeps without any, or
    /// the vat ends.
    pub fn set_web_socket_auto_response(&self, pair: Option<(&str, &str)>) -> Result<()> {
        let set = self.sockets().set_auto_response(pair)?;
        self.0.say(set);
        Ok(())
    }

    /// What [`Context::set_web_socket_auto_response`] has set.
    pub fn web_socket_auto_response(&self) -> Option<(String, String)> {
        let pair = self.0.host.sockets.find(self.0.slot.id)?.set_response()?;
        Some((pair.request.clone(), pair.response.clone()))
    }

    /// Limits how long a handler of a WebSocket may take: after that the object is reset. At most a week;
    /// `None` or zero: no limit. Kept like the automatic response.
    pub fn set_web_socket_event_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        self.sockets().set_event_timeout(timeout)
    }

    /// What [`Context::set_web_socket_event_timeout`] has set.
    pub fn web_socket_event_timeout(&self) -> Option<Duration> {
        self.0.host.sockets.find(self.0.slot.id)?.event_timeout()
    }

    fn sockets(&self) -> Rc<ObjectSockets> {
        let (host, slot) = (&self.0.host, &self.0.slot);
        host.sockets.of(host, &slot.class, slot.id)
    }

    /// Goes on with `work` when the call at hand has ended, and when its caller is gone. The object stays
    /// awake until it is done, and a vat that stops waits for it as for a call. If it fails, that is
    /// logged. A reset of the object ends it, as it ends calls.
    ///
    /// `overloaded` if as many calls, other events and such works are in flight as `limits.calls_per_object`
    /// or `limits.calls_per_vat` allow; `object-reset` if the instance is ending.
    pub fn wait_until(
        &self,
        work: impl Future<Output = capnp::Result<()>> + 'static,
    ) -> Result<()> {
        self.0.wait_until(Box::pin(work))
    }

    /// Waits until the caller of the event at hand has hung up; for ever in events without a caller. A
    /// class with [`FINISH_CALLS`](super::Class::FINISH_CALLS), or code in a section, learns by this that
    /// nobody waits for its answer; other calls are dropped where they wait.
    pub async fn caller_gone(&self) {
        match self.0.current() {
            Some(flow) => poll_fn(|cx| flow.poll_caller_gone(cx)).await,
            None => std::future::pending().await,
        }
    }

    /// Waits until the vat is told to stop. Streams that would go on for ever can end themselves then, with a
    /// last word: the vat waits for them as for calls, for `drain_ms`, and cuts them off after that.
    pub async fn vat_stops(&self) {
        self.0.host.stops().await;
    }

    /// Runs `work` while nothing else of the object does: no call is let in, and calls that run do not
    /// go on, except for calls on what `work` itself hands out. May be nested, up to 64 deep. If
    /// `work` fails, or takes longer than 30 s, the object is reset: everybody who waits for it gets
    /// `object-reset`, and the turn is undone.
    pub async fn block_concurrency_while<T>(
        &self,
        work: impl Future<Output = capnp::Result<T>>,
    ) -> capnp::Result<T> {
        let instance = &self.0;
        let current = instance.current_section();
        // Only code that runs outside of any event has to wait.
        instance.sections.admitted(current.as_ref()).await;
        Error::check_limit(
            "the nesting of block_concurrency_while (calls)",
            MAX_NESTING,
            1 + instance.sections.depth(current.as_ref()) as u64,
        )?;
        let limit = instance.host.limits.blocked;
        let section = instance.open_section();
        let failure = match timeout(limit, work).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error.extra,
            Err(_) => format!("it took longer than {} s", limit.as_secs_f32()),
        };
        let error = Error::InstanceFailed(format!("in block_concurrency_while: {failure}"));
        // Before the others may go on.
        instance.break_off(error.clone(), Reset::Blocked);
        drop(section);
        Err(error.into())
    }

    /// Waits until everything that the object has written so far is on disk. An object that did not exist does
    /// from then on. `storage-failed` or `outcome-unknown` if that cannot be, or takes longer than 30 s.
    pub async fn sync(&self) -> Result<()> {
        self.0.storage.come_into_being()?;
        // What this turn has written is committed when it ends.
        tokio::task::yield_now().await;
        self.0.gate.synced().await
    }

    /// Ends the instance after this turn: calls in flight get `object-reset`, and the next call
    /// wakes the object from what is on disk. The turn itself is undone, and so is what it said.
    pub fn abort(&self, reason: &str) {
        self.0.break_off(
            Error::ObjectReset(format!("the object aborted: {reason}")),
            Reset::Abort,
        );
    }

    /// Deletes the object for good when this turn is over: its storage, its alarms, its name and its row in
    /// the catalog. An object that has expired leaves nothing, in memory or on disk.
    ///
    /// The rest of the turn runs as usual, and what it writes is deleted too. What it answers leaves when
    /// the deletion is on disk. A turn that fails, by a panic or [`Context::abort`], deletes nothing. After the
    /// turn the instance is gone: a method that goes on past it, and other calls in flight, get
    /// `object-reset`, sockets are closed as by a reset, and calls that wait make the object anew.
    ///
    /// `invalid-argument` in `create`, which fails instead, and in a task that the class has spawned.
    pub fn delete_self(&self) -> Result<()> {
        self.0.delete_self()
    }

    /// Holds back all other events of the object from now on, until the section is dropped. What
    /// the event at hand hands out may still be called. `None` inside a section.
    pub(crate) fn open_section(&self) -> Option<Section> {
        let sections = &self.0.sections;
        let depth = sections.depth(self.0.current_section().as_ref());
        (depth == 0).then(|| self.0.open_section())
    }

    /// Hands out a server of this instance without keeping the instance awake for it: the server holds
    /// what [`Context::keep_awake`] returns as long as there is something to lose.
    pub(crate) fn lend<C: FromClientHook>(&self, cap: C) -> C {
        C::new(self.0.lend(cap.into_client_hook()))
    }

    /// Keeps the instance awake as long as the result lives.
    pub(crate) fn keep_awake(&self) -> KeepAwake {
        KeepAwake::new(&self.0)
    }

    /// How long a transaction capability may stay open.
    pub(crate) fn transaction_limit(&self) -> std::time::Duration {
        self.0.host.limits.transaction
    }
}
