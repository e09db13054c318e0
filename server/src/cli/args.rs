//! What the verbs that talk to a vat take.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use vatwerk::ObjectId;
use vatwerk_client::ObjectKey;

use super::sql::Binding;

/// Where a vat is looked for on this machine first, from its working folder.
const LOCAL_SOCKET: &str = "./data/vat.sock";

/// Says where the vat is. Set but empty, it says nothing.
const CONNECT: &str = "VATWERK_CONNECT";

/// Where it is looked for otherwise.
const LOCAL_PORT: &str = "tcp:127.0.0.1:7447";

/// A verb that talks to a vat, or about one.
#[derive(Debug, Subcommand)]
pub enum ClientVerb {
    /// Call any method of any class, with parameters and results as JSON
    Call(CallArgs),
    /// Read and write an object's keys
    Kv(KvArgs),
    /// Run SQL on an object's database
    Sql(SqlArgs),
    /// List, count, show and delete the objects of a class
    Objects(ObjectsArgs),
    /// List the alarms that are set
    Alarms(AlarmsArgs),
    /// List the classes that the vat serves
    Classes(ClassesArgs),
    /// Write out the schema files that other languages need
    Schema(SchemaArgs),
}

/// Which vat, and how to print.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// Where the vat listens: tcp:HOST:PORT or unix:PATH [default: unix:./data/vat.sock if it
    /// exists, else tcp:127.0.0.1:7447] [env: VATWERK_CONNECT]
    // Not clap's `env`: it takes an empty variable for a value, and what it found there for an
    // argument that usage has to show.
    #[arg(long, value_name = "ADDR", global = true)]
    pub connect: Option<String>,
    /// Give up if it is not done within this many seconds, such as 2.5, connecting included: exit code
    /// 5, or 3 if there is no connection by then. What was asked for may still be done [default: no
    /// limit, and 10 for connecting]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, global = true)]
    pub timeout: Option<Duration>,
    /// How to print results
    #[arg(long, value_enum, default_value_t = Format::Text, global = true)]
    pub output: Format,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

impl Target {
    /// The address, or the default of this machine.
    pub fn address(&self) -> String {
        let of_environment = || super::environment(CONNECT);
        let told = self.connect.clone().map(Into::into);
        match told.or_else(of_environment) {
            Some(address) => address.to_string_lossy().into_owned(),
            None if std::path::Path::new(LOCAL_SOCKET).exists() => format!("unix:{LOCAL_SOCKET}"),
            None => LOCAL_PORT.to_owned(),
        }
    }
}

/// What `call` takes.
#[derive(Args, Debug)]
pub struct CallArgs {
    /// The class, by the name it is served under
    pub class: String,
    /// The object's name
    #[arg(allow_hyphen_values = true)]
    pub name: String,
    /// The method
    pub method: String,
    /// The parameters: a JSON object
    #[arg(default_value = "{}", value_parser = vatwerk::json::parse)]
    pub params: serde_json::Value,
    /// The form of 64-bit integers in the results: number, or string for readers that would round those beyond
    /// 2^53. Parameters take both
    #[arg(long, value_name = "FORM", default_value = "number")]
    pub int64: vatwerk::json::Int64,
    /// Which vat, and how to print
    #[command(flatten)]
    pub target: Target,
}

/// What `kv` takes.
#[derive(Args, Debug)]
pub struct KvArgs {
    /// The class: one whose objects are storage, such as Cell
    pub class: String,
    /// The object's name
    #[arg(allow_hyphen_values = true)]
    pub name: String,
    /// What to do
    #[command(subcommand)]
    pub verb: KvVerb,
    /// Which vat, and how to print
    #[command(flatten)]
    pub target: Target,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum KvVerb {
    /// Print a value: text as it is, anything else as JSON
    ///
    /// A byte string is printed in base64. What JSON has no form for becomes an object with a
    /// member that starts with `$`: {"$map": [[KEY, VALUE], ...]} for a map whose keys are not all
    /// text, {"$tag": TAG, "value": VALUE} for a tagged value, {"$bytes": BASE64} for stored bytes
    /// that are not CBOR or not of a kind that is read. Floats that are not finite are "Infinity",
    /// "-Infinity" and "NaN".
    Get {
        /// The key
        #[arg(allow_hyphen_values = true)]
        key: String,
        /// Write the bytes of the value to this file instead; `-` is stdout
        #[arg(long, value_name = "PATH")]
        file: Option<PathBuf>,
    },
    /// Set a key
    #[command(override_usage = usage(
        "kv <CLASS> <NAME> put [OPTIONS] <KEY> <TEXT|--json <JSON>|--file <PATH>>"
    ))]
    Put {
        /// The key
        #[arg(allow_hyphen_values = true)]
        key: String,
        /// The value
        #[command(flatten)]
        value: PutValue,
    },
    /// Remove keys, and print how many were there
    Delete {
        /// The keys; after `--` if one starts with `-`
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Print keys and values, in the byte order of the keys
    List {
        /// Only keys that start with this
        #[arg(long, default_value = "")]
        prefix: String,
        /// Only this key and those after it
        #[arg(long)]
        start: Option<String>,
        /// Only keys before this one
        #[arg(long)]
        end: Option<String>,
        /// From the last key to the first
        #[arg(long)]
        reverse: bool,
        /// At most this many
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        limit: Option<u32>,
    },
}

/// The value of a `put`, in one of three forms.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct PutValue {
    /// Text
    #[arg(allow_hyphen_values = true)]
    pub text: Option<String>,
    /// A JSON value, with integers of at most 64 bits, and no key twice in one object
    #[arg(long, value_name = "JSON", value_parser = vatwerk::json::parse, allow_hyphen_values = true)]
    pub json: Option<serde_json::Value>,
    /// The bytes of this file; `-` is stdin. As every value they are stored as CBOR, whose up to 5
    /// bytes more count towards the limit of a value, which is 2 MiB
    #[arg(long, value_name = "PATH")]
    pub file: Option<PathBuf>,
}

/// What `sql` takes.
#[derive(Args, Debug)]
pub struct SqlArgs {
    /// The class: one whose objects are storage, such as Cell
    pub class: String,
    /// The object's name
    #[arg(allow_hyphen_values = true)]
    pub name: String,
    /// The statement, or several, which happen together or not at all; bindings and rows are those of the
    /// last
    #[arg(allow_hyphen_values = true, required_unless_present_any = ["file", "dump"])]
    pub query: Option<String>,
    /// Run the statements of this file; `-` is stdin
    ///
    /// They happen together or not at all, unless the file has BEGIN and COMMIT of its own, as dumps do. A
    /// transaction is held open for statements of more than 100 kB together, and everything else of the
    /// object waits meanwhile, up to 30 s. Foreign keys that `PRAGMA foreign_keys = OFF` does not enforce
    /// are checked at the end of the transaction.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["query", "params"])]
    pub file: Option<PathBuf>,
    /// Print SQL that makes the tables and rows anew, as of one moment, for `--file` or `sqlite3`
    #[arg(long, conflicts_with_all = ["query", "file", "params", "csv"])]
    pub dump: bool,
    /// Print the rows as CSV, after a line with the names of the columns
    ///
    /// A null is an empty field, an empty text is "", and a blob is x'' with hexadecimal digits.
    #[arg(long)]
    pub csv: bool,
    /// A binding, in the order of the placeholders: null, a number (an integer if written as one,
    /// of at most 64 bits with its sign), a string, true or false (1 or 0), or a blob as
    /// {"base64": "..."}
    #[arg(
        long = "param",
        value_name = "JSON",
        value_parser = Binding::parse,
        allow_hyphen_values = true
    )]
    pub params: Vec<Binding>,
    /// Which vat, and how to print
    #[command(flatten)]
    pub target: Target,
}

/// What `objects` takes.
#[derive(Args, Debug)]
pub struct ObjectsArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: ObjectsVerb,
    /// Which vat, and how to print
    #[command(flatten)]
    pub target: Target,
}

/// What to do with objects.
#[derive(Debug, Subcommand)]
pub enum ObjectsVerb {
    /// Print the objects that have come into being
    ///
    /// A line for each: its name, its id, when it came into being, when it was last written, both in
    /// milliseconds since 1970, and how large its database was then, in bytes. The last 10 s of what
    /// it wrote may be missing. What an object does not have, or the vat does not know, is left empty;
    /// in JSON it is null.
    List {
        /// The class, by the name it is served under
        class: String,
        /// Only objects whose name starts with this
        #[arg(long, default_value = "")]
        prefix: String,
        /// At most this many
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
    },
    /// Print how many objects have come into being
    Count {
        /// The class, by the name it is served under
        class: String,
        /// Only objects whose name starts with this
        #[arg(long, default_value = "")]
        prefix: String,
    },
    /// Print what an object looks like at the moment, and do not wake it
    ///
    /// A line for each of: what `list` tells; whether it exists, that is, has come into being; its
    /// state, which is asleep, waking or awake; how many calls and other events are in flight, and how
    /// many of these are queued; how many capabilities that others hold keep it awake; when its
    /// earliest alarm is due, and when it woke, in milliseconds since 1970; and how often it was reset
    /// since the vat started. What there is not is left empty; in JSON it is null.
    #[command(override_usage = usage("objects show [OPTIONS] <CLASS> <NAME|--id <HEX>>"))]
    Show {
        /// The class, by the name it is served under
        class: String,
        /// The object
        #[command(flatten)]
        key: KeyArgs,
    },
    /// Delete an object for good: its storage, its alarms and its place in listings
    ///
    /// Prints how many objects that were, 1 or 0. That there is none is not an error, so that whoever
    /// was cut off may ask again. Calls on the object that are in flight fail with `object-reset`; a
    /// later call makes it anew.
    #[command(override_usage = usage("objects delete [OPTIONS] <CLASS> <NAME|--id <HEX>>"))]
    Delete {
        /// The class, by the name it is served under
        class: String,
        /// The object
        #[command(flatten)]
        key: KeyArgs,
    },
    /// End the instance of an object that is stuck, and keep everything that the object has stored
    ///
    /// Prints how many instances that were, 1 or 0. Calls that run, and capabilities that the instance
    /// handed out, fail with `object-reset`; WebSockets close. Calls that are queued go to the next
    /// instance, which wakes at once if there are any.
    #[command(override_usage = usage("objects reset [OPTIONS] <CLASS> <NAME|--id <HEX>>"))]
    Reset {
        /// The class, by the name it is served under
        class: String,
        /// The object
        #[command(flatten)]
        key: KeyArgs,
    },
}

/// An object, by its name or its id.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct KeyArgs {
    /// The object's name
    #[arg(allow_hyphen_values = true)]
    name: Option<String>,
    /// The object's id, instead of its name: 64 hexadecimal digits
    #[arg(long, value_name = "HEX")]
    id: Option<ObjectId>,
}

impl KeyArgs {
    /// The object that was named.
    pub fn key(&self) -> ObjectKey {
        match self.id {
            Some(id) => id.into(),
            None => self.name.as_deref().unwrap_or_default().into(),
        }
    }
}

/// What `alarms` takes.
#[derive(Args, Debug)]
pub struct AlarmsArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: AlarmsVerb,
    /// Which vat, and how to print
    #[command(flatten)]
    pub target: Target,
}

/// What to do with alarms.
#[derive(Debug, Subcommand)]
pub enum AlarmsVerb {
    /// Print the objects that have alarms, in the order in which they are due
    ///
    /// A line for each: when the earliest of its alarms is due, in milliseconds since 1970, and its
    /// class, name and id. Nothing is woken for it.
    List {
        /// At most this many
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
    },
}

/// What `classes` takes.
#[derive(Args, Debug)]
pub struct ClassesArgs {
    /// Which vat, and how to print
    #[command(flatten)]
    pub target: Target,
}

/// What `schema` takes.
#[derive(Args, Debug)]
pub struct SchemaArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: SchemaVerb,
}

/// What to do with the schema.
#[derive(Debug, Subcommand)]
pub enum SchemaVerb {
    /// Write the .capnp files of the wire contract, and all that they import, into a folder. The annotation that opens methods to calls over
    /// HTTP is in vatwerk/http.capnp
    Export {
        /// The folder, which is made if need be
        dir: PathBuf,
        /// Ask this vat too, for everything it serves: compiled, as a CodeGeneratorRequest for the standard input
        /// of any capnpc-LANG, DIR/vat.cgr; and the schemas of its own classes as text, in DIR/classes
        #[arg(long, value_name = "ADDR")]
        connect: Option<String>,
        /// Give up on that vat if it is not done within this many seconds, such as 2.5: exit code 5, or
        /// 3 if there is no connection by then [default: no limit, and 10 for connecting]
        #[arg(long, value_name = "SECONDS", value_parser = seconds, requires = "connect")]
        timeout: Option<Duration>,
    },
}

/// A time that is given in seconds, above 0.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let time = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    if time.is_zero() {
        Err("it must be above 0".to_owned())
    } else {
        Ok(time)
    }
}

/// The usage of a verb, for the binary as it was called.
fn usage(verb: &str) -> String {
    let called = std::env::args_os().next().map(PathBuf::from);
    let name = called.as_deref().and_then(|path| path.file_name());
    let name = name.map_or("vatwerk".into(), |name| name.to_string_lossy());
    format!("{name} {verb}")
}
