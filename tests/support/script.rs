//! Scripts for a [`Probe`](super::Probe), as tests write them.

use std::{cell::RefCell, rc::Rc};

use capnp::{capability::RemotePromise, struct_list};

use crate::probe_capnp::{probe, sink, step};

/// One step: see `probe.capnp`.
#[derive(Clone)]
pub enum Do {
    Put(&'static str, &'static str),
    Get(&'static str),
    Add(&'static str),
    Say(&'static str),
    Pause,
    Latch(&'static str),
    Fail(&'static str),
    Panic,
    Leave(&'static str),
    Tell(sink::Client, &'static str),
    Shout(sink::Client, &'static str),
    Push(sink::Client, &'static str),
    Hand(sink::Client),
    Hold(sink::Client),
    TellHeld(&'static str),
    Open,
    Own,
    Pass(probe::Client),
    Early,
    Object(&'static str, Vec<Do>),
    On(probe::Client, Vec<Do>),
    Chain(&'static str, Vec<Do>, Vec<Do>),
    Burst(&'static str, u32, bool),
    Increment(&'static str),
    Who,
    Greeting,
    Gift(&'static str),
    Sql(&'static str),
    TrySql(&'static str),
    Glance(&'static str),
    Regret(&'static str),
    Mine(&'static str),
    Alarm(u64),
}

fn write_all(steps: &[Do], mut list: struct_list::Builder<'_, step::Owned>) {
    for (i, step) in steps.iter().enumerate() {
        step.write(list.reborrow().get(i as u32));
    }
}

impl Do {
    fn write(&self, mut to: step::Builder<'_>) {
        match self {
            Do::Put(key, text) => {
                let mut it = to.init_put();
                it.set_key(*key);
                it.set_text(*text);
            }
            Do::Get(key) => to.set_get(*key),
            Do::Add(key) => to.set_add(*key),
            Do::Say(text) => to.set_say(*text),
            Do::Pause => to.set_pause(()),
            Do::Latch(name) => to.set_latch(*name),
            Do::Fail(text) => to.set_fail(*text),
            Do::Panic => to.set_panic("told to panic"),
            Do::Leave(reason) => to.set_leave(*reason),
            Do::Tell(sink, line) => {
                let mut it = to.init_tell();
                it.set_sink(sink.clone());
                it.set_line(*line);
            }
            Do::Shout(sink, words) => {
                let mut it = to.init_shout();
                it.set_to(sink.clone());
                it.set_words(*words);
            }
            Do::Push(sink, item) => {
                let mut it = to.init_push();
                it.set_into(sink.clone());
                it.set_item(*item);
            }
            Do::Hand(sink) => to.set_hand(sink.clone()),
            Do::Hold(sink) => to.set_hold(sink.clone()),
            Do::TellHeld(text) => to.set_tell_held(*text),
            Do::Open => to.set_open(()),
            Do::Own => to.set_own(()),
            Do::Pass(cap) => to.set_pass(cap.clone()),
            Do::Early => to.set_early(()),
            Do::Object(name, steps) => {
                let mut it = to.init_object();
                it.set_object_name(*name);
                write_all(steps, it.init_script(steps.len() as u32));
            }
            Do::On(cap, steps) => {
                let mut it = to.init_on();
                it.set_cap(cap.clone());
                write_all(steps, it.init_deeds(steps.len() as u32));
            }
            Do::Chain(name, first, second) => {
                let mut it = to.init_chain();
                it.set_object_name(*name);
                write_all(first, it.reborrow().init_first(first.len() as u32));
                write_all(second, it.init_second(second.len() as u32));
            }
            Do::Burst(name, count, backwards) => {
                let mut it = to.init_burst();
                it.set_object_name(*name);
                it.set_count(*count);
                it.set_backwards(*backwards);
            }
            Do::Increment(name) => to.set_increment(*name),
            Do::Who => to.set_who(()),
            Do::Greeting => to.set_greeting(()),
            Do::Gift(name) => to.set_gift(*name),
            Do::Sql(query) => to.set_write_sql(*query),
            Do::TrySql(query) => to.set_try_sql(*query),
            Do::Glance(key) => to.set_glance(*key),
            Do::Regret(key) => to.set_regret(*key),
            Do::Mine(place) => to.set_mine(*place),
            Do::Alarm(delay_ms) => to.set_alarm(*delay_ms),
        }
    }
}

/// Sends a script. Nothing is awaited.
pub fn send(target: &probe::Client, steps: &[Do]) -> RemotePromise<probe::run_results::Owned> {
    let mut request = target.run_request();
    write_all(steps, request.get().init_steps(steps.len() as u32));
    request.send()
}

/// Sends a script and says what the object said.
pub async fn run(target: &probe::Client, steps: &[Do]) -> capnp::Result<Vec<String>> {
    let response = send(target, steps).promise.await?;
    said(response.get()?)
}

/// Reads what an object said.
pub fn said(results: probe::run_results::Reader<'_>) -> capnp::Result<Vec<String>> {
    results
        .get_said()?
        .iter()
        .map(|text| Ok(text?.to_string()?))
        .collect()
}

/// Sends a script and gives the capability that the object returned.
pub async fn cap_of(target: &probe::Client, steps: &[Do]) -> capnp::Result<probe::Client> {
    send(target, steps).promise.await?.get()?.get_cap()
}

/// Somebody whom objects talk to: keeps what it hears. Cheap to clone.
#[derive(Clone, Default)]
pub struct Ear {
    heard: Rc<RefCell<Vec<String>>>,
    kept: Rc<RefCell<Vec<probe::Client>>>,
}

impl Ear {
    pub fn client(&self) -> sink::Client {
        capnp_rpc::new_client(self.clone())
    }

    pub fn heard(&self) -> Vec<String> {
        self.heard.borrow().clone()
    }

    /// The capabilities that it was given.
    pub fn kept(&self) -> Vec<probe::Client> {
        self.kept.borrow().clone()
    }

    fn hear(&self, text: capnp::text::Reader<'_>) -> capnp::Result<()> {
        self.heard.borrow_mut().push(text.to_string()?);
        Ok(())
    }
}

impl sink::Server for Ear {
    async fn note(
        self: Rc<Self>,
        params: sink::NoteParams,
        _: sink::NoteResults,
    ) -> capnp::Result<()> {
        self.hear(params.get()?.get_text()?)
    }

    async fn push(self: Rc<Self>, params: sink::PushParams) -> capnp::Result<()> {
        self.hear(params.get()?.get_text()?)
    }

    async fn keep(
        self: Rc<Self>,
        params: sink::KeepParams,
        _: sink::KeepResults,
    ) -> capnp::Result<()> {
        self.kept.borrow_mut().push(params.get()?.get_cap()?);
        Ok(())
    }
}
