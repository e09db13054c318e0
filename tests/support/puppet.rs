//! A class whose code is in the tests: each call does a deed that the test has written, in the object.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    marker::PhantomData,
    rc::Rc,
    time::Duration,
};

use capnp::capability::{FromClientHook, RemotePromise};
use futures::future::LocalBoxFuture;
use vatwerk::object_capnp::stub;
use vatwerk_server::{
    AlarmInfo, Body, Class, Context, Request, Response, SocketClose, SocketMessage, WebSocket,
    fetch::{ClientSocket, ask},
    http::header::UPGRADE,
    storage::SqlFunctions,
    testing::TestVat,
};

use crate::puppet_capnp::puppet;
pub use crate::puppet_capnp::puppet::Client;

type Deed = Box<dyn FnOnce(Rc<Own>, Option<Client>) -> LocalBoxFuture<'static, Done>>;

type Answer = Box<dyn FnOnce(Rc<Own>, Request) -> LocalBoxFuture<'static, capnp::Result<Response>>>;

/// The capability to be returned, if any.
type Done = capnp::Result<Option<Client>>;

thread_local! {
    /// Those of the test of this thread that are not done yet; a call has the number of one.
    static DEEDS: RefCell<Vec<Option<Deed>>> = const { RefCell::new(Vec::new()) };
    /// Likewise, for requests, which have the number in a header field.
    static ANSWERS: RefCell<Vec<Option<Answer>>> = const { RefCell::new(Vec::new()) };
}

/// The header field with the number of the deed that answers a request.
pub const DEED: &str = "x-deed";

/// What a deed is done with.
pub struct Own {
    pub ctx: Context,
    /// Nothing keeps it but the instance.
    pub memory: Cell<u32>,
    /// Dropped with the instance.
    pub kept: RefCell<Option<Box<dyn Any>>>,
}

impl Own {
    pub fn put(&self, key: &str, value: &str) -> vatwerk_server::Result<()> {
        self.ctx.storage().kv().put(key, value)
    }

    pub fn get(&self, key: &str) -> vatwerk_server::Result<Option<String>> {
        self.ctx.storage().kv().get(key)
    }

    /// Another object of the class.
    pub fn other(&self, name: &str) -> Client {
        let all = self.ctx.namespace().expect("the vat serves it");
        all.get(name).expect("a name")
    }

    /// A capability of the object's own.
    pub fn handle(self: &Rc<Self>) -> Client {
        capnp_rpc::new_client(Handle(self.clone()))
    }

    /// A capability that names the object: whatever instance is there answers as by its handle.
    pub fn facet(&self) -> Client {
        self.ctx.facet(FACET)
    }
}

/// The one facet that there is.
const FACET: &str = "handle";

/// Sends a deed. It is under way when this returns.
pub fn act<T: 'static>(
    on: &Client,
    deed: impl AsyncFnOnce(Rc<Own>) -> capnp::Result<T> + 'static,
) -> LocalBoxFuture<'static, capnp::Result<T>> {
    let sent = send(on, None, async |own, _| Ok((deed(own).await?, None)));
    Box::pin(async move { Ok(sent.await?.0) })
}

/// Sends a deed, and a capability to do it with.
pub fn give<T: 'static>(
    on: &Client,
    cap: Client,
    deed: impl AsyncFnOnce(Rc<Own>, Client) -> capnp::Result<T> + 'static,
) -> LocalBoxFuture<'static, capnp::Result<T>> {
    let deed = async |own, given: Option<Client>| {
        let given = given.expect("it was sent");
        Ok((deed(own, given).await?, None))
    };
    let sent = send(on, Some(cap), deed);
    Box::pin(async move { Ok(sent.await?.0) })
}

/// Sends a deed that returns a capability.
pub fn obtain(
    on: &Client,
    deed: impl AsyncFnOnce(Rc<Own>) -> capnp::Result<Client> + 'static,
) -> LocalBoxFuture<'static, capnp::Result<Client>> {
    let sent = send(on, None, async |own, _| Ok(((), Some(deed(own).await?))));
    Box::pin(async move { Ok(sent.await?.1.expect("it returned one")) })
}

fn send<T: 'static>(
    on: &Client,
    given: Option<Client>,
    deed: impl AsyncFnOnce(Rc<Own>, Option<Client>) -> capnp::Result<(T, Option<Client>)> + 'static,
) -> LocalBoxFuture<'static, capnp::Result<(T, Option<Client>)>> {
    let said = Rc::new(Cell::new(None));
    let deed: Deed = Box::new({
        let said = said.clone();
        move |own, given| {
            Box::pin(async move {
                let (value, cap) = deed(own, given).await?;
                said.set(Some(value));
                Ok(cap)
            })
        }
    });
    let mut request = on.act_request();
    request.get().set_deed(number(deed));
    if let Some(given) = given {
        request.get().set_given(given);
    }
    let answer = request.send().promise;
    Box::pin(async move {
        let answer = answer.await?;
        let answer = answer.get()?;
        let cap = answer.has_cap().then(|| answer.get_cap()).transpose()?;
        Ok((said.take().expect("it was done"), cap))
    })
}

/// Keeps a deed for a call that the test makes itself, in whatever thread: the number to send.
pub fn prepare(deed: impl AsyncFnOnce(Rc<Own>, Option<Client>) -> Done + 'static) -> u32 {
    let deed: Deed = Box::new(move |own, given| Box::pin(deed(own, given)));
    DEEDS.with_borrow_mut(|deeds| {
        deeds.push(Some(deed));
        deeds.len() as u32 - 1
    })
}

/// Sends a request, and what answers it. It is under way when this is first polled.
pub async fn fetch(
    on: &Client,
    request: Request,
    answer: impl AsyncFnOnce(Rc<Own>, Request) -> capnp::Result<Response> + 'static,
) -> capnp::Result<Response> {
    let mut request = request;
    request.headers_mut().insert(DEED, keep(answer).into());
    let object: stub::Client = on.clone().cast_to();
    ask(&object, request).await
}

/// Keeps what answers the request that has this number in the field [`DEED`].
pub fn keep(
    answer: impl AsyncFnOnce(Rc<Own>, Request) -> capnp::Result<Response> + 'static,
) -> usize {
    let answer: Answer = Box::new(move |own, request| Box::pin(answer(own, request)));
    ANSWERS.with_borrow_mut(|answers| {
        answers.push(Some(answer));
        answers.len() - 1
    })
}

/// Sends a deed that returns a capability, and returns the call as it is: its promise and its pipeline.
pub fn sent(
    on: &Client,
    deed: impl AsyncFnOnce(Rc<Own>) -> capnp::Result<Client> + 'static,
) -> RemotePromise<puppet::act_results::Owned> {
    let deed: Deed = Box::new(|own, _| Box::pin(async { Ok(Some(deed(own).await?)) }));
    let mut request = on.act_request();
    request.get().set_deed(number(deed));
    request.send()
}

/// Keeps a deed; returns its number.
fn number(deed: Deed) -> u32 {
    DEEDS.with_borrow_mut(|deeds| {
        deeds.push(Some(deed));
        deeds.len() as u32 - 1
    })
}

/// Opens a WebSocket, which the object accepts with these tags.
pub async fn connect(on: &Client, tags: &'static [&'static str]) -> capnp::Result<ClientSocket> {
    let accept =
        async move |own: Rc<Own>, request| Ok(own.ctx.accept_web_socket(&request, tags)?.1);
    let mut response = fetch(on, wants_socket(), accept).await?;
    assert_eq!(response.status(), 101);
    Ok(response.body_mut().take_socket().expect("a WebSocket"))
}

/// A request for a WebSocket.
pub fn wants_socket() -> Request {
    let mut request = Request::new(Body::empty());
    request
        .headers_mut()
        .insert(UPGRADE, "websocket".parse().expect("a value"));
    request
}

/// Stores a text.
pub async fn put(object: &Client, key: &'static str, value: &'static str) -> capnp::Result<()> {
    act(object, async move |own| Ok(own.put(key, value)?)).await
}

/// What is stored.
pub async fn get(object: &Client, key: &'static str) -> capnp::Result<Option<String>> {
    act(object, async move |own| Ok(own.get(key)?)).await
}

/// What happened, in order. Cheap to clone.
#[derive(Clone, Default)]
pub struct Log(Rc<RefCell<Vec<&'static str>>>);

impl Log {
    pub fn note(&self, what: &'static str) {
        self.0.borrow_mut().push(what);
    }

    /// What was noted since this was last asked.
    pub fn take(&self) -> Vec<&'static str> {
        self.0.take()
    }
}

async fn perform(
    own: Rc<Own>,
    params: puppet::ActParams,
    mut results: puppet::ActResults,
) -> capnp::Result<()> {
    let params = params.get()?;
    let given = params.has_given().then(|| params.get_given()).transpose()?;
    let number = params.get_deed() as usize;
    let deed = DEEDS.with_borrow_mut(|deeds| deeds[number].take());
    let deed = deed.expect("a call is delivered once");
    if let Some(cap) = deed(own, given).await? {
        results.get().set_cap(cap);
    }
    Ok(())
}

/// What else there is to a class.
pub trait Program: 'static {
    const SERIAL: bool = false;
    const FINISH_CALLS: bool = false;
    const CALL_LIMIT: Option<Duration> = None;
    const WEB_SOCKETS: bool = true;
    const MIGRATIONS: &'static [&'static str] = &[];
    const STATE_VERSION: u32 = 0;
    const STATEMENT_MS: Option<u64> = None;

    fn sql_functions(functions: &mut SqlFunctions<'_>) -> vatwerk_server::Result<()> {
        let _ = functions;
        Ok(())
    }

    fn migrate(_ctx: &Context, _from: u32) -> capnp::Result<()> {
        Ok(())
    }

    fn create(_ctx: &Context) -> impl Future<Output = capnp::Result<()>> {
        async { Ok(()) }
    }

    fn activate(_ctx: &Context) -> impl Future<Output = capnp::Result<()>> {
        async { Ok(()) }
    }

    /// An instance is there.
    fn awake(_own: &Own) {}

    fn alarm(_own: Rc<Own>, _alarm: AlarmInfo) -> impl Future<Output = capnp::Result<()>> {
        async { Ok(()) }
    }

    /// Says the same.
    fn message(
        _own: Rc<Own>,
        socket: WebSocket,
        message: SocketMessage,
    ) -> impl Future<Output = capnp::Result<()>> {
        async move { Ok(socket.send(message)?) }
    }

    fn closed(
        _own: Rc<Own>,
        _socket: WebSocket,
        _close: SocketClose,
    ) -> impl Future<Output = capnp::Result<()>> {
        async { Ok(()) }
    }

    fn failed(
        _own: Rc<Own>,
        _socket: WebSocket,
        _reason: String,
    ) -> impl Future<Output = capnp::Result<()>> {
        async { Ok(()) }
    }
}

/// Nothing else.
pub struct Plain;

impl Program for Plain {}

/// A vat that serves puppets, and one of them.
pub async fn vat() -> (TestVat, Client) {
    let vat = TestVat::start(|server| server.class::<Puppet>()).await;
    let object = vat.object("p");
    (vat, object)
}

pub struct Puppet<P = Plain>(Rc<Own>, PhantomData<P>);

impl<P: Program> Class for Puppet<P> {
    const NAME: &'static str = "Puppet";
    const SCHEMA: &'static [u8] = include_bytes!("puppet.cgr");
    const SERIAL: bool = P::SERIAL;
    const FINISH_CALLS: bool = P::FINISH_CALLS;
    const CALL_LIMIT: Option<Duration> = P::CALL_LIMIT;
    const MIGRATIONS: &'static [&'static str] = P::MIGRATIONS;
    const STATE_VERSION: u32 = P::STATE_VERSION;
    const STATEMENT_MS: Option<u64> = P::STATEMENT_MS;

    fn sql_functions(functions: &mut SqlFunctions<'_>) -> vatwerk_server::Result<()> {
        P::sql_functions(functions)
    }
    const ALARMS: bool = true;
    const FETCH: bool = true;
    const WEB_SOCKETS: bool = P::WEB_SOCKETS;
    type Client = Client;

    fn migrate(ctx: &Context, from: u32) -> capnp::Result<()> {
        P::migrate(ctx, from)
    }

    async fn create(ctx: &Context) -> capnp::Result<()> {
        P::create(ctx).await
    }

    async fn activate(ctx: Context) -> capnp::Result<Self> {
        P::activate(&ctx).await?;
        let own = Rc::new(Own {
            ctx,
            memory: Cell::default(),
            kept: RefCell::default(),
        });
        P::awake(&own);
        Ok(Puppet(own, PhantomData))
    }

    fn facet(self: Rc<Self>, name: &str) -> capnp::Result<capnp::capability::Client> {
        assert_eq!(name, FACET);
        Ok(self.0.handle().client)
    }

    async fn alarm(self: Rc<Self>, alarm: AlarmInfo) -> capnp::Result<()> {
        P::alarm(self.0.clone(), alarm).await
    }

    async fn fetch(self: Rc<Self>, request: Request) -> capnp::Result<Response> {
        let number = request
            .headers()
            .get(DEED)
            .and_then(|number| number.to_str().ok());
        let number: usize = number
            .and_then(|number| number.parse().ok())
            .expect("a deed");
        let answer = ANSWERS.with_borrow_mut(|answers| answers[number].take());
        answer.expect("a request is delivered once")(self.0.clone(), request).await
    }

    async fn web_socket_message(
        self: Rc<Self>,
        socket: WebSocket,
        message: SocketMessage,
    ) -> capnp::Result<()> {
        P::message(self.0.clone(), socket, message).await
    }

    async fn web_socket_close(
        self: Rc<Self>,
        socket: WebSocket,
        close: SocketClose,
    ) -> capnp::Result<()> {
        P::closed(self.0.clone(), socket, close).await
    }

    async fn web_socket_error(
        self: Rc<Self>,
        socket: WebSocket,
        reason: String,
    ) -> capnp::Result<()> {
        P::failed(self.0.clone(), socket, reason).await
    }
}

impl<P: Program> puppet::Server for Puppet<P> {
    async fn act(
        self: Rc<Self>,
        params: puppet::ActParams,
        results: puppet::ActResults,
    ) -> capnp::Result<()> {
        perform(self.0.clone(), params, results).await
    }
}

struct Handle(Rc<Own>);

impl puppet::Server for Handle {
    async fn act(
        self: Rc<Self>,
        params: puppet::ActParams,
        results: puppet::ActResults,
    ) -> capnp::Result<()> {
        perform(self.0.clone(), params, results).await
    }
}
