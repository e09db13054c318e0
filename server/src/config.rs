//! Every knob of a vat, in one place. Nothing else reads files or arguments for its settings.

mod least;

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, de::Error};
use vatwerk::{Address, json::MAX_PARAMS_BYTES, limit_capnp::MAX_SQL_BYTES};

use crate::{
    gateway::{
        Access, Hosts, Permission,
        http::{self, Network, ObjectHosts, Origins, SocketLimits},
        network,
    },
    health, journal, object, storage,
};

pub use least::TooSmall;

/// The most fields in the header of an HTTP request: each connection has memory for so many.
const MOST_FIELDS: usize = 4096;

/// The longest time for draining: a year.
const LONGEST_DRAIN: Duration = Duration::from_secs(365 * 24 * 3600);

/// The most objects that are awake, so that twice as many is a number.
const MOST_OBJECTS: usize = usize::MAX / 2;

/// How a vat is set up: what `--config FILE` may say, as TOML. Whatever is left out has its default;
/// an unknown key is an error.
///
/// A limit that is smaller than it may be keeps the vat from starting. The least is 1 unless something else
/// is said, and 0 where that means something: no time for draining or idling, no memory, no body. A limit
/// above its greatest value counts as that.
///
/// ```
/// use vatwerk_server::Config;
/// let config: Config = toml::from_str(r#"
///     data = "/var/lib/vat"
///     listen = ["tcp:127.0.0.1:7447", "unix:/run/vat.sock"]
///     [limits]
///     idle_ms = 60000
/// "#)?;
/// assert_eq!(config.limits.idle_ms, 60_000);
/// # Ok::<_, toml::de::Error>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The data folder. Made if there is none. Default `data`.
    pub data: PathBuf,
    /// Where to listen: `tcp:HOST:PORT` (port 0 for any) or `unix:PATH`. Default
    /// `tcp:127.0.0.1:7447` and `unix:DATA/vat.sock`.
    #[serde(deserialize_with = "addresses")]
    pub listen: Option<Vec<Address>>,
    /// Listen at TCP addresses of `listen` that other machines can reach. Whoever reaches them can do
    /// everything. Default false.
    pub listen_insecure: bool,
    /// Where operators find the vat's numbers, over HTTP at `/metrics` in the text format of
    /// Prometheus, and at `/livez`, `/readyz` and `/healthz` whether it works, and if not, why: `HOST:PORT`
    /// (port 0 for any), or `unix:PATH`. Default: nowhere.
    #[serde(deserialize_with = "address")]
    pub metrics: Option<Address>,
    /// Answer operators at a TCP address that other machines can reach. Whoever reaches it sees the numbers.
    /// Default false.
    pub metrics_insecure: bool,
    /// The names, without ports, by which operators call the vat, beside addresses of IP and `localhost`: a
    /// request for any other `Host` is refused, since a page of others may have made it. `*` is every name.
    /// Default none.
    pub metrics_hosts: Vec<String>,
    /// Objects over HTTP.
    pub http: Http,
    /// The files of all unix sockets.
    pub unix: Unix,
    /// How long, in milliseconds, calls in flight may go on when the vat is told to stop; and how long
    /// the command `serve` waits for a turn that holds the vat's thread then, before it ends the process.
    /// What comes after, but for the writing back of the journal, takes at most 2 s more. Default 5,000.
    pub drain_ms: u64,
    /// Run alarms. Without it they stay set, and wait for a start with it: the way out when alarms keep a
    /// vat from working. Default true.
    pub alarms: bool,
    /// How much may be used.
    pub limits: Limits,
}

/// The files of unix sockets. Whoever may write to one can do everything.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Unix {
    /// The mode, in octal digits. Default `"0600"`: the vat's own user.
    #[serde(deserialize_with = "mode")]
    pub mode: u32,
    /// The group, by its name or its number. The user of the vat has to be in it. Default: that of the
    /// process.
    pub group: Option<String>,
}

/// The group that unix sockets are to have is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no group `{0}`: `group` in the section `[unix]` of the settings names it")]
pub struct NoGroup(String);

/// Objects over HTTP, for browsers and curl: `/{Class}/{name}/...`. Times in milliseconds, sizes in bytes.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Where to listen: `HOST:PORT` (port 0 for any) or `unix:PATH`; `[]` is nowhere. Default nowhere,
    /// but `127.0.0.1:7448` for the command `serve`.
    #[serde(deserialize_with = "addresses")]
    pub listen: Option<Vec<Address>>,
    /// Whether to listen at the usual port of this machine if `listen` is not said.
    #[serde(skip)]
    pub listens_by_default: bool,
    /// Listen at TCP addresses that other machines can reach, without TLS and without asking anybody who they
    /// are. Default false.
    pub insecure: bool,
    /// The names, without ports, by which this vat goes at TCP addresses, such as that of a proxy in front that
    /// keeps `Host`. Addresses of IP and `localhost` always count; a request for any other `Host` is refused,
    /// since a page of others may have made it. `*` is every name. Default none.
    pub hosts: Vec<String>,
    /// The domain below which each object has a host, and so an origin, of its own: with `objects.example` the
    /// object `lobby` of `ChatRoom` is at `lobby.chatroom.objects.example`. For names of 1 to 63 small letters,
    /// digits and, inside, hyphens; others are reached by paths alone. `localhost` is one that browsers know.
    /// Default none.
    pub object_host: Option<String>,
    /// The pages of others that may call objects, open WebSockets to them, send them forms and see the
    /// answers: `https://app.example`, or `*` for all. Default none.
    pub cors_origins: Vec<String>,
    /// The proxies in front of the vat whose `X-Forwarded-*`, `Forwarded` and `X-Real-IP` objects see:
    /// addresses or networks, such as `127.0.0.1` or `10.0.0.0/8`. Those of others are dropped. Who comes by
    /// a unix socket is always believed. Default none.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<Network>,
    /// Classes that nobody reaches over HTTP, by the names they are served under. Default none.
    pub hidden: Vec<String>,
    /// How many connections may be open, WebSockets among them. Default 16,384; further ones are
    /// refused, and so are those over three eighths of the process's limit of open files, with others.
    pub connections: usize,
    /// How many requests may be under way, each until its answer is whole. Default 4,096; further ones
    /// are answered 503.
    pub requests: usize,
    /// How many requests one connection of HTTP/2 may have under way. Default 128.
    pub requests_per_connection: u32,
    /// The longest head of a request, at least 8,192. Default 32,768.
    pub head_bytes: usize,
    /// The most fields in the header of a request, at most 4,096. Default 100.
    pub head_fields: usize,
    /// The longest body of a request to an object's own pages. Default: no limit, for it is a stream.
    pub body_bytes: Option<u64>,
    /// The longest JSON of a call; a longer one is answered 413. At most 33,554,432. The thread of the vat reads
    /// up to 262,144 bytes, in a few milliseconds; longer JSON is read on other threads, two calls at a time.
    /// Default 262,144.
    pub call_bytes: usize,
    /// The longest JSON of a call's results; longer ones are `limit-exceeded`, after the call has run. The
    /// thread of the vat writes it. Default 4,194,304.
    pub answer_bytes: usize,
    /// How much the vat may hold of the JSON of calls, of the messages that it becomes, each until the call is
    /// over, and of answers, each until its connection has taken it. With more, requests are answered 503. Never
    /// less than `call_bytes` or `answer_bytes`. Default
    /// 67,108,864.
    pub held_bytes: usize,
    /// How long the program's own [`Server::gateway`](crate::Server::gateway) may take for a request; then it is
    /// answered 504. Default 10,000.
    pub gateway_ms: u64,
    /// How long a connection may be without a request, until the head of the next is whole. Proxies keep
    /// connections for 60 s, as a rule; with less than that a request may meet the end of one. Default
    /// 75,000.
    pub idle_ms: u64,
    /// How long a client may not go on with a body: neither send more of its own, while the object reads
    /// it, nor take more of the object's. Default 30,000.
    pub stall_ms: u64,
    /// The least bytes a second that a client has to send of a body or of a message on a WebSocket, or to take
    /// of an answer, on average over the time that it is waited for; a first `stall_ms` is free. A request
    /// that comes more slowly is answered 408, an answer is broken off, and a WebSocket is closed with 1008.
    /// 0 for any. Default 256.
    pub least_bytes_per_s: u64,
    /// How long a client may be waited for in all for one body: to send its own, or to take the object's. 0 for
    /// any time. Default 0.
    pub body_ms: u64,
    /// The most bytes that all clients together may have sent or announced of messages on WebSockets that are
    /// not here whole. With more, those that go on with one are closed with 1013. Default 67,108,864.
    pub unfinished_bytes: usize,
    /// The longest message of a client on a WebSocket; at most `maxSocketMessageBytes`. Default
    /// 1,048,576.
    pub message_bytes: u32,
    /// How long a WebSocket's client may be silent before it is sent a ping. If it is silent as long
    /// again, it is lost. 0 sends none, and a client that is gone without a word stays. Default 30,000.
    pub ping_ms: u64,
}

/// How much may be used. Times in milliseconds, sizes in bytes.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// How long an object stays awake without a call. Default 10,000.
    pub idle_ms: u64,
    /// How long an object may take to wake: its migrations, `create` and `activate` together. Default
    /// 30,000.
    pub activation_ms: u64,
    /// How long a call or a request may take, unless its class says otherwise; 0 for no limit. One that
    /// takes longer is dropped where it waits, and its caller gets `limit-exceeded`. Default 900,000.
    pub call_ms: u64,
    /// How long the SQL of one call may run: it holds up every object of its thread. A class may say
    /// otherwise for its objects, with `STATEMENT_MS`. Default 500.
    pub statement_ms: u64,
    /// How much memory the SQL of one object may take: the statement that runs and the cursors that are
    /// open, with what they sort and gather. A statement that needs more is `limit-exceeded`. Default
    /// 67,108,864.
    pub sql_memory_bytes: u64,
    /// The longest SQL text of one call, in bytes: from 100,000, which is the default and what callers rely
    /// on, to 16,777,216. Migrations are such texts too. Longer ones are `limit-exceeded`.
    pub sql_text_bytes: u64,
    /// The most columns of a table or a result in SQL, up to 2,000. Default 100.
    pub sql_columns: u64,
    /// How deep expressions of SQL are, up to 1,000. Default 100.
    pub sql_expression_depth: u64,
    /// The most terms of a compound SELECT, such as UNION, up to 500. Default 5.
    pub sql_compound_selects: u64,
    /// The longest pattern of LIKE and GLOB, in bytes, up to 50,000. Default 4,096.
    pub sql_pattern_bytes: u64,
    /// How long the SQL of an object's migrations may run, all of those that it has not had: it holds up
    /// every object of its thread. Never longer than `activation_ms`, which contains it. Default 30,000.
    pub migration_ms: u64,
    /// The longest turn of an object that is not logged; 0 logs none. A turn holds up every object of
    /// its thread. One that does not end is logged from the first second on. Default 100.
    pub long_turn_ms: u64,
    /// How long the vat's thread may be held, by a turn or otherwise, until `/livez` answers 503; 0 is
    /// for ever. Default 10,000.
    pub held_ms: u64,
    /// The room in the file system of the data folder below which `/readyz` answers 503, in bytes; 0 is none.
    /// Default 16,777,216.
    pub free_bytes: u64,
    /// How many objects may be awake; above it idle ones are put to sleep. Above twice as many those that
    /// only capabilities keep awake are reset (`object-reset`), the least recently used first, and when
    /// all are busy no more are woken (`overloaded`). Each uses about 100 KiB. Default 10,000.
    pub resident_objects: usize,
    /// How much memory the databases of all objects may take; above it idle objects are put to sleep.
    /// At 1 GiB SQLite's caches stop growing, and at 2 GiB statements fail. Default 805,306,368.
    pub memory_bytes: u64,
    /// How many objects may be woken for alarms at once: after a long time down, many are due. One
    /// whose handler takes more than 10 s no longer counts. Default 128.
    pub alarms_at_once: usize,
    /// How many calls may be queued or running in one object. Default 4,096.
    pub calls_per_object: u64,
    /// How many calls may be queued or running in the whole vat. Default 65,536.
    pub calls_per_vat: u64,
    /// The most bytes of messages that may wait for the peer of one WebSocket, from `WebSocket::send` until
    /// its connection has taken them; a message more may wait. Further sends to it fail with `overloaded`.
    /// Default 67,108,864.
    pub socket_bytes: usize,
    /// The most bytes of messages that may wait for the peers of one object's WebSockets; a message more may
    /// wait. Further sends of the object fail with `overloaded`. Default 536,870,912.
    pub socket_bytes_per_object: usize,
    /// The most bytes of messages that may wait for the peers of all WebSockets of the vat; a message more may
    /// wait. Further sends fail with `overloaded`. While more than half of either limit waits, a peer for
    /// which more than 262,144 bytes wait and that takes nothing for some seconds is closed. Default
    /// 1,073,741,824.
    pub socket_bytes_per_vat: usize,
    /// How many connections may be open. Default 4,096; further ones are refused, and so are those over three
    /// eighths of the process's limit of open files, with those over HTTP.
    pub connections: usize,
    /// How many calls one connection may have in flight. Default 4,096.
    pub calls_per_connection: usize,
    /// The most objects that capabilities held by one connection may keep awake: capabilities of a class's
    /// own, transactions and cursors; stubs and `Cell.sql()` keep nothing awake. A call whose results would
    /// keep more awake fails with `limit-exceeded` after it has run. Default 1,024.
    pub pins_per_connection: usize,
    /// How many bytes one connection may have in flight: in calls of its peer that are not answered, and
    /// the same again in calls of objects to its peer; at least 65,536. Further calls fail with
    /// `overloaded`. Default 67,108,864.
    pub bytes_per_connection: usize,
    /// How many bytes all connections may hold together: in calls in flight in both directions, in
    /// answers that are not finished, in messages that are not written yet or not here whole; at least
    /// 65,536. Further calls fail with `overloaded`. Default 536,870,912.
    pub bytes_per_vat: usize,
    /// How long a peer of a connection may take nothing of what is queued for it, and send nothing of the
    /// rest of a message that it has begun, before the connection is ended. Default 30,000.
    pub stall_ms: u64,
    /// The least bytes a second that a peer of a connection has to send of a message that it has begun, on
    /// average; a first `stall_ms` is free. A connection on which a message comes more slowly is ended. 0 for
    /// any. Default 256.
    pub least_bytes_per_s: u64,
    /// The largest message; at least 65,536, at most and by default 33,554,432.
    pub message_bytes: u64,
    /// The most disk space that the journal takes; at least 8,388,608, and at most 8,589,934,592. The pages of commits of more
    /// than a 32nd of it may take about as much again. The longer it is, the less often objects' files
    /// are synced, and the longer takes a start after a crash. Pages that are not in objects' files yet
    /// are in memory too, of an object that sleeps likewise: half as much as this in all, and of each object
    /// 1,048,576 bytes at most. What is more is in files without names, which take disk space once more. Default 268,435,456.
    pub journal_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            data: PathBuf::from("data"),
            listen: None,
            listen_insecure: false,
            metrics: None,
            metrics_insecure: false,
            metrics_hosts: Vec::new(),
            http: Http::default(),
            unix: Unix::default(),
            drain_ms: 5_000,
            alarms: true,
            limits: Limits::default(),
        }
    }
}

impl Default for Unix {
    fn default() -> Self {
        Unix {
            mode: Access::default().mode,
            group: None,
        }
    }
}

impl Unix {
    /// The mode and the group of the files of unix sockets: they say who may connect.
    ///
    /// # Errors
    ///
    /// There is no such group.
    pub fn access(&self) -> Result<Access, NoGroup> {
        let id = |group: &String| {
            let number = group.parse().ok();
            let named = || {
                nix::unistd::Group::from_name(group)
                    .ok()??
                    .gid
                    .as_raw()
                    .into()
            };
            number.or_else(named).ok_or_else(|| NoGroup(group.clone()))
        };
        Ok(Access {
            mode: self.mode,
            group: self.group.as_ref().map(id).transpose()?,
        })
    }
}

impl Default for Http {
    fn default() -> Self {
        let limits = http::Limits::default();
        let socket = SocketLimits::default();
        let ms = |time: Duration| time.as_millis() as u64;
        Http {
            listen: None,
            listens_by_default: false,
            insecure: false,
            hosts: Vec::new(),
            object_host: None,
            cors_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            hidden: Vec::new(),
            connections: 16_384,
            requests: limits.requests,
            requests_per_connection: limits.streams,
            head_bytes: limits.head_bytes,
            head_fields: limits.head_fields,
            body_bytes: limits.body_bytes,
            call_bytes: limits.json_bytes,
            answer_bytes: limits.answer_bytes,
            held_bytes: limits.held_bytes,
            gateway_ms: ms(limits.gateway),
            idle_ms: ms(limits.idle),
            stall_ms: ms(limits.stall),
            least_bytes_per_s: limits.least_bytes_per_s,
            body_ms: ms(limits.body),
            unfinished_bytes: socket.max_unfinished_bytes,
            message_bytes: socket.max_message_bytes,
            ping_ms: socket.ping_every.map_or(0, ms),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let connection = network::Limits::default();
        Limits {
            idle_ms: 10_000,
            activation_ms: 30_000,
            call_ms: 900_000,
            statement_ms: 500,
            sql_memory_bytes: 64 << 20,
            sql_text_bytes: MAX_SQL_BYTES.into(),
            sql_columns: 100,
            sql_expression_depth: 100,
            sql_compound_selects: 5,
            sql_pattern_bytes: 4096,
            migration_ms: 30_000,
            long_turn_ms: 100,
            held_ms: 10_000,
            free_bytes: 16 << 20,
            resident_objects: 10_000,
            memory_bytes: 768 << 20,
            alarms_at_once: 128,
            calls_per_object: 4096,
            calls_per_vat: 65_536,
            socket_bytes: 64 << 20,
            socket_bytes_per_object: 512 << 20,
            socket_bytes_per_vat: 1 << 30,
            connections: 4096,
            calls_per_connection: 4096,
            pins_per_connection: connection.max_pins,
            bytes_per_connection: connection.max_bytes_in_flight,
            bytes_per_vat: connection.vat.max_bytes(),
            stall_ms: connection.stall.as_millis() as u64,
            least_bytes_per_s: connection.least_bytes_per_s,
            message_bytes: vatwerk::limit_capnp::MAX_MESSAGE_BYTES,
            journal_bytes: journal::Settings::default().bytes,
        }
    }
}

impl Config {
    /// Where to listen.
    pub fn addresses(&self) -> Vec<Address> {
        self.listen.clone().unwrap_or_else(|| {
            let tcp = Address::Tcp {
                host: "127.0.0.1".into(),
                port: Address::DEFAULT_PORT,
            };
            vec![tcp, Address::Unix(self.data.join("vat.sock"))]
        })
    }

    /// Whether it may listen for Cap'n Proto where other machines reach it.
    pub fn permission(&self) -> Permission {
        Permission {
            is_given: self.listen_insecure,
            option: "--listen-insecure",
            key: "listen_insecure = true",
        }
    }

    /// Whether operators may be answered where other machines reach the vat.
    pub fn metrics_permission(&self) -> Permission {
        Permission {
            is_given: self.metrics_insecure,
            option: "--metrics-insecure",
            key: "metrics_insecure = true",
        }
    }

    /// How long calls in flight may go on when the vat is told to stop.
    pub fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms).min(LONGEST_DRAIN)
    }

    /// The limits of objects.
    pub fn objects(&self) -> object::Limits {
        let limits = self.limits.objects();
        object::Limits {
            alarms_at_once: if self.alarms {
                limits.alarms_at_once
            } else {
                0
            },
            ..limits
        }
    }
}

impl Http {
    /// Where to listen, and whether that is where it is usual: nobody has said where.
    pub fn addresses(&self) -> (Vec<Address>, bool) {
        match &self.listen {
            Some(said) => (said.clone(), false),
            None if self.listens_by_default => {
                let usual = Address::Tcp {
                    host: "127.0.0.1".into(),
                    port: Address::DEFAULT_HTTP_PORT,
                };
                (vec![usual], true)
            }
            None => (Vec::new(), true),
        }
    }

    /// Whether it may listen for HTTP where other machines reach it.
    pub fn permission(&self) -> Permission {
        Permission {
            is_given: self.insecure,
            option: "--http-insecure",
            key: "insecure = true in the section [http]",
        }
    }

    /// How long a client may not go on with a body.
    pub fn stall(&self) -> Duration {
        Duration::from_millis(self.stall_ms)
    }

    /// What the listener is told.
    pub fn settings(&self) -> http::Settings {
        let longest = vatwerk::limit_capnp::MAX_SOCKET_MESSAGE_BYTES;
        http::Settings {
            hosts: Hosts::new(&self.hosts),
            objects: self.object_host.as_deref().map(ObjectHosts::new),
            origins: Origins::new(&self.cors_origins),
            proxies: self.trusted_proxies.clone(),
            hidden: self.hidden.iter().cloned().collect(),
            limits: http::Limits {
                requests: self.requests,
                streams: self.requests_per_connection,
                head_bytes: self.head_bytes,
                head_fields: self.head_fields.min(MOST_FIELDS),
                body_bytes: self.body_bytes,
                json_bytes: self.call_bytes.min(MAX_PARAMS_BYTES),
                answer_bytes: self.answer_bytes,
                held_bytes: self
                    .held_bytes
                    .max(self.call_bytes.min(MAX_PARAMS_BYTES))
                    .max(self.answer_bytes),
                gateway: Duration::from_millis(self.gateway_ms),
                idle: Duration::from_millis(self.idle_ms),
                stall: self.stall(),
                least_bytes_per_s: self.least_bytes_per_s,
                body: Duration::from_millis(self.body_ms),
            },
            socket: SocketLimits {
                max_message_bytes: self.message_bytes.min(longest),
                ping_every: (self.ping_ms > 0).then(|| Duration::from_millis(self.ping_ms)),
                stalled: self.stall(),
                least_bytes_per_s: self.least_bytes_per_s,
                max_unfinished_bytes: self.unfinished_bytes,
                ..Default::default()
            },
        }
    }
}

impl Limits {
    /// The limits of objects.
    pub fn objects(&self) -> object::Limits {
        object::Limits {
            idle: Duration::from_millis(self.idle_ms),
            activation: Duration::from_millis(self.activation_ms),
            call: Duration::from_millis(self.call_ms),
            migration: Duration::from_millis(self.migration_ms.min(self.activation_ms)),
            resident_objects: self.resident_objects.min(MOST_OBJECTS),
            memory_bytes: self.memory_bytes,
            alarms_at_once: self.alarms_at_once,
            calls_per_object: self.calls_per_object,
            calls_per_vat: self.calls_per_vat,
            socket_bytes: self.socket_bytes,
            socket_bytes_per_object: self.socket_bytes_per_object,
            socket_bytes_per_vat: self.socket_bytes_per_vat,
            storage: storage::Settings {
                statement_time_limit: Duration::from_millis(self.statement_ms),
                sql_memory_bytes: self.sql_memory_bytes,
                text_bytes: self.sql_text_bytes.min(16 << 20) as u32,
                columns: self.sql_columns.min(2000) as u32,
                expression_depth: self.sql_expression_depth.min(1000) as u32,
                compound_selects: self.sql_compound_selects.min(500) as u32,
                pattern_bytes: self.sql_pattern_bytes.min(50_000) as u32,
                ..Default::default()
            },
            ..Default::default()
        }
    }

    /// How long a peer of a connection may take nothing of what is queued for it.
    pub fn stall(&self) -> Duration {
        Duration::from_millis(self.stall_ms)
    }

    /// The limits of turns.
    pub fn turns(&self) -> health::Limits {
        let limit = |ms| (ms > 0).then(|| Duration::from_millis(ms));
        health::Limits {
            long_turn: limit(self.long_turn_ms),
            held: limit(self.held_ms),
        }
    }

    /// How the journal is set up.
    pub fn journal(&self) -> journal::Settings {
        journal::Settings {
            bytes: self.journal_bytes,
            ..Default::default()
        }
    }

    /// The limits of a vat's connections: clones share one budget of bytes.
    pub fn connection(&self) -> network::Limits {
        let defaults = network::Limits::default();
        let max_message_bytes = self.message_bytes.min(defaults.max_message_bytes);
        let max_calls_in_flight = self.calls_per_connection;
        network::Limits {
            max_message_bytes,
            max_calls_in_flight,
            max_pins: self.pins_per_connection,
            max_bytes_in_flight: self.bytes_per_connection,
            vat: network::Budget::new(self.bytes_per_vat),
            stall: self.stall(),
            least_bytes_per_s: self.least_bytes_per_s,
            ..defaults
        }
    }
}

fn addresses<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Address>>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let parsed = texts
        .iter()
        .map(|text| text.parse().map_err(D::Error::custom));
    parsed.collect::<Result<_, _>>().map(Some)
}

fn networks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Network>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let parsed = texts
        .iter()
        .map(|text| text.parse().map_err(D::Error::custom));
    parsed.collect()
}

fn mode<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let text = String::deserialize(from)?;
    let mode = u32::from_str_radix(&text, 8).ok();
    let mode = mode.filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| D::Error::custom("the mode is up to three octal digits: \"0660\""))
}

fn address<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Address>, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map(Some).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_an_error() {
        let misspelt = toml::from_str::<Config>("[limits]\nidle = 5").unwrap_err();
        assert!(misspelt.to_string().contains("idle"), "{misspelt}");
        assert_eq!(toml::from_str::<Config>("").unwrap().addresses().len(), 2);
    }

    #[test]
    fn unix_sockets_have_a_mode_in_octal_and_a_group_that_there_is() {
        let access = |text: &str| toml::from_str::<Config>(text).map(|it| it.unix.access());
        let usual = Access::default();
        assert_eq!(access("").unwrap(), Ok(usual));
        assert_eq!(usual.mode, 0o600);
        let told = access("[unix]\nmode = \"0660\"\ngroup = \"root\"").unwrap();
        let (mode, group) = (0o660, Some(0));
        assert_eq!(told, Ok(Access { mode, group }));
        let told = access("[unix]\ngroup = \"1234\"").unwrap().unwrap();
        assert_eq!(told.group, Some(1234));
        let told = access("[unix]\ngroup = \"no such\"").unwrap().unwrap_err();
        assert!(told.to_string().contains("no such"), "{told}");
        for mode in ["1777", "rw", "0o600", ""] {
            let told = access(&format!("[unix]\nmode = \"{mode}\"")).unwrap_err();
            assert!(told.to_string().contains("octal"), "{told}");
        }
    }

    #[test]
    fn pings_of_no_time_are_none() {
        let every = |text: &str| {
            let config = toml::from_str::<Config>(text).unwrap();
            assert_eq!(config.check(), Ok(()));
            config.http.settings().socket.ping_every
        };
        assert_eq!(every(""), Some(Duration::from_secs(30)));
        assert_eq!(every("[http]\nping_ms = 0"), None);
        assert_eq!(Http::default().idle_ms, 75_000);
    }

    #[test]
    fn proxies_are_addresses_or_networks() {
        let proxies =
            |text: &str| toml::from_str::<Config>(text).map(|it| it.http.settings().proxies);
        assert_eq!(proxies("").unwrap(), []);
        let known = proxies("[http]\ntrusted_proxies = [\"::1\", \"10.0.0.0/8\"]").unwrap();
        assert!(known[1].contains([10, 1, 2, 3].into()));
        let told = proxies("[http]\ntrusted_proxies = [\"proxy\"]").unwrap_err();
        assert!(told.to_string().contains("`proxy` is no address"), "{told}");
    }

    #[test]
    fn without_alarms_no_object_runs_any() {
        let at_once = |text| {
            let config = toml::from_str::<Config>(text).unwrap();
            config.objects().alarms_at_once
        };
        assert_eq!(at_once("alarms = false"), 0);
        assert_eq!(at_once("[limits]\nalarms_at_once = 3"), 3);
        assert_eq!(at_once(""), 128);
    }
}
