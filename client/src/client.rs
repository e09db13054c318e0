//! The client for code on any thread.

use std::{future::Future, marker::PhantomData, time::Duration};

use capnp::traits::HasTypeId;
use vatwerk::vat_capnp::{class_info, server_info};

use crate::{
    Address, AlarmPage, Credential, LocalClient, Result,
    handles::{Namespace, Pinned, Stub},
    link::{Link, Options},
    path::{ClassKey, Path, Space},
    worker::{Call, Handle},
};

/// How long a client tries to connect before it says that it cannot.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client waits for the answer to a call. The waits inside a vat have limits of their own, of
/// 30 s each, and two of them may follow each other.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// How many calls a client has in flight. The rest of the 4,096 that a vat takes from one connection is
/// for calls on what calls return, which are not held back.
const CALLS_IN_FLIGHT: usize = 3072;

/// A vat, as its callers reach it, from any thread and any executor.
///
/// Cap'n Proto's own clients belong to one thread, so a client has a thread of its own, named
/// `vatwerk-client`, and runs there what uses them: see [`Stub::call`]. The thread ends when the
/// last handle is gone: clones of this, namespaces, stubs, calls under way.
#[derive(Clone)]
pub struct Client {
    handle: Handle,
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct Builder {
    options: Options,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            options: Options {
                connect_timeout: CONNECT_TIMEOUT,
                call_timeout: Some(CALL_TIMEOUT),
                calls_in_flight: CALLS_IN_FLIGHT,
                credential: Credential::None,
            },
        }
    }
}

impl Builder {
    /// How long to try to connect: the first time, and every time a call finds the connection gone.
    /// The default is 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout;
        self
    }

    /// How long a call on a stub, a namespace or the session waits for its answer, or `None` for as long
    /// as it takes. The default is 120 s. A call that takes longer fails with
    /// [`Code::Disconnected`](vatwerk::Code::Disconnected): whether it ran is not known, unless it has
    /// waited for room among the calls in flight, and was never sent. It is given up then, but what has
    /// begun in the vat goes on. Capabilities that calls return, such as cursors,
    /// have no such limit.
    pub fn call_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.options.call_timeout = timeout.into();
        self
    }

    /// How many calls may be in flight, at least 1. The default is 3,072, of the 4,096 that a vat takes
    /// from one connection unless it is set up otherwise. Further calls on stubs, namespaces and the
    /// session wait in the client and are sent in their order; that counts towards the call timeout.
    /// Calls on capabilities that calls return count too, but do not wait.
    pub fn calls_in_flight(mut self, calls: usize) -> Self {
        self.options.calls_in_flight = calls;
        self
    }

    /// The credential that the vat is asked with. The default is [`Credential::None`].
    pub fn credential(mut self, credential: Credential) -> Self {
        self.options.credential = credential;
        self
    }

    /// Connects, in one attempt, and waits until the vat has taken the credential.
    ///
    /// # Errors
    ///
    /// [`Error::Address`](crate::Error::Address) for text that is none,
    /// [`Error::Connect`](crate::Error::Connect) when no vat answers there in time, and
    /// [`Error::Call`](crate::Error::Call) with
    /// [`Code::Unauthenticated`](vatwerk::Code::Unauthenticated) for a credential that is not good
    /// there.
    pub async fn connect(self, address: &str) -> Result<Client> {
        let handle = Handle::start(address.parse::<Address>()?, self.options).await?;
        Ok(Client { handle })
    }

    /// Connects, in one attempt, for code on one thread. Must be called inside a
    /// [`tokio::task::LocalSet`].
    ///
    /// # Errors
    ///
    /// The errors of [`connect`](Builder::connect).
    pub async fn connect_local(self, address: &str) -> Result<LocalClient> {
        let link = Link::open(address.parse()?, self.options).await?;
        Ok(LocalClient::new(link))
    }
}

impl Client {
    /// Connects without a credential: `Client::builder().connect(address)`.
    ///
    /// # Errors
    ///
    /// The errors of [`Builder::connect`].
    pub async fn connect(address: &str) -> Result<Client> {
        Builder::default().connect(address).await
    }

    /// The choices there are.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The objects of the class whose interface is that of `C`. No I/O: a vat that does not serve
    /// the class says so, with `not-found`, when one of them is called.
    pub fn namespace<C: HasTypeId>(&self) -> Namespace<C> {
        let class = ClassKey::Interface(C::TYPE_ID);
        Namespace::new(self.handle.clone(), Space::new(class))
    }

    /// The objects of the class that is served under this name, for calls made up at run time.
    pub fn namespace_named(&self, class: &str) -> Namespace<capnp::capability::Client> {
        let class = ClassKey::Name(class.into());
        Namespace::new(self.handle.clone(), Space::new(class))
    }

    /// The capability that [`Stub::persist`] saved. No I/O: calls on it fail with `not-found` if
    /// the vat never gave these bytes out, or has forgotten them.
    pub fn restore<C>(&self, sturdy_ref: &[u8]) -> Stub<C> {
        let path = Path::Restored(sturdy_ref.into());
        Stub::new(Pinned::new(self.handle.clone(), path), PhantomData)
    }

    /// Makes saved bytes worthless, and says whether they were good until then. What was restored
    /// from them before stays good.
    pub async fn forget(&self, sturdy_ref: &[u8]) -> Result<bool> {
        let sturdy_ref = sturdy_ref.to_vec();
        self.run(async move |local| {
            let mut request = local.session().forget_request();
            request.get().set_sturdy_ref(&sturdy_ref);
            Ok(request.send().promise.await?.get()?.get_existed())
        })
        .await
    }

    /// The classes that the vat serves, ordered by name.
    pub async fn classes(&self) -> Result<Vec<ClassInfo>> {
        self.run(async |local| {
            let answer = local.session().classes_request().send().promise.await?;
            let classes = answer.get()?.get_classes()?;
            classes.iter().map(ClassInfo::read).collect()
        })
        .await
    }

    /// One page of the objects that have alarms, in the order in which the earliest of each is due: at
    /// most `limit` (1 to 1000) of them after the `next` of the page before, or, if that is empty, from
    /// the first.
    pub async fn alarm_page(&self, after: &str, limit: u32) -> Result<AlarmPage> {
        let after = after.to_owned();
        self.run(async move |local| {
            let mut request = local.session().alarms_request();
            request.get().set_after(after.as_str());
            request.get().set_limit(limit);
            AlarmPage::read(request.send().promise.await?.get()?)
        })
        .await
    }

    /// About the vat.
    pub async fn server_info(&self) -> Result<ServerInfo> {
        self.run(async |local| {
            let answer = local.session().server_info_request().send().promise.await?;
            ServerInfo::read(answer.get()?.get_info()?)
        })
        .await
    }

    /// The vat's version, and the schema of everything that it serves.
    pub async fn describe(&self) -> Result<Description> {
        self.run(async |local| {
            let answer = local.vat().await?.describe_request().send().promise.await?;
            let answer = answer.get()?;
            Ok(Description {
                version: answer.get_version()?.to_string()?,
                code_generator_request: answer.get_code_generator_request()?.to_vec(),
            })
        })
        .await
    }

    /// Runs a closure on the client's thread, with everything that is there: for what has no method
    /// here, such as several capabilities used together. It must not block the thread. See
    /// [`Stub::call`] for what it may do and when it runs.
    pub fn run<T, F, Fut>(&self, task: F) -> Call<T>
    where
        T: Send + 'static,
        F: FnOnce(LocalClient) -> Fut + Send + 'static,
        Fut: Future<Output = capnp::Result<T>> + 'static,
    {
        self.handle
            .submit(move |worker| task(worker.client().clone()))
    }
}

/// One class that a vat serves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassInfo {
    /// The name it is served under.
    pub name: String,
    /// The id of its interface.
    pub interface_id: u64,
    /// How many of its objects have come into being.
    pub object_count: u64,
}

impl ClassInfo {
    /// Reads what `Session.classes` answers.
    pub fn read(class: class_info::Reader<'_>) -> capnp::Result<Self> {
        Ok(ClassInfo {
            name: class.get_class_name()?.to_string()?,
            interface_id: class.get_interface_id(),
            object_count: class.get_object_count(),
        })
    }
}

/// About a vat.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerInfo {
    /// Its version.
    pub version: String,
    /// When it started, in milliseconds since 1970.
    pub started_ms: i64,
    /// How many objects are awake in memory.
    pub resident_objects: u64,
}

impl ServerInfo {
    /// Reads what `Session.serverInfo` answers.
    pub fn read(info: server_info::Reader<'_>) -> capnp::Result<Self> {
        Ok(ServerInfo {
            version: info.get_version()?.to_string()?,
            started_ms: info.get_started_ms(),
            resident_objects: info.get_resident_objects(),
        })
    }
}

/// What a vat says of itself without being asked for a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Description {
    /// The vat's version.
    pub version: String,
    /// A CodeGeneratorRequest, as `capnp compile -o-` prints it: the schema of everything served.
    pub code_generator_request: Vec<u8>,
}
