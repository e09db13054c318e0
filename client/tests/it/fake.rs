//! A vat that is just real enough: it speaks the protocol over real sockets, keeps counters in
//! memory that outlives it, and can be killed.

use std::{
    cell::RefCell,
    collections::HashMap,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, Mutex, mpsc},
    thread,
};

use capnp::{
    Error,
    capability::{FromClientHook, FromServer},
};
use capnp_rpc::{RpcSystem, new_client, rpc_twoparty_capnp::Side, twoparty};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Notify, oneshot},
    task::LocalSet,
};
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};
use vatwerk::{
    cell_capnp::cell,
    counter_capnp::counter,
    object_capnp::{namespace, stub},
    storage_capnp::{operations, storage},
    vat_capnp::{class_key, credential, session, vat},
};

/// What is the same before and after a restart, and what tests look at.
#[derive(Default)]
pub struct World {
    pub counts: Mutex<HashMap<String, i64>>,
    /// The amounts of all increments, as they arrived.
    pub arrived: Mutex<Vec<i64>>,
    /// How many connections there have been.
    pub connections: Mutex<usize>,
    /// The token that is good, if one is needed.
    pub token: Mutex<Option<String>>,
    /// Whether the class `Cell` is served.
    pub serves_cell: Mutex<bool>,
    /// How many increments of "slow" are running, and how many have been at once at most.
    pub running: Mutex<(usize, usize)>,
    /// Lets an increment of "late" go on.
    pub late: Notify,
    /// Told of every increment that arrives.
    pub told: Mutex<Option<mpsc::Sender<i64>>>,
}

impl World {
    /// Where every increment that arrives from now on is told.
    pub fn listen(&self) -> mpsc::Receiver<i64> {
        let (tell, told) = mpsc::channel();
        *self.told.lock().unwrap() = Some(tell);
        told
    }
}

pub struct FakeVat {
    pub address: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl FakeVat {
    pub fn unix(path: &Path, world: &Arc<World>) -> Self {
        let path = path.to_owned();
        let _ = std::fs::remove_file(&path);
        Self::start(Some(path), world)
    }

    pub fn tcp(world: &Arc<World>) -> Self {
        Self::start(None, world)
    }

    fn start(path: Option<PathBuf>, world: &Arc<World>) -> Self {
        let world = world.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, address) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            LocalSet::new().block_on(&runtime, async move {
                let listener = match path {
                    Some(path) => {
                        let listener = UnixListener::bind(&path).unwrap();
                        ready.send(format!("unix:{}", path.display())).unwrap();
                        Listener::Unix(listener)
                    }
                    None => {
                        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                        let address = listener.local_addr().unwrap();
                        ready.send(format!("tcp:{address}")).unwrap();
                        Listener::Tcp(listener)
                    }
                };
                tokio::select! {
                    () = accept(listener, world) => {}
                    _ = stopped => {}
                }
            });
        });
        FakeVat {
            address: address.recv().unwrap(),
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

/// Killed: every connection is closed and nothing is answered any more.
impl Drop for FakeVat {
    fn drop(&mut self) {
        self.stop.take();
        let _ = self.thread.take().unwrap().join();
    }
}

async fn accept(listener: Listener, world: Arc<World>) {
    loop {
        match &listener {
            Listener::Tcp(listener) => {
                let stream = listener.accept().await.unwrap().0;
                stream.set_nodelay(true).unwrap();
                let (reader, writer) = stream.into_split();
                serve(reader, writer, &world);
            }
            Listener::Unix(listener) => {
                let (reader, writer) = listener.accept().await.unwrap().0.into_split();
                serve(reader, writer, &world);
            }
        }
    }
}

fn serve(
    reader: impl AsyncRead + Unpin + 'static,
    writer: impl AsyncWrite + Unpin + 'static,
    world: &Arc<World>,
) {
    *world.connections.lock().unwrap() += 1;
    let network = twoparty::VatNetwork::new(
        reader.compat(),
        writer.compat_write(),
        Side::Server,
        Default::default(),
    );
    let vat: vat::Client = new_client(Vat(world.clone()));
    tokio::task::spawn_local(RpcSystem::new(Box::new(network), Some(vat.client)));
}

fn own<C: FromServer<S> + FromClientHook, S, D: FromClientHook>(server: S) -> D {
    new_client::<C, S>(server).cast_to()
}

struct Vat(Arc<World>);

impl vat::Server for Vat {
    async fn authenticate(
        self: Rc<Self>,
        params: vat::AuthenticateParams,
        mut results: vat::AuthenticateResults,
    ) -> capnp::Result<()> {
        let token = match params.get()?.get_credential()?.which()? {
            credential::None(()) => None,
            credential::Token(token) => Some(token?.to_string()?),
        };
        let wanted = self.0.token.lock().unwrap().clone();
        if wanted.is_some() && wanted != token {
            return Err(Error::failed("unauthenticated: a bad token".to_owned()));
        }
        let session = Session {
            world: self.0.clone(),
        };
        results
            .get()
            .set_session(new_client::<session::Client, _>(session));
        Ok(())
    }

    async fn describe(
        self: Rc<Self>,
        _: vat::DescribeParams,
        mut results: vat::DescribeResults,
    ) -> capnp::Result<()> {
        results.get().set_version("1.2.3");
        results
            .get()
            .set_code_generator_request(vatwerk::CODE_GENERATOR_REQUEST);
        Ok(())
    }
}

struct Session {
    world: Arc<World>,
}

impl session::Server for Session {
    async fn namespace(
        self: Rc<Self>,
        params: session::NamespaceParams,
        mut results: session::NamespaceResults,
    ) -> capnp::Result<()> {
        use capnp::traits::HasTypeId;
        let is_cell = match params.get()?.get_key()?.which()? {
            class_key::ClassName(name) => name?.to_str()? == "Cell",
            class_key::InterfaceId(id) => id == cell::Client::TYPE_ID,
        };
        if is_cell && !*self.world.serves_cell.lock().unwrap() {
            return Err(Error::failed("not-found: no class `Cell` here".to_owned()));
        }
        let namespace = Namespace {
            world: self.world.clone(),
            is_cell,
            prefix: String::new(),
        };
        results
            .get()
            .set_namespace(new_client::<namespace::Client, _>(namespace));
        Ok(())
    }

    async fn classes(
        self: Rc<Self>,
        _: session::ClassesParams,
        mut results: session::ClassesResults,
    ) -> capnp::Result<()> {
        let mut class = results.get().init_classes(1).get(0);
        class.set_class_name("Counter");
        class.set_interface_id(7);
        class.set_object_count(2);
        Ok(())
    }

    async fn restore(
        self: Rc<Self>,
        params: session::RestoreParams,
        mut results: session::RestoreResults,
    ) -> capnp::Result<()> {
        let name = String::from_utf8(params.get()?.get_sturdy_ref()?.to_vec())?;
        let counter: capnp::capability::Client = own::<counter::Client, _, _>(Counter {
            world: self.world.clone(),
            name,
        });
        results.get().get_cap().set_as_capability(counter.hook);
        Ok(())
    }
}

struct Namespace {
    world: Arc<World>,
    is_cell: bool,
    prefix: String,
}

impl namespace::Server for Namespace {
    async fn get_by_name(
        self: Rc<Self>,
        params: namespace::GetByNameParams,
        mut results: namespace::GetByNameResults,
    ) -> capnp::Result<()> {
        let name = params.get()?.get_object_name()?.to_string()?;
        if !name.starts_with(&self.prefix) {
            return Err(Error::failed("permission-denied: not here".to_owned()));
        }
        let world = self.world.clone();
        let object: stub::Client = if self.is_cell {
            let cell = Rc::new(Cell::default());
            let client: cell::Client = capnp_rpc::new_client_from_rc(cell.clone());
            *cell.ptr.borrow_mut() = client.as_client_hook().get_ptr();
            client.cast_to()
        } else {
            own::<counter::Client, _, _>(Counter { world, name })
        };
        results.get().set_object(object);
        Ok(())
    }

    async fn id_from_name(
        self: Rc<Self>,
        params: namespace::IdFromNameParams,
        mut results: namespace::IdFromNameResults,
    ) -> capnp::Result<()> {
        let len = params.get()?.get_object_name()?.len() as u8;
        results.get().set_id(&[len; 32]);
        Ok(())
    }

    async fn list(
        self: Rc<Self>,
        params: namespace::ListParams,
        mut results: namespace::ListResults,
    ) -> capnp::Result<()> {
        // Two objects to a page, however many were asked for.
        let after = params.get()?.get_after()?.to_string()?;
        let all = ["a", "b", "c", "d", "e"];
        let rest: Vec<_> = all.into_iter().filter(|name| **name > *after).collect();
        let page = &rest[..rest.len().min(2)];
        let mut objects = results.get().init_objects(page.len() as u32);
        for (i, name) in page.iter().enumerate() {
            let mut object = objects.reborrow().get(i as u32);
            object.set_id(&[i as u8; 32]);
            object.set_object_name(name);
            object.set_created_ms(1);
        }
        if rest.len() > 2 {
            results.get().set_next(page[1]);
        }
        Ok(())
    }

    async fn restrict(
        self: Rc<Self>,
        params: namespace::RestrictParams,
        mut results: namespace::RestrictResults,
    ) -> capnp::Result<()> {
        let namespace = Namespace {
            world: self.world.clone(),
            is_cell: self.is_cell,
            prefix: params.get()?.get_prefix()?.to_string()?,
        };
        results
            .get()
            .set_namespace(new_client::<namespace::Client, _>(namespace));
        Ok(())
    }
}

struct Counter {
    world: Arc<World>,
    name: String,
}

/// Tells of a call that ends without an answer, as -1.
struct Canceled(Option<mpsc::Sender<i64>>);

impl Drop for Canceled {
    fn drop(&mut self) {
        if let Some(told) = &self.0 {
            let _ = told.send(-1);
        }
    }
}

impl counter::Server for Counter {
    async fn increment(
        self: Rc<Self>,
        params: counter::IncrementParams,
        mut results: counter::IncrementResults,
    ) -> capnp::Result<()> {
        let amount = params.get()?.get_amount();
        self.world.arrived.lock().unwrap().push(amount);
        if let Some(told) = &*self.world.told.lock().unwrap() {
            let _ = told.send(amount);
        }
        match self.name.as_str() {
            "hang" => {
                let _canceled = Canceled(self.world.told.lock().unwrap().clone());
                std::future::pending().await
            }
            "slow" => {
                {
                    let mut running = self.world.running.lock().unwrap();
                    running.0 += 1;
                    running.1 = running.1.max(running.0);
                }
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                self.world.running.lock().unwrap().0 -= 1;
                results.get().set_count(amount);
                Ok(())
            }
            "late" => {
                self.world.late.notified().await;
                Ok(())
            }
            "reset" => Err(Error::disconnected(
                "object-reset: the instance panicked".to_owned(),
            )),
            name => {
                let mut counts = self.world.counts.lock().unwrap();
                let count = counts.entry(name.to_owned()).or_default();
                *count += amount;
                results.get().set_count(*count);
                Ok(())
            }
        }
    }

    async fn get(
        self: Rc<Self>,
        _: counter::GetParams,
        mut results: counter::GetResults,
    ) -> capnp::Result<()> {
        let counts = self.world.counts.lock().unwrap();
        results
            .get()
            .set_count(counts.get(&self.name).copied().unwrap_or_default());
        Ok(())
    }
}

/// Answers `list` alone: whether the sink is the object itself, as 1 or 0. It then writes to a sink
/// that is not.
#[derive(Default)]
struct Cell {
    ptr: RefCell<usize>,
}

impl cell::Server for Cell {}
impl storage::Server for Cell {}
impl operations::Server for Cell {
    async fn list(
        self: Rc<Self>,
        params: operations::ListParams,
        mut results: operations::ListResults,
    ) -> capnp::Result<()> {
        let sink = params.get()?.get_sink()?;
        let is_self = sink.as_client_hook().get_ptr() == *self.ptr.borrow();
        if !is_self {
            sink.write_request().send().await?;
            sink.end_request().send().promise.await?;
        }
        results.get().set_count(u64::from(is_self));
        Ok(())
    }
}
