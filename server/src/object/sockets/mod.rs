//! WebSockets. The vat holds them, not the instance: an object sleeps while they are open, and wakes
//! with what is said next.
//!
//! ```text
//!  peer ──► Up ──► Socket (inbox) ──► Slot ──► event::run ──► Class::web_socket_message
//!  peer ◄── down ◄── Socket ◄── OutputGate ◄── WebSocket::send
//! ```

mod backlog;
mod down;
mod event;
mod handle;
mod socket;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::{Rc, Weak},
    time::Duration,
};

use vatwerk::{ObjectId, limit_capnp};

use super::{
    class::ClassEntry,
    event::What,
    gate::{Output, Way},
    host::Host,
    limits::Limits,
};
use crate::{Error, Result};

use backlog::{Backlog, Total};

pub(super) use event::{SocketEvent, run};
pub use handle::{SocketClose, SocketMessage, WebSocket};
pub(super) use socket::{Acceptance, Offer, Socket};

/// The code with which sockets are closed whose object was reset: "service restart".
const RESTARTED: u16 = 1012;
/// The code with which sockets are closed when the vat stops: "going away".
const GOING_AWAY: u16 = 1001;

/// The WebSockets of a vat.
pub(super) struct Sockets {
    /// What waits for the peers of all of them.
    unsent: Total,
    bytes_per_object: usize,
    bytes_per_socket: usize,
    /// How many peers were closed since they read too slowly.
    slow: Cell<u64>,
    objects: RefCell<HashMap<ObjectId, Rc<ObjectSockets>>>,
}

/// The WebSockets of one object, and what it has said about them. It is there while there are any, and
/// longer while the object is awake.
pub(super) struct ObjectSockets {
    host: Weak<Host>,
    class: Rc<ClassEntry>,
    id: ObjectId,
    /// In the order in which they were accepted.
    open: RefCell<BTreeMap<u64, Rc<Socket>>>,
    by_tag: RefCell<HashMap<Rc<str>, BTreeSet<u64>>>,
    next: Cell<u64>,
    /// The text that is answered without the object, from the moment in which that may be noticed.
    auto_response: RefCell<Option<Rc<AutoResponse>>>,
    /// The one that the object has set last.
    set_response: RefCell<Option<Rc<AutoResponse>>>,
    event_timeout: Cell<Option<Duration>>,
    /// What waits for the peers of the object, and of the vat.
    unsent: Total,
    unsent_in_vat: Total,
    bytes_per_socket: usize,
}

/// A text that is answered without the object.
pub(super) struct AutoResponse {
    /// What is said.
    pub request: String,
    /// What is answered.
    pub response: String,
}

impl Host {
    /// Has an object hear something on a WebSocket, waking it if need be.
    fn hear(self: &Rc<Self>, class: &Rc<ClassEntry>, id: ObjectId, event: SocketEvent) {
        match self.slot(class, id, None) {
            Ok(slot) => slot.push(self, None, None, What::Socket(event)),
            Err(error) => event.refuse(error),
        }
    }

    /// How many WebSockets are open, by the interface of the class; of a class that is missing, none.
    pub fn web_sockets(&self) -> HashMap<u64, u64> {
        self.sockets.by_class()
    }

    /// How many bytes wait for the peers of WebSockets.
    pub fn web_socket_bytes(&self) -> u64 {
        self.sockets.unsent.bytes() as u64
    }

    /// How many WebSockets were closed since their peers read too slowly.
    pub fn web_sockets_slow(&self) -> u64 {
        self.sockets.slow.get()
    }

    /// Closes all WebSockets: the vat is going away.
    pub fn close_web_sockets(&self) {
        self.sockets.close();
    }
}

impl Sockets {
    pub fn new(limits: &Limits) -> Sockets {
        Sockets {
            unsent: Total::new(limits.socket_bytes_per_vat),
            bytes_per_object: limits.socket_bytes_per_object,
            bytes_per_socket: limits.socket_bytes,
            slow: Cell::default(),
            objects: RefCell::default(),
        }
    }

    /// A peer is closed since it reads too slowly.
    fn count_slow(&self) {
        self.slow.set(self.slow.get() + 1);
    }

    /// How many are open, by the interface of the class.
    fn by_class(&self) -> HashMap<u64, u64> {
        let mut open = HashMap::new();
        for object in self.objects.borrow().values() {
            *open.entry(object.class.interface_id).or_default() += object.count() as u64;
        }
        open
    }

    /// The sockets of an object, if it has any.
    pub fn find(&self, id: ObjectId) -> Option<Rc<ObjectSockets>> {
        self.objects.borrow().get(&id).cloned()
    }

    /// The sockets of an object, with room for more.
    pub fn of(&self, host: &Rc<Host>, class: &Rc<ClassEntry>, id: ObjectId) -> Rc<ObjectSockets> {
        let mut objects = self.objects.borrow_mut();
        let new = || {
            Rc::new(ObjectSockets {
                host: Rc::downgrade(host),
                class: class.clone(),
                id,
                open: RefCell::default(),
                by_tag: RefCell::default(),
                next: Cell::default(),
                auto_response: RefCell::default(),
                set_response: RefCell::default(),
                event_timeout: Cell::default(),
                unsent: self.unsent.part(self.bytes_per_object),
                unsent_in_vat: self.unsent.clone(),
                bytes_per_socket: self.bytes_per_socket,
            })
        };
        objects.entry(id).or_insert_with(new).clone()
    }

    /// The object is asleep: what it has said about its sockets is forgotten, unless there are any.
    pub fn asleep(&self, id: ObjectId) {
        let mut objects = self.objects.borrow_mut();
        if objects.get(&id).is_some_and(|object| object.count() == 0) {
            objects.remove(&id);
        }
    }

    /// The object was reset: its sockets are closed, and what it has said about them is forgotten.
    pub fn reset(&self, id: ObjectId) {
        let object = self.objects.borrow_mut().remove(&id);
        if let Some(object) = object {
            object.end_all(RESTARTED, "the object was reset");
        }
    }

    /// The vat stops: all sockets are closed.
    pub fn close(&self) {
        for object in self.objects.take().into_values() {
            object.end_all(GOING_AWAY, "the vat is shutting down");
        }
    }
}

impl Drop for Sockets {
    /// Takes the sockets out of the vat's table.
    fn drop(&mut self) {
        for object in self.objects.take().into_values() {
            object.open.take();
        }
    }
}

impl ObjectSockets {
    /// How many are open.
    pub fn count(&self) -> usize {
        self.open.borrow().len()
    }

    /// Takes in a socket with these tags.
    pub fn open(self: &Rc<Self>, tags: &[&str]) -> Result<Rc<Socket>> {
        let mut distinct: Vec<&str> = Vec::with_capacity(tags.len());
        for tag in tags {
            let limit = limit_capnp::MAX_SOCKET_TAG_BYTES.into();
            Error::check_limit("a tag (bytes)", limit, tag.len() as u64)?;
            if !distinct.contains(tag) {
                distinct.push(tag);
            }
        }
        let limit = limit_capnp::MAX_SOCKET_TAGS.into();
        Error::check_limit("the tags of a WebSocket", limit, distinct.len() as u64)?;
        let limit = limit_capnp::MAX_SOCKETS_PER_OBJECT.into();
        let count = 1 + self.count() as u64;
        Error::check_limit("the WebSockets of an object", limit, count)?;
        let number = self.next.replace(self.next.get() + 1);
        let mut by_tag = self.by_tag.borrow_mut();
        let tags = distinct
            .into_iter()
            .map(|tag| {
                let known = by_tag.get_key_value(tag).map(|(known, _)| known.clone());
                let tag: Rc<str> = known.unwrap_or_else(|| tag.into());
                by_tag.entry(tag.clone()).or_default().insert(number);
                tag
            })
            .collect();
        let backlog = Backlog::new(self.bytes_per_socket, &self.unsent, &self.unsent_in_vat);
        let socket = Socket::new(self, number, tags, backlog);
        self.open.borrow_mut().insert(number, socket.clone());
        Ok(socket)
    }

    /// A socket is no longer one of them. When none is left, they are forgotten, unless the object has
    /// said what is to be done about the next: then when it sleeps.
    fn remove(self: &Rc<Self>, socket: &Socket) {
        if self.open.borrow_mut().remove(&socket.number).is_none() {
            return;
        }
        let mut by_tag = self.by_tag.borrow_mut();
        for tag in &socket.tags {
            if let Some(numbers) = by_tag.get_mut(tag) {
                numbers.remove(&socket.number);
                if numbers.is_empty() {
                    by_tag.remove(tag);
                }
            }
        }
        drop(by_tag);
        let is_said = self.set_response.borrow().is_some() || self.event_timeout.get().is_some();
        if self.count() == 0
            && !is_said
            && let Some(host) = self.host.upgrade()
        {
            let mut objects = host.sockets.objects.borrow_mut();
            if objects
                .get(&self.id)
                .is_some_and(|known| Rc::ptr_eq(known, self))
            {
                objects.remove(&self.id);
            }
        }
    }

    /// The sockets with a tag, in the order in which they were accepted, or all of them, the newest first.
    pub fn list(&self, tag: Option<&str>) -> Vec<Rc<Socket>> {
        let open = self.open.borrow();
        match tag {
            None => open.values().rev().cloned().collect(),
            Some(tag) => {
                let by_tag = self.by_tag.borrow();
                let numbers = by_tag.get(tag).into_iter().flatten();
                numbers
                    .filter_map(|number| open.get(number).cloned())
                    .collect()
            }
        }
    }

    /// The text that is answered without the object, if any.
    pub fn auto_response(&self) -> Option<Rc<AutoResponse>> {
        self.auto_response.borrow().clone()
    }

    /// The text that the object has set last to be answered without it, if any.
    pub fn set_response(&self) -> Option<Rc<AutoResponse>> {
        self.set_response.borrow().clone()
    }

    /// Sets a text to be answered without the object, once what is returned has passed its gate.
    pub fn set_auto_response(
        self: &Rc<Self>,
        pair: Option<(&str, &str)>,
    ) -> Result<NewAutoResponse> {
        let limit = limit_capnp::MAX_AUTO_RESPONSE_BYTES.into();
        for text in pair
            .iter()
            .flat_map(|(request, response)| [request, response])
        {
            Error::check_limit("an automatic response (bytes)", limit, text.len() as u64)?;
        }
        let pair = pair.map(|(request, response)| {
            Rc::new(AutoResponse {
                request: request.to_owned(),
                response: response.to_owned(),
            })
        });
        self.set_response.replace(pair.clone());
        Ok(NewAutoResponse {
            sockets: self.clone(),
            pair,
            is_released: false,
        })
    }

    /// How long a handler may take.
    pub fn event_timeout(&self) -> Option<Duration> {
        self.event_timeout.get()
    }

    /// Limits how long a handler may take from now on.
    pub fn set_event_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        /// A week, as in the model.
        const MOST_MS: u64 = 7 * 24 * 3600 * 1000;
        let ms = timeout.map_or(0, |timeout| {
            u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)
        });
        Error::check_limit("the time for an event of a WebSocket (ms)", MOST_MS, ms)?;
        self.event_timeout
            .set(timeout.filter(|timeout| !timeout.is_zero()));
        Ok(())
    }

    fn end_all(&self, code: u16, reason: &str) {
        self.by_tag.take();
        for socket in self.open.take().into_values() {
            socket.end(code, reason);
        }
    }
}

/// A text to be answered without the object, on its way through the gate. Dropped before, it was never
/// set.
pub(super) struct NewAutoResponse {
    sockets: Rc<ObjectSockets>,
    pair: Option<Rc<AutoResponse>>,
    is_released: bool,
}

impl Output for NewAutoResponse {
    const WAY: Way = Way::AutoResponse;

    fn release(mut self) {
        self.is_released = true;
        self.sockets.auto_response.replace(self.pair.take());
    }

    fn fail(self, _: &Error) {}
}

impl Drop for NewAutoResponse {
    fn drop(&mut self) {
        if !self.is_released {
            let before = self.sockets.auto_response();
            self.sockets.set_response.replace(before);
        }
    }
}
