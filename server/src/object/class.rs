//! What users implement, and the classes that a vat serves.

use std::{
    collections::{BTreeMap, HashSet},
    future::Future,
    rc::Rc,
    time::Duration,
};

use capnp::{
    any_pointer,
    capability::{DispatchCallResult, FromServer, Params, Results, Server},
    traits::HasTypeId,
};
use futures::future::LocalBoxFuture;
use vatwerk::json::Schemas;

use super::{
    Context,
    sockets::{SocketClose, SocketMessage, WebSocket},
};
use crate::{
    Error, Result,
    alarm::AlarmInfo,
    fetch::{Request, Response},
    id::IdScheme,
    storage::{Register, SqlFunctions},
};

/// A kind of object.
///
/// Its methods are those of a Cap'n Proto interface: the type implements the generated `Server`
/// trait of [`Class::Client`]. One value of the type is one instance, awake in memory; everything it
/// must not lose it keeps in its storage.
///
/// ```no_run
/// use std::rc::Rc;
/// use vatwerk::{CODE_GENERATOR_REQUEST, counter_capnp::counter};
/// use vatwerk_server::{Class, Context};
///
/// struct Tally(Context);
///
/// impl Class for Tally {
///     const NAME: &'static str = "Tally";
///     const SCHEMA: &'static [u8] = CODE_GENERATOR_REQUEST;
///     type Client = counter::Client;
///
///     async fn activate(ctx: Context) -> capnp::Result<Self> {
///         Ok(Tally(ctx))
///     }
/// }
///
/// impl counter::Server for Tally {
///     async fn increment(
///         self: Rc<Self>,
///         params: counter::IncrementParams,
///         mut results: counter::IncrementResults,
///     ) -> capnp::Result<()> {
///         let kv = self.0.storage().kv();
///         let count = kv.get("count")?.unwrap_or(0) + params.get()?.get_amount();
///         kv.put("count", &count)?;
///         results.get().set_count(count);
///         Ok(())
///     }
/// }
/// ```
///
/// # Turns
///
/// Each poll of a method is a turn: what it writes between two awaits is committed as one, or, if it
/// panics, not at all. Nothing that it says, to its caller or to anybody else, leaves before what it
/// wrote is on disk. Other calls run while it awaits something. A method that returns an error has
/// still committed its writes. A turn holds the vat's thread, and with it every other object: one that
/// takes longer than the vat's setting `limits.long_turn_ms`, 100 ms unless told otherwise, is logged.
/// What computes for longer belongs on another thread (`tokio::task::spawn_blocking`). `set_pipeline` fixes
/// the results: what is written to them afterwards is not sent.
pub trait Class: Sized + 'static {
    /// The name it is served under: `[A-Z][A-Za-z0-9]*`, at most 64 bytes.
    const NAME: &'static str;

    /// The schema of its interface: `CODE_GENERATOR_REQUEST` of the module that
    /// [`vatwerk::schema!`] includes. Callers learn of the class from it.
    const SCHEMA: &'static [u8];

    /// The generated client of its interface. The interface's id is the identity of the class:
    /// types, files and interfaces may be renamed, and the objects are still found.
    type Client: FromServer<Self> + HasTypeId;

    /// Makes an object that does not exist, before its first [`Class::activate`].
    ///
    /// An object comes into being with its first write, not with a look at it: what this,
    /// [`Class::MIGRATIONS`] and the first `activate` write is one commit with the first write of a method, a
    /// request or an alarm. If the instance ends before, nothing of the object is kept, and the next call
    /// runs this again. So it runs once in the life of an object that has written, and any number of times
    /// for a name that is only looked at; what it leaves outside of the object should bear that.
    ///
    /// A `create` that says something, by a call to another object or a client, or sets an alarm, or awaits
    /// [`Context::sync`], makes the object by itself: what it has written is on disk before that leaves, each
    /// of its turns is a commit from then on, and the object exists when it ends.
    ///
    /// If it fails, nothing of the object is kept, and the next call tries again.
    fn create(ctx: &Context) -> impl Future<Output = capnp::Result<()>> {
        let _ = ctx;
        async { Ok(()) }
    }

    /// Whether the class takes alarms: set it where [`Class::alarm`] is implemented. Without it alarms
    /// cannot be set.
    const ALARMS: bool = false;

    /// Whether the class speaks HTTP: set it where [`Class::fetch`] is implemented.
    const FETCH: bool = false;

    /// Whether the class takes WebSockets: set it where [`Class::web_socket_message`] is implemented.
    const WEB_SOCKETS: bool = false;

    /// Whether the vat's HTTP listener lets anybody reach its objects: their [`Class::fetch`], and, as JSON,
    /// those of their methods that the schema opens: `$Http.open(true)` on an interface or on a method, of
    /// `/vatwerk/http.capnp`.
    const ON_GATEWAY: bool = true;

    /// Whether its objects take one call at a time, in order, instead of letting others in while one
    /// awaits something. A call that such a call causes, directly or by way of other objects of the
    /// vat, is let in: A -> B -> A does not wait for itself.
    const SERIAL: bool = false;

    /// Whether calls and requests go on when their callers are gone, to their end. Without it they are
    /// dropped where they wait next, outside of sections; what their turns have written is kept either
    /// way. What must go on beyond a single call is for [`Context::wait_until`]; see also
    /// [`Context::caller_gone`].
    const FINISH_CALLS: bool = false;

    /// How long one call or request may take, from its beginning: then it is dropped where it waits next,
    /// outside of sections, and its caller gets `limit-exceeded`. `None`: the vat's setting
    /// `limits.call_ms`; zero: no limit.
    const CALL_LIMIT: Option<Duration> = None;

    /// SQL that brings an object's tables up to date, oldest first: each is applied once in an
    /// object's life, before [`Class::create`] of a new one, and in the turn in which
    /// [`Class::activate`] begins of one that is behind. Append to them, and never change or remove
    /// one: objects know how many they have had. To make a table anew that foreign keys refer to, begin a
    /// migration with `PRAGMA foreign_keys = OFF`: the keys are not enforced in it, and are checked at its
    /// end. Together with [`Class::migrate`] they may take as long
    /// as the vat's setting `limits.migration_ms` says, 30 s unless told otherwise.
    const MIGRATIONS: &'static [&'static str] = &[];

    /// How long the SQL of one call may run, in milliseconds: all statements of one `exec`, or from one
    /// row of a cursor to the next. It holds up every object of the vat meanwhile. `None` is the vat's
    /// setting `limits.statement_ms`, 500 ms unless told otherwise. Callers get `limit-exceeded` after
    /// it. [`Class::MIGRATIONS`] have a limit of their own.
    const STATEMENT_MS: Option<u64> = None;

    /// Adds SQL functions of the class's own, and extensions of SQLite that are compiled in, to the database of
    /// each of its objects, before its first statement: migrations have them too. If it fails, so does every
    /// statement.
    fn sql_functions(functions: &mut SqlFunctions<'_>) -> Result<()> {
        let _ = functions;
        Ok(())
    }

    /// The version of what the class keeps in its storage; see [`Class::migrate`]. An object of a
    /// later version than this is not woken.
    const STATE_VERSION: u32 = 0;

    /// Brings what an object has stored from version `from` to [`Class::STATE_VERSION`], after its
    /// [`Class::MIGRATIONS`], in the turn in which [`Class::activate`] begins. If it fails, nothing of
    /// it is kept, and neither is of the migrations. Not called for new objects.
    fn migrate(ctx: &Context, from: u32) -> capnp::Result<()> {
        let _ = (ctx, from);
        Ok(())
    }

    /// An alarm is due: see [`Alarms`](super::Alarms). It runs at least once, at or after its time. If
    /// this fails, it runs again after 2 s, 4 s and so on up to 128 s, as long as nobody has set or
    /// deleted it, and after the sixth time no more. It is gone only when this has succeeded, and
    /// with the writes of its last turn.
    ///
    /// Several alarms of an object run at the same time, up to 64, as calls do; those of a
    /// [`SERIAL`](Class::SERIAL) class run one after the other. One whose handler takes more than 15
    /// minutes has failed, and so has one whose handler ends the whole process, from the second time on.
    fn alarm(self: Rc<Self>, alarm: AlarmInfo) -> impl Future<Output = capnp::Result<()>> {
        let _ = alarm;
        async { Err(Error::Unimplemented("the class has no handler for alarms".into()).into()) }
    }

    /// Answers an HTTP request: of the vat's HTTP listener, or of anybody who calls `Stub.fetch`. Bodies
    /// may be streams, both ways. The call goes on until all of the answer's body has been taken; when
    /// the caller hangs up it is dropped where it waits. What it has written is kept, as it is if this
    /// fails.
    ///
    /// A request that asks for a WebSocket may be answered with what
    /// [`Context::accept_web_socket`] returns.
    fn fetch(self: Rc<Self>, request: Request) -> impl Future<Output = capnp::Result<Response>> {
        let _ = request;
        async { Err(Error::Unimplemented("the class does not speak HTTP".into()).into()) }
    }

    /// A message on a WebSocket. The next one of that socket waits until this has ended; those of others
    /// do not. If it fails, that is logged, the socket is closed with code 1011, and what else its peer
    /// has said is dropped but for the end.
    fn web_socket_message(
        self: Rc<Self>,
        socket: WebSocket,
        message: SocketMessage,
    ) -> impl Future<Output = capnp::Result<()>> {
        let _ = (socket, message);
        async { Err(Error::Unimplemented("the class takes no WebSockets".into()).into()) }
    }

    /// A WebSocket has been closed by its peer, or is lost. It is no longer among
    /// [`Context::web_sockets`].
    fn web_socket_close(
        self: Rc<Self>,
        socket: WebSocket,
        close: SocketClose,
    ) -> impl Future<Output = capnp::Result<()>> {
        let _ = (socket, close);
        async { Ok(()) }
    }

    /// A WebSocket has ended because what came from its peer was no WebSocket message, or too long.
    fn web_socket_error(
        self: Rc<Self>,
        socket: WebSocket,
        reason: String,
    ) -> impl Future<Output = capnp::Result<()>> {
        let _ = (socket, reason);
        async { Ok(()) }
    }

    /// Serves a facet of the object, for one call: see [`Context::facet`]. The capability that is
    /// returned takes the call, in the same event, and is then dropped.
    fn facet(self: Rc<Self>, name: &str) -> capnp::Result<capnp::capability::Client> {
        let error = format!("class {} has no facet `{name}`", Self::NAME);
        Err(Error::Unimplemented(error).into())
    }

    /// Wakes the object. Calls wait meanwhile. If it fails they fail, with
    /// `activation-failed` or the error's own code, and the next call tries again. What it writes for an
    /// object that does not exist counts as what [`Class::create`] writes.
    fn activate(ctx: Context) -> impl Future<Output = capnp::Result<Self>>;
}

/// An instance, whatever its class.
pub(super) trait Dispatch {
    fn dispatch(
        &self,
        interface_id: u64,
        method_id: u16,
        params: Params<any_pointer::Owned>,
        results: Results<any_pointer::Owned>,
    ) -> DispatchCallResult;

    fn facet(&self, name: &str) -> capnp::Result<capnp::capability::Client>;
    fn alarm(&self, alarm: AlarmInfo) -> Done;
    fn fetch(&self, request: Request) -> LocalBoxFuture<'static, capnp::Result<Response>>;
    fn web_socket_message(&self, socket: WebSocket, message: SocketMessage) -> Done;
    fn web_socket_close(&self, socket: WebSocket, close: SocketClose) -> Done;
    fn web_socket_error(&self, socket: WebSocket, reason: String) -> Done;
}

/// What a handler does.
type Done = LocalBoxFuture<'static, capnp::Result<()>>;

struct Served<C, D> {
    instance: Rc<C>,
    methods: D,
}

impl<C: Class, D: Server + Clone> Dispatch for Served<C, D> {
    fn dispatch(
        &self,
        interface_id: u64,
        method_id: u16,
        params: Params<any_pointer::Owned>,
        results: Results<any_pointer::Owned>,
    ) -> DispatchCallResult {
        self.methods
            .clone()
            .dispatch_call(interface_id, method_id, params, results)
    }

    fn facet(&self, name: &str) -> capnp::Result<capnp::capability::Client> {
        self.instance.clone().facet(name)
    }

    fn alarm(&self, alarm: AlarmInfo) -> Done {
        Box::pin(self.instance.clone().alarm(alarm))
    }

    fn fetch(&self, request: Request) -> LocalBoxFuture<'static, capnp::Result<Response>> {
        Box::pin(self.instance.clone().fetch(request))
    }

    fn web_socket_message(&self, socket: WebSocket, message: SocketMessage) -> Done {
        Box::pin(self.instance.clone().web_socket_message(socket, message))
    }

    fn web_socket_close(&self, socket: WebSocket, close: SocketClose) -> Done {
        Box::pin(self.instance.clone().web_socket_close(socket, close))
    }

    fn web_socket_error(&self, socket: WebSocket, reason: String) -> Done {
        Box::pin(self.instance.clone().web_socket_error(socket, reason))
    }
}

type Activation = LocalBoxFuture<'static, capnp::Result<Box<dyn Dispatch>>>;

/// A class as a vat knows it.
pub struct ClassEntry {
    /// The name it is served under.
    pub name: &'static str,
    /// The id of its interface.
    pub interface_id: u64,
    /// The schema that describes it.
    pub schema: &'static [u8],
    /// Makes and checks the ids of its objects.
    pub ids: IdScheme,
    /// Whether it has a handler for alarms.
    pub alarms: bool,
    /// Whether it speaks HTTP.
    pub fetch: bool,
    /// Whether it takes WebSockets.
    pub web_sockets: bool,
    /// Whether the HTTP listener lets anybody reach its objects.
    pub on_gateway: bool,
    /// The methods that the schema opens to calls over HTTP, by their names.
    pub open_methods: Vec<String>,
    pub(super) is_serial: bool,
    pub(super) finish_calls: bool,
    pub(super) call_limit: Option<Duration>,
    /// How long the SQL of one call may run, if the class says so.
    pub(super) statement_limit: Option<Duration>,
    pub(super) sql_functions: Register,
    pub(super) migrations: &'static [&'static str],
    pub(super) state_version: u32,
    pub(super) migrate: fn(&Context, u32) -> capnp::Result<()>,
    answers: HashSet<u64>,
    create: fn(Context) -> LocalBoxFuture<'static, capnp::Result<()>>,
    activate: fn(Context) -> Activation,
}

impl ClassEntry {
    fn of<C: Class>() -> Result<ClassEntry, StartError> {
        const {
            assert!(
                is_class_name(C::NAME),
                "NAME must be [A-Z][A-Za-z0-9]*, up to 64 bytes"
            )
        }
        let interface_id = C::Client::TYPE_ID;
        let unreadable = |reason: String| StartError::Schema {
            class: C::NAME,
            interface_id,
            reason,
        };
        let schemas = Schemas::load(C::SCHEMA).map_err(|e| unreadable(e.to_string()))?;
        let answers = schemas.answers(interface_id);
        if answers.is_empty() {
            return Err(unreadable(
                "its schema does not contain its interface".into(),
            ));
        }
        Ok(ClassEntry {
            name: C::NAME,
            interface_id,
            schema: C::SCHEMA,
            ids: IdScheme::new(interface_id),
            alarms: C::ALARMS,
            fetch: C::FETCH,
            web_sockets: C::WEB_SOCKETS,
            on_gateway: C::ON_GATEWAY,
            open_methods: open_methods(&schemas, interface_id),
            is_serial: C::SERIAL,
            finish_calls: C::FINISH_CALLS,
            call_limit: C::CALL_LIMIT,
            statement_limit: C::STATEMENT_MS.map(Duration::from_millis),
            sql_functions: C::sql_functions,
            migrations: C::MIGRATIONS,
            state_version: C::STATE_VERSION,
            migrate: C::migrate,
            answers: answers.into_iter().collect(),
            create: |ctx| Box::pin(async move { C::create(&ctx).await }),
            activate: |ctx| {
                Box::pin(async move {
                    let instance = Rc::new(C::activate(ctx).await?);
                    let methods = C::Client::from_server(instance.clone());
                    let served = Served { instance, methods };
                    Ok(Box::new(served) as Box<dyn Dispatch>)
                })
            },
        })
    }

    /// Whether objects of the class answer that interface.
    pub(super) fn answers(&self, interface_id: u64) -> bool {
        self.answers.contains(&interface_id)
    }

    pub(super) fn create(&self, ctx: Context) -> LocalBoxFuture<'static, capnp::Result<()>> {
        (self.create)(ctx)
    }

    pub(super) fn activate(&self, ctx: Context) -> Activation {
        (self.activate)(ctx)
    }
}

/// The names of the methods that are open to calls over HTTP. Of several methods of one name the nearest counts,
/// which a call goes to.
fn open_methods(schemas: &Schemas, interface_id: u64) -> Vec<String> {
    let methods = schemas.interface(interface_id).map(|it| it.methods());
    let mut seen = HashSet::new();
    let nearest = methods
        .into_iter()
        .flatten()
        .filter(|method| seen.insert(method.name.clone()));
    nearest
        .filter(|method| method.is_open)
        .map(|method| method.name)
        .collect()
}

const fn is_class_name(name: &str) -> bool {
    let name = name.as_bytes();
    if name.is_empty() || name.len() > 64 || !name[0].is_ascii_uppercase() {
        return false;
    }
    let mut i = 1;
    while i < name.len() {
        if !name[i].is_ascii_alphanumeric() {
            return false;
        }
        i += 1;
    }
    true
}

/// Why a vat cannot start with these classes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// Two types have the same name.
    #[error(
        "two classes are called `{name}`, with the interfaces @{first:#018x} and @{second:#018x}"
    )]
    DuplicateName {
        /// The name.
        name: &'static str,
        /// The interface of the first.
        first: u64,
        /// The interface of the second.
        second: u64,
    },
    /// Two types have the same interface.
    #[error("the classes `{first}` and `{second}` have the same interface @{interface_id:#018x}")]
    DuplicateInterface {
        /// The interface.
        interface_id: u64,
        /// The name of the first.
        first: &'static str,
        /// The name of the second.
        second: &'static str,
    },
    /// A class's schema is not that of its interface.
    #[error("class `{class}`, interface @{interface_id:#018x}: {reason}")]
    Schema {
        /// The class.
        class: &'static str,
        /// Its interface.
        interface_id: u64,
        /// What is wrong.
        reason: String,
    },
}

/// The classes that a vat serves.
#[derive(Default)]
pub struct Registry {
    by_interface: BTreeMap<u64, Rc<ClassEntry>>,
}

impl Registry {
    /// Adds a class. Refused if its name or its interface is taken.
    pub fn register<C: Class>(&mut self) -> Result<(), StartError> {
        let entry = ClassEntry::of::<C>()?;
        if let Some(first) = self.by_interface.get(&entry.interface_id) {
            return Err(StartError::DuplicateInterface {
                interface_id: entry.interface_id,
                first: first.name,
                second: entry.name,
            });
        }
        if let Some(first) = self
            .by_interface
            .values()
            .find(|first| first.name == entry.name)
        {
            return Err(StartError::DuplicateName {
                name: entry.name,
                first: first.interface_id,
                second: entry.interface_id,
            });
        }
        self.by_interface.insert(entry.interface_id, Rc::new(entry));
        Ok(())
    }

    /// The class with that interface.
    pub fn by_interface(&self, interface_id: u64) -> Result<&Rc<ClassEntry>> {
        self.by_interface
            .get(&interface_id)
            .ok_or_else(|| self.missing(format_args!("with the interface @{interface_id:#018x}")))
    }

    /// The class of that name.
    pub fn by_name(&self, name: &str) -> Result<&Rc<ClassEntry>> {
        self.by_interface
            .values()
            .find(|class| class.name == name)
            .ok_or_else(|| self.missing(format_args!("`{name}`")))
    }

    /// All classes, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Rc<ClassEntry>> {
        self.by_interface.values()
    }

    fn missing(&self, wanted: std::fmt::Arguments<'_>) -> Error {
        let mut names: Vec<_> = self.iter().map(|class| class.name).collect();
        names.sort_unstable();
        Error::NotFound(format!(
            "this vat serves no class {wanted}; it serves {}",
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            }
        ))
    }
}
