//! What a vat says of its objects, and which one is meant.

use vatwerk::{
    ObjectId,
    object_capnp::{ObjectState, namespace, object_info, object_key, object_status},
    vat_capnp::{pending_alarm, session},
};

/// Which object of a class, by its name or its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectKey {
    /// The one of that name, of 1 to 1024 bytes.
    Name(String),
    /// The one of that id.
    Id(ObjectId),
}

impl ObjectKey {
    /// Writes it as the methods of `Namespace` take it.
    pub fn write(&self, mut key: object_key::Builder<'_>) {
        match self {
            ObjectKey::Name(name) => key.set_object_name(name.as_str()),
            ObjectKey::Id(id) => key.set_id(id.as_bytes()),
        }
    }
}

impl From<&str> for ObjectKey {
    fn from(name: &str) -> Self {
        ObjectKey::Name(name.to_owned())
    }
}

impl From<ObjectId> for ObjectKey {
    fn from(id: ObjectId) -> Self {
        ObjectKey::Id(id)
    }
}

/// Which object a stub is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// Its id.
    pub id: ObjectId,
    /// Its name, if it has one that the vat knows of.
    pub name: Option<String>,
    /// The name that its class is served under.
    pub class: String,
    /// The id of its class's interface.
    pub interface_id: u64,
}

/// What a listing says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObjectInfo {
    /// Its id.
    pub id: ObjectId,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// When it came into being, in milliseconds since 1970.
    pub created_ms: i64,
    /// About when it was last written, in milliseconds since 1970, if the vat knows: while it is
    /// awake, and after a crash of the vat, the last 10 s may be missing.
    pub written_ms: Option<i64>,
    /// How large its database was then, in bytes.
    pub bytes: Option<u64>,
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The objects, in order.
    pub objects: Vec<ObjectInfo>,
    /// What to ask for the next page with; `None` after the last.
    pub next: Option<String>,
}

impl Page {
    /// Reads what `Namespace.list` answers.
    pub fn read(page: namespace::list_results::Reader<'_>) -> capnp::Result<Self> {
        let objects = page.get_objects()?.iter().map(ObjectInfo::read);
        Ok(Page {
            objects: objects.collect::<capnp::Result<_>>()?,
            next: some(page.get_next()?.to_string()?),
        })
    }
}

impl ObjectInfo {
    /// Reads an entry of what `Namespace.list` answers.
    pub fn read(object: object_info::Reader<'_>) -> capnp::Result<Self> {
        Ok(ObjectInfo {
            id: read_id(object.get_id()?)?,
            name: some(object.get_object_name()?.to_string()?),
            created_ms: object.get_created_ms(),
            written_ms: Some(object.get_written_ms()).filter(|ms| *ms != 0),
            bytes: Some(object.get_bytes()).filter(|bytes| *bytes != 0),
        })
    }
}

/// What an object looks like from outside, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObjectStatus {
    /// What a listing says of it. If it does not exist, that is its id, and the name it was asked for
    /// by, and `created_ms` is 0.
    pub info: ObjectInfo,
    /// Whether it has come into being.
    pub exists: bool,
    /// Whether there is an instance of it.
    pub state: ObjectState,
    /// How many calls, other events and background tasks of it are queued or running.
    pub in_flight: u64,
    /// How many of these are queued.
    pub queued: u64,
    /// How many capabilities of its own, stubs not counted, others hold.
    pub held_capabilities: u64,
    /// When the earliest of its alarms is due, in milliseconds since 1970.
    pub alarm_ms: Option<i64>,
    /// When its instance woke, in milliseconds since 1970.
    pub activated_ms: Option<i64>,
    /// How many instances of it have ended by a failure since the vat started.
    pub resets: u64,
    /// How many WebSockets of it are open, whether it is awake or not.
    pub web_sockets: u32,
    /// How long its file is, in bytes. More than [`ObjectInfo::bytes`] while free pages are not given back, and
    /// less, or 0 without a file, while its newest commits are in the vat's journal only.
    pub file_bytes: u64,
}

impl ObjectStatus {
    /// Reads what `Namespace.show` answers.
    pub fn read(status: object_status::Reader<'_>) -> capnp::Result<Self> {
        Ok(ObjectStatus {
            info: ObjectInfo::read(status.get_info()?)?,
            exists: status.get_exists(),
            state: status.get_state()?,
            in_flight: status.get_in_flight(),
            queued: status.get_queued(),
            held_capabilities: status.get_held_capabilities(),
            web_sockets: status.get_web_sockets(),
            file_bytes: status.get_file_bytes(),
            alarm_ms: match status.get_alarm().which()? {
                object_status::alarm::None(()) => None,
                object_status::alarm::DueMs(due_ms) => Some(due_ms),
            },
            activated_ms: Some(status.get_activated_ms()).filter(|ms| *ms != 0),
            resets: status.get_resets(),
        })
    }
}

/// The earliest alarm of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PendingAlarm {
    /// The name that the object's class is served under, if it is.
    pub class: Option<String>,
    /// The id of its class's interface.
    pub interface_id: u64,
    /// Its id.
    pub id: ObjectId,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// When the alarm is due, in milliseconds since 1970. One that runs, or is late, is due in the
    /// past.
    pub due_ms: i64,
}

impl PendingAlarm {
    /// Reads an entry of what `Session.alarms` answers.
    pub fn read(alarm: pending_alarm::Reader<'_>) -> capnp::Result<Self> {
        Ok(PendingAlarm {
            class: some(alarm.get_class_name()?.to_string()?),
            interface_id: alarm.get_interface_id(),
            id: read_id(alarm.get_id()?)?,
            name: some(alarm.get_object_name()?.to_string()?),
            due_ms: alarm.get_due_ms(),
        })
    }
}

/// One page of a listing of alarms.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AlarmPage {
    /// The alarms, in the order in which they are due.
    pub alarms: Vec<PendingAlarm>,
    /// What to ask for the next page with; `None` after the last.
    pub next: Option<String>,
}

impl AlarmPage {
    /// Reads what `Session.alarms` answers.
    pub fn read(page: session::alarms_results::Reader<'_>) -> capnp::Result<Self> {
        let alarms = page.get_alarms()?.iter().map(PendingAlarm::read);
        Ok(AlarmPage {
            alarms: alarms.collect::<capnp::Result<_>>()?,
            next: some(page.get_next()?.to_string()?),
        })
    }
}

pub(crate) fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

pub(crate) fn read_id(bytes: &[u8]) -> capnp::Result<ObjectId> {
    ObjectId::try_from(bytes).map_err(|error| capnp::Error::failed(error.to_string()))
}
