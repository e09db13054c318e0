//! Puppets with alarms: what runs is noted, and does what the test has said.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::Duration,
};

use futures::future::LocalBoxFuture;
use vatwerk_server::{Alarm, AlarmInfo, Config, Context, Server, testing::TestVat};

use super::{
    on_this_thread,
    puppet::{self, Client, Own, Program, Puppet},
};

pub const SECOND: i64 = 1000;
pub const MINUTE: i64 = 60 * SECOND;
pub const HOUR: i64 = 60 * MINUTE;

type OnAlarm = Rc<dyn Fn(Context, AlarmInfo) -> LocalBoxFuture<'static, capnp::Result<()>>>;

/// What a test and its objects share. Given to the vat as a binding.
#[derive(Clone, Default)]
pub struct Spring(Rc<State>);

#[derive(Default)]
struct State {
    on_alarm: RefCell<Option<OnAlarm>>,
    ran: RefCell<Vec<Ran>>,
    /// How many instances of an object there are.
    instances: RefCell<HashMap<String, u32>>,
    most_instances: Cell<u32>,
    /// When instances began to wake.
    wakes: RefCell<Vec<i64>>,
    /// What instances fail to wake with.
    broken: Cell<Option<Broken>>,
}

/// A way in which an object fails to wake.
#[derive(Clone, Copy, Debug)]
pub enum Broken {
    Fails(&'static str),
    Panics,
}

/// A run of an alarm that began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    pub object: String,
    pub at_ms: i64,
    pub alarm: AlarmInfo,
}

impl Spring {
    /// Has an object do something, and returns what that came to.
    pub async fn act<T, F>(
        &self,
        vat: &TestVat,
        object: &str,
        deed: impl FnOnce(Context) -> F + 'static,
    ) -> capnp::Result<T>
    where
        T: 'static,
        F: Future<Output = capnp::Result<T>> + 'static,
    {
        let object: Client = vat.object(object);
        puppet::act(&object, async move |own| deed(own.ctx.clone()).await).await
    }

    /// What the handler of every alarm does from now on. Until this is called, nothing.
    pub fn on_alarm<F>(&self, handler: impl Fn(Context, AlarmInfo) -> F + 'static)
    where
        F: Future<Output = capnp::Result<()>> + 'static,
    {
        let handler: OnAlarm = Rc::new(move |ctx, alarm| Box::pin(handler(ctx, alarm)));
        self.0.on_alarm.replace(Some(handler));
    }

    /// The runs that began since this was last called.
    pub fn ran(&self) -> Vec<Ran> {
        self.0.ran.take()
    }

    /// Has every object fail to wake from now on, or wake again.
    pub fn break_wakes(&self, broken: Option<Broken>) {
        self.0.broken.set(broken);
    }

    /// When instances began to wake since this was last called, in milliseconds since 1970.
    pub fn wakes(&self) -> Vec<i64> {
        self.0.wakes.take()
    }

    /// The most instances of one object that there were at a time.
    pub fn most_instances(&self) -> u32 {
        self.0.most_instances.get()
    }
}

/// One instance. It is gone when this is dropped.
struct Instance {
    spring: Spring,
    object: String,
}

impl Instance {
    fn begin(spring: Spring, object: String) -> Instance {
        let mut instances = spring.0.instances.borrow_mut();
        let count = instances.entry(object.clone()).or_default();
        *count += 1;
        let most = spring.0.most_instances.get().max(*count);
        spring.0.most_instances.set(most);
        drop(instances);
        Instance { spring, object }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let mut instances = self.spring.0.instances.borrow_mut();
        *instances.get_mut(&self.object).expect("it was counted") -= 1;
    }
}

/// The program of [`Puppet`](puppet::Puppet)s that have a [`Spring`].
pub struct Clockwork;

fn spring(ctx: &Context) -> Spring {
    let spring = ctx.binding::<Spring>().expect("the test binds it");
    (*spring).clone()
}

fn name(ctx: &Context) -> String {
    ctx.name().as_deref().unwrap_or("-").to_owned()
}

impl Program for Clockwork {
    async fn activate(ctx: &Context) -> capnp::Result<()> {
        let State { wakes, broken, .. } = &*spring(ctx).0;
        wakes.borrow_mut().push(ctx.now_ms());
        match broken.get() {
            None => Ok(()),
            Some(Broken::Fails(why)) => Err(capnp::Error::failed(why.into())),
            Some(Broken::Panics) => panic!("told to"),
        }
    }

    fn awake(own: &Own) {
        let instance = Instance::begin(spring(&own.ctx), name(&own.ctx));
        own.kept.replace(Some(Box::new(instance)));
    }

    async fn alarm(own: Rc<Own>, alarm: AlarmInfo) -> capnp::Result<()> {
        let State { ran, on_alarm, .. } = &*spring(&own.ctx).0;
        ran.borrow_mut().push(Ran {
            object: name(&own.ctx),
            at_ms: own.ctx.now_ms(),
            alarm: alarm.clone(),
        });
        let handler = on_alarm.borrow().clone();
        match handler {
            Some(handler) => handler(own.ctx.clone(), alarm).await,
            None => Ok(()),
        }
    }
}

/// The same, one call and one alarm at a time.
pub struct SerialClockwork;

impl Program for SerialClockwork {
    const SERIAL: bool = true;

    fn awake(own: &Own) {
        Clockwork::awake(own);
    }

    async fn alarm(own: Rc<Own>, alarm: AlarmInfo) -> capnp::Result<()> {
        Clockwork::alarm(own, alarm).await
    }
}

/// A vat of `Clockwork` puppets, and what they share with the test.
pub async fn vat() -> (TestVat, Spring) {
    vat_with(|_| {}).await
}

/// The same vat with other settings.
pub async fn vat_with(settings: fn(&mut Config)) -> (TestVat, Spring) {
    let spring = Spring::default();
    let vat = TestVat::start(program::<Clockwork>(&spring, settings)).await;
    (vat, spring)
}

/// The program of a vat that serves puppets of `P`.
pub fn program<P: Program>(
    spring: &Spring,
    settings: fn(&mut Config),
) -> impl Fn(Server) -> Server + 'static {
    let bound = on_this_thread(spring.clone());
    move |server| {
        let mut config = Config::default();
        settings(&mut config);
        server
            .config(config)
            .class::<Puppet<P>>()
            .binding_with(bound.clone())
    }
}

/// A duration in milliseconds.
pub fn ms(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

/// Sets the own alarm of an object, so many milliseconds from now, and returns when that is.
pub async fn set(vat: &TestVat, spring: &Spring, object: &str, after_ms: i64) -> i64 {
    let at_ms = vat.now_ms() + after_ms;
    let set = spring.act(vat, object, move |ctx| async move {
        Ok(ctx.alarms()?.set(at_ms)?)
    });
    set.await.unwrap();
    at_ms
}

/// When the own alarm of an object is set for.
pub async fn get(vat: &TestVat, spring: &Spring, object: &str) -> Option<i64> {
    let get = spring.act(vat, object, |ctx| async move { Ok(ctx.alarms()?.get()?) });
    get.await.unwrap()
}

/// Sets alarms of an object with these names, each so many milliseconds from now.
pub async fn set_named(
    vat: &TestVat,
    spring: &Spring,
    object: &str,
    alarms: &[(&str, i64)],
) -> i64 {
    let now_ms = vat.now_ms();
    let alarms: Vec<_> = alarms
        .iter()
        .map(|(name, after_ms)| ((*name).to_owned(), now_ms + after_ms))
        .collect();
    let set = spring.act(vat, object, move |ctx| async move {
        for (name, at_ms) in alarms {
            ctx.alarms()?.set_named(&name, &Alarm::at(at_ms))?;
        }
        Ok(())
    });
    set.await.unwrap();
    now_ms
}

/// The names of the alarms that ran, and how long after a time.
pub fn named(ran: &[Ran], since_ms: i64) -> Vec<(&str, i64)> {
    ran.iter()
        .map(|ran| (&ran.alarm.name[..], ran.at_ms - since_ms))
        .collect()
}

/// A number of a vat's metrics.
pub fn number(vat: &TestVat, name: &str) -> f64 {
    let text = vat.metrics();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("{name}\n{text}"))
}

/// When the runs began, and how often they had failed.
pub fn times(ran: &[Ran]) -> Vec<(i64, u32)> {
    ran.iter()
        .map(|ran| (ran.at_ms, ran.alarm.retry_count))
        .collect()
}
