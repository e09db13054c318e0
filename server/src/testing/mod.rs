//! For the tests of your classes: a vat in memory, under virtual time.
//!
//! The feature `testing` has this module; name it among your `dev-dependencies`:
//!
//! ```toml
//! [dev-dependencies]
//! vatwerk-server = { version = "0.1", features = ["testing"] }
//! ```
//!
//! ```
//! use std::{rc::Rc, time::Duration};
//! use vatwerk::{CODE_GENERATOR_REQUEST, counter_capnp::counter};
//! use vatwerk_server::{AlarmInfo, Class, Context, testing};
//!
//! /// Counts. What nobody has touched for a day begins anew.
//! struct Daily(Context);
//!
//! impl Class for Daily {
//!     const NAME: &'static str = "Daily";
//!     const SCHEMA: &'static [u8] = CODE_GENERATOR_REQUEST;
//!     const ALARMS: bool = true;
//!     type Client = counter::Client;
//!
//!     async fn activate(ctx: Context) -> capnp::Result<Self> {
//!         Ok(Daily(ctx))
//!     }
//!
//!     async fn alarm(self: Rc<Self>, _: AlarmInfo) -> capnp::Result<()> {
//!         Ok(self.0.storage().kv().put("count", &0)?)
//!     }
//! }
//!
//! impl counter::Server for Daily {
//!     async fn increment(
//!         self: Rc<Self>,
//!         _: counter::IncrementParams,
//!         mut results: counter::IncrementResults,
//!     ) -> capnp::Result<()> {
//!         let kv = self.0.storage().kv();
//!         let count = kv.get("count")?.unwrap_or(0) + 1;
//!         kv.put("count", &count)?;
//!         self.0.alarms()?.set_in(Duration::from_hours(24))?;
//!         results.get().set_count(count);
//!         Ok(())
//!     }
//! }
//!
//! async fn increment(counter: &counter::Client) -> capnp::Result<i64> {
//!     Ok(counter.increment_request().send().promise.await?.get()?.get_count())
//! }
//!
//! // In a program of yours: #[test] fn it_counts_and_begins_anew() {
//! testing::run(async {
//!     let vat = testing::TestVat::start(|server| server.class::<Daily>()).await;
//!     let visits: counter::Client = vat.object("visits");
//!     assert_eq!(increment(&visits).await.unwrap(), 1);
//!
//!     // Instances come and go, and so does the vat. The object, and its stub, stay.
//!     vat.evict::<counter::Client>("visits").await;
//!     assert_eq!(increment(&visits).await.unwrap(), 2);
//!     vat.crash().await;
//!     assert_eq!(increment(&visits).await.unwrap(), 3);
//!
//!     // A day later, without anybody having waited for it.
//!     let due_ms = vat.next_alarm::<counter::Client>("visits");
//!     assert_eq!(due_ms, Some(vat.now_ms() + 24 * 60 * 60 * 1000));
//!     vat.advance(Duration::from_hours(24)).await;
//!     assert_eq!(vat.next_alarm::<counter::Client>("visits"), None);
//!     assert_eq!(increment(&visits).await.unwrap(), 1);
//!
//!     // Who calls when the disk fails is told, and nothing has happened.
//!     vat.fail_next_commit();
//!     assert!(increment(&visits).await.is_err());
//!     assert_eq!(increment(&visits).await.unwrap(), 2);
//! });
//! ```
//!
//! **Time is virtual.** It stands still while anybody has something to do, and when everybody waits it
//! goes at once to where somebody waits for it to go: a sleep, a timeout, an alarm. So nothing takes
//! longer than it computes, and every run is like the one before. It is the time of
//! [`Context::now_ms`](crate::Context::now_ms), of alarms and of all timers of `tokio`. Waiting for
//! threads or sockets does not go together with it.
//!
//! **A test calls like a client**, by a connection of its own, though there is no socket. So results
//! cross the membrane, messages have their limits, and capabilities that an object hands out break
//! with the connection; stubs do not.

mod life;
mod runtime;
mod stub;

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use capnp::{capability::FromClientHook, traits::HasTypeId};
use tempfile::TempDir;
use vatwerk::{ObjectId, vat_capnp::session};

use life::{Life, Lives};
use runtime::Pace;
use stub::{Key, Name};

pub use crate::{
    env::sim::Survival,
    object::{State, Status},
};
pub use runtime::run;

use crate::{
    Result, Server,
    call::Hook,
    catalog::Catalog,
    env::{Clock, sim::SimDisk},
    folder::DatabaseId,
    journal::testing::Hold,
    metrics::Vitals,
    object::{ClassEntry, Host},
};

/// What the clock shows when a vat is first started: the beginning of 2026, UTC.
const START_MS: i64 = 1_767_225_600_000;

/// As short as can be: it is read from beginning to end after a crash.
const JOURNAL_BYTES: u64 = 8 << 20;

/// After this an object that was to fall asleep is said not to.
const UNTIL_ASLEEP: Duration = Duration::from_secs(60 * 60);

/// A vat in the thread of its test. Its data is in memory, on a disk of its own.
///
/// What it is asked about objects is asked by class interface, `chat::Client` say, and by name.
///
/// # Panics
///
/// All methods but [`restart`](TestVat::restart), where they name a class that the vat does not
/// serve, or it is stopped.
pub struct TestVat {
    lives: Rc<Lives>,
    program: RefCell<Rc<Program>>,
    /// With the lock and the format of the data folder, which are not on the simulated disk.
    folder: TempDir,
    disk: RefCell<SimDisk>,
    hold: RefCell<Hold>,
    clock: Clock,
    pace: Arc<Pace>,
}

type Program = dyn Fn(Server) -> Server;

impl TestVat {
    /// Starts a vat that nobody has used yet. `program` gives it its classes, and whatever else a
    /// [`Server`] takes: bindings, limits. Where it listens and where its data is does not matter
    /// here. It is asked again whenever the vat starts.
    ///
    /// # Panics
    ///
    /// If the vat does not start, or outside of [`run`].
    pub async fn start(program: impl Fn(Server) -> Server + 'static) -> TestVat {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let vat = TestVat {
            disk: RefCell::new(SimDisk::new(folder.path().join("data/journal"))),
            lives: Rc::default(),
            program: RefCell::new(Rc::new(program)),
            folder,
            hold: RefCell::default(),
            clock: Clock::of_timers(START_MS),
            pace: Pace::of_this_thread(),
        };
        vat.begin().await;
        vat
    }

    /// The object of that name, as a client has it: the stub outlives instances, crashes and
    /// restarts. While the vat is stopped, calls on it fail with `disconnected`.
    pub fn object<C: FromClientHook + HasTypeId>(&self, name: &str) -> C {
        self.stub(Key::Name(name.to_owned()))
    }

    /// The object of that id, likewise.
    pub fn object_by_id<C: FromClientHook + HasTypeId>(&self, id: ObjectId) -> C {
        self.stub(Key::Id(id))
    }

    fn stub<C: FromClientHook + HasTypeId>(&self, key: Key) -> C {
        let name = Name::new(self.lives.clone(), C::TYPE_ID, key);
        C::new(Box::new(Hook(Rc::new(name))))
    }

    /// What a client begins with: namespaces, saved references. It ends with the vat.
    pub fn session(&self) -> session::Client {
        self.life().line().session.clone()
    }

    /// What time it is, in milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Lets that time pass. Alarms and timers that are due meanwhile run when they are due, those at
    /// the end of it too.
    pub async fn advance(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
        self.settle().await;
    }

    /// Waits until nobody has anything to do before time goes on. What could have happened by now,
    /// has.
    pub async fn settle(&self) {
        self.pace.at_rest().await;
    }

    /// What an object looks like at the moment.
    pub fn status<C: HasTypeId>(&self, name: &str) -> Status {
        let (life, object) = self.find::<C>(name);
        life.host.status(object.object)
    }

    /// Whether an object has an instance that takes calls.
    pub fn is_awake<C: HasTypeId>(&self, name: &str) -> bool {
        self.status::<C>(name).state == State::Awake
    }

    /// Puts an object to sleep, and waits until it sleeps: calls that run are waited for.
    ///
    /// # Panics
    ///
    /// If that takes more than an hour, because somebody holds a capability of the object, say.
    pub async fn evict<C: HasTypeId>(&self, name: &str) {
        let (life, object) = self.find::<C>(name);
        let id = object.object;
        let evicted = life.within(async move |host| host.evict(id).await);
        if tokio::time::timeout(UNTIL_ASLEEP, evicted).await.is_err() {
            let status = life.host.status(id);
            panic!("`{name}` does not fall asleep: {status:?}");
        }
    }

    /// Deletes an object for good, as an operator does: whether there was anything. The next call
    /// makes it anew.
    pub async fn delete<C: HasTypeId>(&self, name: &str) -> Result<bool> {
        let (life, object) = self.find::<C>(name);
        let class = class::<C>(&life.host);
        let id = object.object;
        life.within(async move |host| host.delete(&class, id).await)
            .await
    }

    /// When the vat looks at the alarms of an object next, in milliseconds since 1970: when its
    /// earliest alarm is due.
    pub fn next_alarm<C: HasTypeId>(&self, name: &str) -> Option<i64> {
        let (life, object) = self.find::<C>(name);
        up_to_date(&life.host)
            .alarm_of(object)
            .expect("the catalog is read")
    }

    /// Goes to when the next alarm of any object is due, and waits until what is due then has run.
    /// Whether there was one.
    pub async fn run_alarms(&self) -> bool {
        self.settle().await;
        let host = self.life().host.clone();
        let next = up_to_date(&host).alarms_due(i64::MAX, 1);
        let Some((_, due_ms)) = next.expect("the catalog is read").pop() else {
            return false;
        };
        self.clock.sleep_until(due_ms).await;
        // Longer than that no alarm runs. What cannot run is tried for ever.
        let _ = tokio::time::timeout(host.limits.alarm, async {
            self.settle().await;
            while host.alarms_running() > 0 {
                self.pace.step().await;
                self.settle().await;
            }
        })
        .await;
        true
    }

    /// How many objects are looking at their alarms, or have not been seen to be done with it.
    pub fn alarms_running(&self) -> u64 {
        self.life().host.alarms_running()
    }

    /// The vat's numbers, in the text format of Prometheus, as an operator sees them.
    pub fn metrics(&self) -> String {
        let metrics = &self.life().host.metrics;
        metrics.refresh();
        metrics.exposition().encode(Vitals::default())
    }

    /// From now on no commit becomes durable: whatever could reveal one is held back.
    pub fn hold_commits(&self) {
        self.hold.borrow().hold();
    }

    /// Ends what [`hold_commits`](TestVat::hold_commits) began.
    pub fn release_commits(&self) {
        self.hold.borrow().release();
    }

    /// The disk fails, once, when an object commits next: the commit has not happened. Who called is
    /// told `storage-failed`, and the object is reset.
    pub fn fail_next_commit(&self) {
        self.hold.borrow().fail_next();
    }

    /// The disk, for other ways in which it may fail. After a crash, or a loss of power, the vat has
    /// another one.
    pub fn disk(&self) -> SimDisk {
        self.disk.borrow().clone()
    }

    /// Stops the vat in order: calls and background work in flight finish, as far as the time for
    /// draining goes. Commits that are held back become durable before.
    pub async fn stop(&self) {
        if let Some(life) = self.lives.current() {
            self.release_commits();
            life.stop().await;
            self.lives.end();
        }
    }

    /// Starts the vat on what is on its disk; one that runs is stopped before, in order.
    ///
    /// # Panics
    ///
    /// If the vat does not start.
    pub async fn restart(&self) {
        self.stop().await;
        self.begin().await;
    }

    /// Restarts with another program, for good: a later version of a class, other limits.
    ///
    /// # Panics
    ///
    /// If the vat does not start.
    pub async fn restart_as(&self, program: impl Fn(Server) -> Server + 'static) {
        self.program.replace(Rc::new(program));
        self.restart().await;
    }

    /// Kills the vat where it stands, as `kill -9` would, and starts it again. Commits that are held
    /// back are lost, and calls in flight fail with `disconnected`.
    pub async fn crash(&self) {
        // What was written is on its way to the disk.
        self.lose_power(Survival::Everything).await;
    }

    /// Takes the power away from the machine, and starts the vat again. What of the unsynced is on
    /// the disk then, `survival` says.
    pub async fn lose_power(&self, survival: impl Into<Survival>) {
        let life = self.life();
        let found = self.disk.borrow().after_crash(survival);
        self.disk.replace(found);
        self.lives.end();
        life.kill().await;
        drop(life);
        self.begin().await;
    }

    async fn begin(&self) {
        let data = self.folder.path().join("data");
        let hold = Hold::default();
        self.hold.replace(hold.clone());
        let program = self.program.borrow().clone();
        let server = program(Server::builder())
            .configure(|config| {
                config.data = data;
                config.listen = Some(Vec::new());
                config.metrics = None;
                config.limits.journal_bytes = JOURNAL_BYTES;
            })
            .disk(Arc::new(self.disk.borrow().clone()))
            .hold(hold)
            .clock(self.clock.clone());
        match Life::begin(server).await {
            Ok(life) => self.lives.begin(life),
            Err(error) => panic!("the vat does not start: {error}"),
        }
    }

    fn life(&self) -> Rc<Life> {
        let life = self.lives.current();
        life.unwrap_or_else(|| panic!("the vat is stopped"))
    }

    fn find<C: HasTypeId>(&self, name: &str) -> (Rc<Life>, DatabaseId) {
        let life = self.life();
        let class = class::<C>(&life.host);
        let object = DatabaseId {
            class: class.interface_id,
            object: class.ids.of_name(name).expect("a name of an object"),
        };
        (life, object)
    }
}

fn class<C: HasTypeId>(host: &Host) -> Rc<ClassEntry> {
    match host.classes.by_interface(C::TYPE_ID) {
        Ok(class) => class.clone(),
        Err(error) => panic!("{error}"),
    }
}

/// The catalog, once it has been told what is to be said of objects.
fn up_to_date(host: &Host) -> &Catalog {
    host.write_notes().expect("the catalog is written");
    &host.catalog
}
