//! What objects may use.

use std::time::Duration;

use crate::storage;

/// How much objects may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long an object stays awake without a call.
    pub idle: Duration,
    /// How long migrations, `create` and `activate` may take together.
    pub activation: Duration,
    /// How long the SQL of an object's migrations may take together, within `activation`.
    pub migration: Duration,
    /// How long a transaction capability may stay open.
    pub transaction: Duration,
    /// How long [`Context::block_concurrency_while`](super::Context::block_concurrency_while) may
    /// hold everything else back.
    pub blocked: Duration,
    /// How long a call or a request may take, unless its class says otherwise. Zero: no limit.
    pub call: Duration,
    /// How long the handler of an alarm may take.
    pub alarm: Duration,
    /// How many objects may run alarms at once. Zero: no alarm is run.
    pub alarms_at_once: usize,
    /// How many objects may be awake; above it one of those that are idle is put to sleep for each that
    /// wakes, the least recently used first. Above twice as many one that only capabilities keep awake is
    /// reset for each that wakes; if there is none, that is not woken: `overloaded`.
    pub resident_objects: usize,
    /// How much memory SQLite may use for all databases together, in bytes; above it objects that are
    /// idle are put to sleep, the least recently used first.
    pub memory_bytes: u64,
    /// How many calls may be queued or running in one object.
    pub calls_per_object: u64,
    /// How many calls may be queued or running in the whole vat.
    pub calls_per_vat: u64,
    /// How many bytes of messages may wait for the peer of one WebSocket.
    pub socket_bytes: usize,
    /// How many bytes of messages may wait for the peers of one object's WebSockets.
    pub socket_bytes_per_object: usize,
    /// How many bytes of messages may wait for the peers of all WebSockets of the vat.
    pub socket_bytes_per_vat: usize,
    /// How each object's database is opened.
    pub storage: storage::Settings,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            idle: Duration::from_secs(10),
            activation: Duration::from_secs(30),
            migration: Duration::from_secs(30),
            transaction: Duration::from_millis(vatwerk::limit_capnp::MAX_TRANSACTION_MS.into()),
            blocked: Duration::from_secs(30),
            call: Duration::from_secs(15 * 60),
            alarm: Duration::from_secs(15 * 60),
            alarms_at_once: 128,
            resident_objects: 10_000,
            memory_bytes: 768 << 20,
            calls_per_object: 4096,
            calls_per_vat: 65_536,
            socket_bytes: 64 << 20,
            socket_bytes_per_object: 512 << 20,
            socket_bytes_per_vat: 1 << 30,
            storage: storage::Settings::default(),
        }
    }
}
