//! What a test and the objects of its vat share: latches, notes, and orders to fail.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::watch;

/// Given to the vat as a binding. Cheap to clone.
#[derive(Clone, Default)]
pub struct Controls(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    latches: HashMap<String, Latch>,
    moods: HashMap<(Hook, String), Mood>,
    runs: HashMap<(Hook, String), u32>,
    arrived: Vec<u32>,
    greeting: String,
}

#[derive(Clone)]
struct Latch {
    waiting: watch::Sender<u32>,
    open: watch::Sender<bool>,
}

/// Which part of an object's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    Create,
    Activate,
    /// An alarm runs.
    Alarm,
    /// The instance was dropped.
    Drop,
}

/// What `create`, `activate` or `alarm` of one object does from now on.
#[derive(Clone, Debug)]
pub enum Mood {
    Fail(&'static str),
    Raise(capnp::Error),
    Panic,
    Latch(&'static str),
    LatchAndFail(&'static str),
    /// Writes, then calls the object of that name, and waits for it.
    WriteAndCall(&'static str),
}

impl Controls {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it has this")
    }

    fn latch(&self, name: &str) -> Latch {
        let mut state = self.state();
        let new = || Latch {
            waiting: watch::Sender::new(0),
            open: watch::Sender::new(false),
        };
        state
            .latches
            .entry(name.to_owned())
            .or_insert_with(new)
            .clone()
    }

    /// In an object: says that it is here, and waits to be let go.
    pub async fn wait(&self, name: &str) {
        let latch = self.latch(name);
        latch.waiting.send_modify(|waiting| *waiting += 1);
        let mut open = latch.open.subscribe();
        let _ = open.wait_for(|open| *open).await;
    }

    /// In an object: says that it is here, and goes on.
    pub fn arrive(&self, name: &str) {
        let latch = self.latch(name);
        latch.waiting.send_modify(|waiting| *waiting += 1);
    }

    /// In a test: waits until an object waits at the latch.
    pub async fn reached(&self, name: &str) {
        let mut waiting = self.latch(name).waiting.subscribe();
        let _ = waiting.wait_for(|waiting| *waiting > 0).await;
    }

    /// How many have come to the latch so far.
    pub fn arrivals(&self, latch: &str) -> u32 {
        *self.latch(latch).waiting.borrow()
    }

    /// Lets go who waits at the latch, and who comes later.
    pub fn release(&self, name: &str) {
        self.latch(name).open.send_replace(true);
    }

    /// What a hook of that object does from now on; `None` for nothing in particular.
    pub fn set_mood(&self, hook: Hook, object: &str, mood: Option<Mood>) {
        let key = (hook, object.to_owned());
        match mood {
            Some(mood) => self.state().moods.insert(key, mood),
            None => self.state().moods.remove(&key),
        };
    }

    pub fn mood(&self, hook: Hook, object: &str) -> Option<Mood> {
        self.state().moods.get(&(hook, object.to_owned())).cloned()
    }

    pub fn count(&self, hook: Hook, object: &str) {
        *self
            .state()
            .runs
            .entry((hook, object.to_owned()))
            .or_default() += 1;
    }

    /// How often a hook of that object has run.
    pub fn runs(&self, hook: Hook, object: &str) -> u32 {
        let key = (hook, object.to_owned());
        self.state().runs.get(&key).copied().unwrap_or(0)
    }

    pub fn note_arrival(&self, number: u32) {
        self.state().arrived.push(number);
    }

    /// The numbers that arrived, in order.
    pub fn arrived(&self) -> Vec<u32> {
        self.state().arrived.clone()
    }

    pub fn set_greeting(&self, greeting: &str) {
        self.state().greeting = greeting.to_owned();
    }

    pub fn greeting(&self) -> String {
        self.state().greeting.clone()
    }
}
