//! Putting a vat together, starting it and letting it stop.

mod binding;
mod descriptors;
mod ledger;
mod readings;
mod running;
mod space;

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use vatwerk::{
    Address,
    json::{SchemaError, Schemas},
};

use crate::{
    Config, Error, call,
    catalog::{Catalog, LedgerError},
    config::{NoGroup, TooSmall},
    env::{Clock, Disk, RealDisk},
    fetch::Response,
    folder::{Folder, FolderError, Layout},
    gateway::{
        BindError, Gateway, Hosts, Listener, Room, Scrape, Shared,
        http::{GatewayRequest, Hook, Http, Passing},
    },
    health::{self, DiskWatch, Health, Names, Thread, Watchdog, Watched},
    journal::{self, Commits, Journal, JournalError},
    metrics::{Metrics, Reading},
    object::{Class, Directory, Host, Parts, Registry, StartError},
    storage::{self, Vfs},
    vat::{self, Vat},
};

use binding::Binding;
use descriptors::Descriptors;

pub use running::Running;
pub use space::NoSpace;

/// Makes a value that classes find by its type, for one thread of objects.
type MakeValue = Box<dyn Fn() -> Rc<dyn Any> + Send + Sync>;

/// Makes the hook that sees each request over HTTP first, on the vat's thread.
type MakeHook = Box<dyn FnOnce() -> Hook + Send + Sync>;

/// A vat to be: its classes, what they are given, and its settings.
///
/// ```no_run
/// use vatwerk_server::{Server, classes::Counter};
/// # async fn example() -> Result<(), vatwerk_server::ServeError> {
/// // On a `tokio::task::LocalSet`:
/// let vat = Server::builder().class::<Counter>().start().await?;
/// println!("listening {}", vat.addresses()[0]);
/// vat.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct Server {
    classes: Registry,
    problem: Option<StartError>,
    bindings: HashMap<TypeId, MakeValue>,
    config: Config,
    retire: Vec<String>,
    gateway: Option<MakeHook>,
    log_records_lost: Option<Box<dyn Fn() -> u64 + Send + Sync>>,
    clock: Clock,
    #[cfg(any(test, feature = "testing"))]
    hold: Option<journal::testing::Hold>,
    #[cfg(any(test, feature = "testing"))]
    disk: Option<Arc<dyn Disk>>,
    #[cfg(any(test, feature = "testing"))]
    sabotage: Option<crate::object::testing::Sabotage>,
    #[cfg(any(test, feature = "testing"))]
    failing_service: Option<String>,
}

/// Why a vat does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A setting is smaller than it may be.
    #[error(transparent)]
    Settings(#[from] TooSmall),
    /// There is no such group as unix sockets are to have.
    #[error(transparent)]
    Group(#[from] NoGroup),
    /// The classes of the vat do not fit together.
    #[error(transparent)]
    Classes(#[from] StartError),
    /// The schemas of the classes do not fit together.
    #[error("the schemas of the classes: {0}")]
    Schemas(#[from] SchemaError),
    /// The data folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// There is no room on the disk.
    #[error(transparent)]
    NoSpace(#[from] NoSpace),
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The classes do not fit the objects that are there.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The catalog cannot be read.
    #[error(transparent)]
    Catalog(#[from] Error),
    /// The threads that watch over the vat cannot start.
    #[error("cannot start the threads of the watchdog: {0}")]
    Watchdog(std::io::Error),
    /// The vat cannot listen at an address.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The vat cannot listen for HTTP at an address.
    #[error(
        "{0}; `--http` and `listen` in the section `[http]` say where HTTP is served, if anywhere"
    )]
    BindHttp(BindError),
    /// Two classes would have the same hosts.
    #[error(
        "with `object_host` in the section `[http]`, classes `{0}` and `{1}` would have the same hosts"
    )]
    SameHosts(&'static str, &'static str),
    /// A class is to be kept off HTTP that there is not.
    #[error("`hidden` in the section `[http]` names `{0}`, and there is no such class")]
    Hidden(String),
}

impl Server {
    /// A vat without classes, with default settings. It is not reached over HTTP unless its
    /// [`config`](Server::config) says where; only the command `serve` listens by itself.
    pub fn builder() -> Server {
        Server::default()
    }

    /// Serves a class. Two of the same name, or the same interface, are an error at the start.
    pub fn class<C: Class>(mut self) -> Server {
        if let Err(problem) = self.classes.register::<C>() {
            self.problem.get_or_insert(problem);
        }
        self
    }

    /// Gives a value to all classes: they find it by its type, with `Context::binding`. Each thread of
    /// objects has a clone.
    pub fn binding<T: Clone + Send + Sync + 'static>(self, value: T) -> Server {
        self.binding_with(move || value.clone())
    }

    /// Gives a value to all classes that cannot be shared between threads: `make` makes it once for each
    /// thread of objects, on that thread.
    pub fn binding_with<T: 'static>(
        mut self,
        make: impl Fn() -> T + Send + Sync + 'static,
    ) -> Server {
        let make: MakeValue = Box::new(move || Rc::new(make()));
        self.bindings.insert(TypeId::of::<T>(), make);
        self
    }

    /// Serves a class no more that has objects in the data folder: they are kept, nobody reaches them, and
    /// no alarm of theirs is run, until it is served again. Named by its name or by its interface's id
    /// (`0x...`). Without this, a vat that misses a class with objects does not start.
    pub fn retire(mut self, class: impl Into<String>) -> Server {
        self.retire.push(class.into());
        self
    }

    /// Has `gateway` look at each request over HTTP before an object is reached, be it for a page, a call or a
    /// WebSocket: for login, names and quotas. It may let the request pass, with other fields in its header or to
    /// another object, or answer by itself.
    ///
    /// ```no_run
    /// use vatwerk_server::{
    ///     Body, GatewayRequest, Response, Server, classes::ChatRoom, http::header::AUTHORIZATION,
    /// };
    ///
    /// # fn user_of(token: &str) -> Option<&'static str> { None }
    /// async fn login(mut request: GatewayRequest) -> Result<GatewayRequest, Box<Response>> {
    ///     let token = request.headers().get(AUTHORIZATION);
    ///     let token = token.and_then(|token| token.to_str().ok()?.strip_prefix("Bearer "));
    ///     let Some(user) = token.and_then(user_of) else {
    ///         let mut refusal = Response::new(Body::from("who are you?"));
    ///         *refusal.status_mut() = vatwerk_server::http::StatusCode::UNAUTHORIZED;
    ///         return Err(refusal.into());
    ///     };
    ///     // Objects may trust what begins with `vatwerk-`: nobody outside can say it.
    ///     let user_field = user.parse().expect("users have names of letters");
    ///     request.headers_mut().insert("vatwerk-user", user_field);
    ///     // Everybody has a room of their own.
    ///     if request.object() == Some(("ChatRoom", "mine")) {
    ///         request.set_object("ChatRoom", format!("{user}'s"));
    ///     }
    ///     Ok(request)
    /// }
    ///
    /// let server = Server::builder().class::<ChatRoom>().gateway(login);
    /// ```
    ///
    /// It sees requests for paths of no object too, and may give them to one. What the settings refuse (`hosts`,
    /// `cors_origins`) and preflights it does not see. Over Cap'n Proto nobody passes it: a client with the stub of
    /// an object may send the object any header.
    ///
    /// It runs on the vat's thread, which must not be held: what computes for long or blocks belongs in
    /// `tokio::task::spawn_blocking`. A request that takes it longer than `http.gateway_ms`, 10 s unless told
    /// otherwise, is answered 504, and one for which it panics 500; both are logged. A request whose client leaves
    /// is dropped where `gateway` waits.
    pub fn gateway<F, P>(mut self, gateway: F) -> Server
    where
        F: Fn(GatewayRequest) -> P + Send + Sync + 'static,
        P: Future<Output = std::result::Result<GatewayRequest, Box<Response>>> + 'static,
    {
        self.gateway = Some(Box::new(move || {
            Rc::new(move |request| Box::pin(gateway(request)) as Passing)
        }));
        self
    }

    /// Shows how many records the program's log has lost, in the metric `vatwerk_log_records_lost_total`:
    /// `lost` is asked for that, on any thread. Programs with a log of their own use it.
    pub fn log_records_lost(mut self, lost: impl Fn() -> u64 + Send + Sync + 'static) -> Server {
        self.log_records_lost = Some(Box::new(lost));
        self
    }

    /// The settings.
    pub fn config(mut self, config: Config) -> Server {
        self.config = config;
        self
    }

    /// For tests: lets `hold` hold back the durability of commits. The journal has no threads of its
    /// own then.
    #[cfg(any(test, feature = "testing"))]
    pub fn hold(mut self, hold: crate::journal::testing::Hold) -> Server {
        self.hold = Some(hold);
        self
    }

    /// For tests: another clock than the machine's.
    #[cfg(any(test, feature = "testing"))]
    pub fn clock(mut self, clock: Clock) -> Server {
        self.clock = clock;
        self
    }

    /// For tests: a vat that is wrong in this way.
    #[cfg(any(test, feature = "testing"))]
    pub fn sabotage(mut self, sabotage: crate::object::testing::Sabotage) -> Server {
        self.sabotage = Some(sabotage);
        self
    }

    /// For tests: a vat whose service of that name panics when it begins, once.
    #[cfg(any(test, feature = "testing"))]
    pub fn fail_service(mut self, service: &str) -> Server {
        self.failing_service = Some(service.to_owned());
        self
    }

    /// For tests: another disk than the machine's, for everything but the folder's lock and format.
    #[cfg(any(test, feature = "testing"))]
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Server {
        self.disk = Some(disk);
        self
    }

    /// For tests: changes the settings.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn configure(mut self, change: impl FnOnce(&mut Config)) -> Server {
        change(&mut self.config);
        self
    }

    fn open_journal(
        &self,
        layout: &Layout,
        descriptors: Descriptors,
    ) -> Result<Journal, JournalError> {
        let settings = journal::Settings {
            open_files: descriptors.databases,
            ..self.config.limits.journal()
        };
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::default());
        #[cfg(any(test, feature = "testing"))]
        let disk = self.disk.clone().unwrap_or(disk);
        #[cfg(any(test, feature = "testing"))]
        if let Some(hold) = self.hold.clone() {
            let settings = journal::Settings {
                driver: journal::Driver::Caller,
                ..settings
            };
            return Ok(Journal::open_held(disk, layout, &settings, hold)?.0);
        }
        recover(disk, layout, &settings)
    }

    /// Whether the data folder is one of the machine, not of a simulated disk.
    fn is_on_real_disk(&self) -> bool {
        #[cfg(any(test, feature = "testing"))]
        return self.disk.is_none();
        #[cfg(not(any(test, feature = "testing")))]
        true
    }

    /// Starts the vat on the current thread, which must run a [`tokio::task::LocalSet`]. When this
    /// returns it takes connections.
    pub async fn start(self) -> Result<Running, ServeError> {
        self.config.check()?;
        let is_on_real_disk = self.is_on_real_disk();
        if let Some(problem) = self.problem {
            return Err(problem.into());
        }
        let description = vat::describe(&self.classes)?;
        let schemas = Schemas::load(&description)?;
        let hidden = &self.config.http.hidden;
        if let Some(missing) = hidden.iter().find(|it| self.classes.by_name(it).is_err()) {
            return Err(ServeError::Hidden(missing.clone()));
        }
        if self.config.http.object_host.is_some() {
            let mut seen = HashMap::new();
            for class in self.classes.iter() {
                if let Some(other) = seen.insert(class.name.to_ascii_lowercase(), class.name) {
                    return Err(ServeError::SameHosts(other, class.name));
                }
            }
        }
        // Before anything uses SQLite: memory is set aside then.
        storage::configure_process();
        let descriptors = Descriptors::raise();
        let access = self.config.unix.access()?;
        if is_on_real_disk {
            let segment = Journal::segment_bytes(&self.config.limits.journal());
            space::check(&self.config.data, segment)?;
        }
        let folder = Folder::open(&self.config.data)?;
        let layout = folder.layout().clone();
        if is_on_real_disk && folder.was_there() && !layout.segments().exists() {
            tracing::warn!(
                path = %layout.segments().display(),
                "a vat has used the data folder, and its journal is gone: what was acknowledged and was in the \
                 journal alone is lost"
            );
        }
        let journal = self.open_journal(&layout, descriptors)?;
        let vfs = Vfs::register(journal.clone());
        let catalog = Catalog::open(&vfs, self.clock.clone())?;
        ledger::enter(&catalog, &self.classes, &self.retire)?;
        let commits = Commits::new(journal);
        ledger::index_alarms(&catalog, &commits, &vfs).await?;
        let started_at = self.clock.now_ms();
        let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), started_at);
        let named = self.classes.iter().map(|it| (it.interface_id, it.name));
        let names = Names::new(named, &schemas);
        let health = Health::new(self.config.limits.turns(), names);
        let host = Host::new(Parts {
            classes: self.classes,
            catalog,
            commits,
            vfs,
            limits: self.config.objects(),
            bindings: self
                .bindings
                .iter()
                .map(|(id, make)| (*id, make()))
                .collect(),
            clock: self.clock,
            metrics: metrics.clone(),
            thread: Thread::new(health.clone(), metrics.clone()),
        });
        #[cfg(any(test, feature = "testing"))]
        if let Some(sabotage) = self.sabotage {
            host.sabotage(sabotage);
        }
        #[cfg(any(test, feature = "testing"))]
        if let Some(service) = &self.failing_service {
            host.thread.services().fail(service);
        }
        let vat = Vat::new(Directory::new(host.clone()), description, started_at);
        let (of_limits, of_http) = (self.config.limits.connections, self.config.http.connections);
        let (http_addresses, are_usual) = self.config.http.addresses();
        metrics.limit("limits.connections", of_limits as u64);
        metrics.limit("http.connections", of_http as u64);
        metrics.limit("limits.journal_bytes", self.config.limits.journal_bytes);
        let serves_http = !http_addresses.is_empty();
        descriptors.tell(of_limits, if serves_http { of_http } else { 0 });
        let shared = Shared::new(descriptors.connections);
        let gateway = Gateway::new(
            call::serve(vat),
            Room::new("`limits.connections`", of_limits, shared.clone()),
            self.config.limits.connection(),
            metrics.clone(),
        );
        let http = Http::new(
            Directory::new(host.clone()),
            schemas,
            Room::new("`connections` in the section `[http]`", of_http, shared),
            self.config.http.settings(),
            self.gateway.map(|make| make()),
        );
        let mut binding = Binding::new(access);
        let asked = self.config.addresses();
        let listeners = binding
            .listen(
                &asked,
                self.config.listen.is_none(),
                self.config.permission(),
                self.config.limits.stall(),
            )
            .await?;
        let http_listeners = binding
            .listen(
                &http_addresses,
                are_usual,
                self.config.http.permission(),
                self.config.http.stall(),
            )
            .await
            .map_err(ServeError::BindHttp)?;
        binding.check(listeners.len() + http_listeners.len())?;
        if !self.config.alarms {
            tracing::warn!(
                "alarms are off: none is run until a start without `--alarms off`, and without \
                 `alarms = false` in the settings"
            );
        }
        readings::show(&metrics, &host, &gateway, &http);
        if let Some(lost) = self.log_records_lost {
            metrics.show(Reading::LogRecordsLost, lost);
        }
        let thread = &host.thread;
        let mut services = Vec::new();
        let scrape = Scrape::new(
            health.clone(),
            metrics.exposition(),
            Hosts::new(&self.config.metrics_hosts),
        );
        let operators = match &self.config.metrics {
            Some(address) => {
                let services = thread.services().clone();
                let permission = self.config.metrics_permission();
                Some(
                    scrape
                        .clone()
                        .start(address, permission, access, services)?,
                )
            }
            None => None,
        };
        if operators.is_some() {
            let begin = move || scrape.clone().refresh(metrics.clone());
            services.push(thread.services().run("readings", begin));
        }
        // Where nothing happens by itself, no thread looks.
        #[cfg(any(test, feature = "testing"))]
        let is_watched = self.hold.is_none();
        #[cfg(not(any(test, feature = "testing")))]
        let is_watched = true;
        let watchdog = if is_watched {
            Some(Watchdog::start(health.clone()).map_err(ServeError::Watchdog)?)
        } else {
            None
        };
        let disk_watch = if is_watched && is_on_real_disk {
            let folders = [layout.root().to_owned(), layout.journal(), layout.objects()];
            let journal = host.commits.journal().clone();
            let commits = move || {
                let (down, durable, are_waiting) = journal.progress();
                health::Commits {
                    down,
                    durable,
                    are_waiting,
                }
            };
            let watch = Watched::new(folders, self.config.limits.free_bytes, commits)
                .and_then(|watched| DiskWatch::start(health.clone(), watched));
            Some(watch.map_err(ServeError::Watchdog)?)
        } else {
            None
        };
        services.push(thread.answer());
        host.schedule();
        let addresses = addresses_of(&listeners);
        let http_addresses = addresses_of(&http_listeners);
        let listeners = listeners.into_iter().map(|listener| {
            let gateway = gateway.clone();
            let begin = move || gateway.clone().accept(listener.clone());
            thread.services().run("listener", begin)
        });
        let http_listeners = http_listeners.into_iter().map(|listener| {
            let http = http.clone();
            let begin = move || http.clone().accept(listener.clone());
            thread.services().run("http_listener", begin)
        });
        let accepting = listeners.chain(http_listeners).collect();
        Ok(Running {
            host,
            gateway,
            http,
            health,
            addresses,
            http_addresses,
            accepting,
            services,
            operators,
            _watchdog: watchdog,
            _disk_watch: disk_watch,
            config: self.config,
            folder: Arc::new(folder),
        })
    }
}

fn addresses_of(listeners: &[Rc<Listener>]) -> Vec<Address> {
    let addresses = listeners.iter().map(|listener| listener.address());
    addresses.cloned().collect()
}

/// Opens the journal, and says so if there is anything to recover or it takes its time.
fn recover(
    disk: Arc<dyn Disk>,
    layout: &Layout,
    settings: &journal::Settings,
) -> Result<Journal, JournalError> {
    const OFTEN: Duration = Duration::from_secs(1);
    let started = Instant::now();
    let mut said = started;
    let (journal, recovery) = Journal::open(disk, layout, settings, |progress| {
        if said.elapsed() > OFTEN {
            said = Instant::now();
            let percent = 100 * progress.done / progress.total.max(1);
            tracing::info!(percent, "recovering from the journal");
        }
    })?;
    if recovery.commits > 0 {
        let took_ms = started.elapsed().as_millis() as u64;
        let journal::Recovery {
            commits,
            bytes,
            time_ms: newest_ms,
        } = recovery;
        tracing::info!(
            commits,
            bytes,
            newest_ms,
            took_ms,
            "recovered from the journal"
        );
    }
    Ok(journal)
}
