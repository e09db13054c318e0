//! The class of the tests: an object that does what it is told, step by step.

use std::{cell::RefCell, rc::Rc, time::Duration};

use capnp::struct_list;
use futures::future::LocalBoxFuture;
use vatwerk::counter_capnp::counter;
use vatwerk_server::{AlarmInfo, Class, Context, Error};

use super::controls::{Controls, Hook, Mood};
use crate::probe_capnp::{probe, sink, step};

/// The schema of the class.
pub const SCHEMA: &[u8] = include_bytes!("probe.cgr");

pub struct Probe {
    ctx: Context,
    controls: Rc<Controls>,
    held: RefCell<Option<sink::Client>>,
    mine: RefCell<Option<Mine>>,
}

/// A capability that an object hands out: it takes scripts too.
struct Handle(Rc<Probe>);

/// Panics when it is dropped.
struct Mine;

impl Drop for Mine {
    fn drop(&mut self) {
        panic!("a destructor was told to panic");
    }
}

impl probe::Server for Mine {}

#[derive(Default)]
struct Outcome {
    said: Vec<String>,
    cap: Option<probe::Client>,
    early: bool,
    mine: Option<Mine>,
}

fn name(ctx: &Context) -> String {
    ctx.name().as_deref().unwrap_or("-").to_owned()
}

async fn undergo(controls: &Controls, hook: Hook, ctx: &Context) -> capnp::Result<()> {
    controls.count(hook, &name(ctx));
    match controls.mood(hook, &name(ctx)) {
        Some(Mood::Fail(text)) => Err(capnp::Error::failed(text.into())),
        Some(Mood::Raise(error)) => Err(error),
        Some(Mood::Panic) => panic!("{hook:?} was told to panic"),
        Some(Mood::Latch(latch)) => {
            controls.wait(latch).await;
            Ok(())
        }
        Some(Mood::LatchAndFail(latch)) => {
            controls.wait(latch).await;
            Err(capnp::Error::failed("it was told to".into()))
        }
        Some(Mood::WriteAndCall(other)) => {
            ctx.storage().kv().put("woken", "yes")?;
            let other = ctx.namespace::<probe::Client>()?.get(other)?;
            other.arrive_request().send().promise.await.map(drop)
        }
        None => Ok(()),
    }
}

impl Class for Probe {
    const NAME: &'static str = "Probe";
    const SCHEMA: &'static [u8] = SCHEMA;
    const ALARMS: bool = true;
    type Client = probe::Client;

    async fn create(ctx: &Context) -> capnp::Result<()> {
        let controls = ctx.binding::<Controls>().expect("the tests bind it");
        let earlier = ctx.storage().kv().get::<String>("created")?;
        assert_eq!(earlier, None, "an earlier `create` has left something");
        ctx.storage().kv().put("created", "yes")?;
        // What was written before an await is a turn of its own, and must not stay if this fails.
        tokio::task::yield_now().await;
        undergo(&controls, Hook::Create, ctx).await
    }

    async fn activate(ctx: Context) -> capnp::Result<Self> {
        let controls = ctx.binding::<Controls>().expect("the tests bind it");
        undergo(&controls, Hook::Activate, &ctx).await?;
        Ok(Probe {
            ctx,
            controls,
            held: RefCell::default(),
            mine: RefCell::default(),
        })
    }

    async fn alarm(self: Rc<Self>, _: AlarmInfo) -> capnp::Result<()> {
        undergo(&self.controls, Hook::Alarm, &self.ctx).await
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.controls.count(Hook::Drop, &name(&self.ctx));
    }
}

impl probe::Server for Probe {
    async fn run(
        self: Rc<Self>,
        params: probe::RunParams,
        results: probe::RunResults,
    ) -> capnp::Result<()> {
        run(self, params, results).await
    }

    async fn arrive(
        self: Rc<Self>,
        params: probe::ArriveParams,
        _: probe::ArriveResults,
    ) -> capnp::Result<()> {
        self.controls.note_arrival(params.get()?.get_number());
        Ok(())
    }

    async fn stream(self: Rc<Self>, params: probe::StreamParams) -> capnp::Result<()> {
        let number = params.get()?.get_number();
        self.ctx.storage().kv().put("streamed", &number)?;
        self.controls.note_arrival(number);
        Ok(())
    }
}

impl probe::Server for Handle {
    async fn run(
        self: Rc<Self>,
        params: probe::RunParams,
        results: probe::RunResults,
    ) -> capnp::Result<()> {
        run(self.0.clone(), params, results).await
    }
}

async fn run(
    probe: Rc<Probe>,
    params: probe::RunParams,
    mut results: probe::RunResults,
) -> capnp::Result<()> {
    let mut outcome = Outcome::default();
    for step in params.get()?.get_steps()? {
        probe.clone().step(step, &mut outcome).await?;
        if std::mem::take(&mut outcome.early) {
            let mut early = results.get();
            early.set_said(&outcome.said[..])?;
            early.set_cap(outcome.cap.clone().expect("something to call early"));
            results.set_pipeline()?;
        }
    }
    let mut results = results.get();
    results.set_said(&outcome.said[..])?;
    if let Some(cap) = outcome.cap {
        results.set_cap(cap);
    }
    Ok(())
}

type Script<'a> = struct_list::Reader<'a, step::Owned>;

/// Has `target` do something, and waits.
async fn have(
    target: &probe::Client,
    script: Script<'_>,
    outcome: &mut Outcome,
) -> capnp::Result<()> {
    let mut request = target.run_request();
    request.get().set_steps(script)?;
    let response = request.send().promise.await?;
    let response = response.get()?;
    for said in response.get_said()? {
        outcome.said.push(said?.to_string()?);
    }
    if response.has_cap() {
        outcome.cap = Some(response.get_cap()?);
    }
    Ok(())
}

impl Probe {
    fn other(&self, name: &str) -> capnp::Result<probe::Client> {
        Ok(self.ctx.namespace::<probe::Client>()?.get(name)?)
    }

    fn step<'a>(
        self: Rc<Self>,
        step: step::Reader<'a>,
        outcome: &'a mut Outcome,
    ) -> LocalBoxFuture<'a, capnp::Result<()>> {
        Box::pin(async move {
            let kv = self.ctx.storage().kv();
            match step.which()? {
                step::Put(it) => kv.put(it.get_key()?.to_str()?, it.get_text()?.to_str()?)?,
                step::Get(key) => {
                    let found = kv.get::<String>(key?.to_str()?)?;
                    outcome.said.push(found.unwrap_or("-".into()));
                }
                step::Add(key) => {
                    let key = key?.to_str()?;
                    let sum = kv.get(key)?.unwrap_or(0) + 1;
                    kv.put(key, &sum)?;
                    tokio::task::yield_now().await;
                    outcome.said.push(sum.to_string());
                }
                step::Say(text) => outcome.said.push(text?.to_string()?),
                step::Pause(()) => tokio::task::yield_now().await,
                step::Latch(latch) => self.controls.wait(latch?.to_str()?).await,
                step::Fail(text) => return Err(capnp::Error::failed(text?.to_string()?)),
                step::Panic(text) => panic!("{}", text?.to_str()?),
                step::Leave(reason) => self.ctx.abort(reason?.to_str()?),
                step::Tell(it) => note(&it.get_sink()?, it.get_line()?)
                    .promise
                    .await
                    .map(drop)?,
                step::Shout(it) => {
                    let answer = note(&it.get_to()?, it.get_words()?);
                    tokio::task::spawn_local(answer.promise);
                }
                step::Push(it) => {
                    let mut request = it.get_into()?.push_request();
                    request.get().set_text(it.get_item()?);
                    request.send().await?;
                }
                step::Hand(to) => {
                    let mut request = to?.keep_request();
                    request.get().set_cap(self.handle());
                    request.send().promise.await?;
                }
                step::Hold(sink) => *self.held.borrow_mut() = Some(sink?),
                step::TellHeld(text) => {
                    let held = self.held.borrow().clone().expect("something was kept");
                    note(&held, text?).promise.await?;
                }
                step::Open(()) => outcome.cap = Some(self.handle()),
                step::Own(()) => outcome.cap = Some(self.ctx.stub()),
                step::Pass(cap) => outcome.cap = Some(cap?),
                step::Early(()) => outcome.early = true,
                step::Object(it) => {
                    let other = self.other(it.get_object_name()?.to_str()?)?;
                    have(&other, it.get_script()?, outcome).await?;
                }
                step::On(it) => have(&it.get_cap()?, it.get_deeds()?, outcome).await?,
                step::Chain(it) => {
                    let other = self.other(it.get_object_name()?.to_str()?)?;
                    let mut first = other.run_request();
                    first.get().set_steps(it.get_first()?)?;
                    let first = first.send();
                    have(&first.pipeline.get_cap(), it.get_second()?, outcome).await?;
                }
                step::Burst(it) => {
                    let other = self.other(it.get_object_name()?.to_str()?)?;
                    let mut answers = Vec::new();
                    for number in 0..it.get_count() {
                        let mut request = other.arrive_request();
                        request.get().set_number(number);
                        answers.push(request.send().promise);
                    }
                    while it.get_backwards() && !answers.is_empty() {
                        answers.pop().expect("not empty").await?;
                    }
                }
                step::Increment(name) => {
                    let counters = self.ctx.namespace::<counter::Client>()?;
                    let counter = counters.get(name?.to_str()?)?;
                    let answer = counter.increment_request().send().promise.await?;
                    outcome.said.push(answer.get()?.get_count().to_string());
                }
                step::Who(()) => {
                    outcome.said.push(self.ctx.id().to_string());
                    outcome.said.push(name(&self.ctx));
                }
                step::Greeting(()) => outcome.said.push(self.controls.greeting()),
                step::Gift(name) => outcome.cap = Some(self.other(name?.to_str()?)?),
                step::WriteSql(query) => {
                    self.ctx.storage().sql().exec(query?.to_str()?, ())?;
                }
                step::TrySql(query) => {
                    let tried = self.ctx.storage().sql().exec(query?.to_str()?, ());
                    outcome.said.push(tried.map_or("failed", |_| "done").into());
                }
                step::Glance(key) => {
                    let key = key?.to_str()?;
                    let found = self
                        .ctx
                        .storage()
                        .transaction(|storage| storage.kv().get::<String>(key))?;
                    outcome.said.push(found.unwrap_or("-".into()));
                }
                step::Regret(key) => {
                    let key = key?.to_str()?;
                    let undone = self.ctx.storage().transaction(|storage| {
                        storage.kv().put(key, "regretted")?;
                        Err::<(), _>(Error::NotFound("a reason".into()))
                    });
                    outcome.said.extend(undone.err().map(|e| e.to_string()));
                }
                step::Mine(place) => match place?.to_str()? {
                    "self" => *self.mine.borrow_mut() = Some(Mine),
                    "call" => outcome.mine = Some(Mine),
                    _ => outcome.cap = Some(capnp_rpc::new_client(Mine)),
                },
                step::Alarm(delay_ms) => {
                    let alarms = self.ctx.alarms()?;
                    alarms.set_in(Duration::from_millis(delay_ms))?;
                }
            }
            Ok(())
        })
    }

    fn handle(self: &Rc<Self>) -> probe::Client {
        capnp_rpc::new_client(Handle(self.clone()))
    }
}

fn note(
    sink: &sink::Client,
    text: capnp::text::Reader<'_>,
) -> capnp::capability::RemotePromise<sink::note_results::Owned> {
    let mut request = sink.note_request();
    request.get().set_text(text);
    request.send()
}
