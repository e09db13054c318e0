//! Durable increments per second: the vat as a process of its own, called over its unix socket,
//! with every answer given after its commit is on the disk. Rows are numbers of objects, which are
//! called in turn, by numbers of calls in flight. Beside them stand, on the same disk, the floors:
//!
//! - one `fdatasync` of 4 KiB, appended or overwritten;
//! - bare SQLite, an increment per transaction, `synchronous=FULL`;
//! - Redis, `INCR` with `appendfsync always`, if there is a `redis-server`;
//! - a bare log server: it does nothing but append a record for each request, in group commits.
//!
//! Rounds of all rows alternate, and a row's result is the median of its rounds. At the end every
//! increment that was acknowledged is looked for.
//!
//! What a commit costs the server is counted by the kernel. The bytes are those of `write_bytes` in
//! `/proc/PID/io`: whole pages, those of everything that the server writes, but not what the file
//! system writes for itself. CPU time is user and system time of all threads.
//!
//! `cargo bench -p vatwerk-server --bench commits [-- OPTIONS]`; `-- --help` tells the options.

mod disk;
mod log_server;
mod measure;
mod pipeline;
mod redis;
mod report;
mod sqlite;
mod usage;
mod vat;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Parser;

use measure::Floor;
use usage::Usage;
use vat::{Cell, Vat};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How much is measured.
#[derive(Clone, Parser)]
struct Options {
    /// Only see that everything runs: one round, of moments, with few objects
    #[arg(long)]
    short: bool,

    /// How many rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// How long a row is measured in each round
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    row_ms: u64,

    /// The largest number of objects [default: 10000, or 128 if short]
    #[arg(long)]
    objects: Option<usize>,

    /// How many bytes the bare log server appends for a request
    #[arg(long, value_name = "BYTES", default_value_t = 4119)]
    record_bytes: usize,

    /// A folder on the disk to measure
    #[arg(long, value_name = "DIR", default_value = env!("CARGO_TARGET_TMPDIR"))]
    folder: PathBuf,

    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    fn objects(&self) -> [usize; 3] {
        let most = if self.short { 128 } else { 10_000 };
        [1, 64, self.objects.unwrap_or(most).max(64)]
    }

    fn in_flight(&self) -> [usize; 3] {
        [1, 64, 256]
    }
}

/// What the vat is compared with.
struct Floors {
    append: Floor,
    overwrite: Floor,
    sqlite: Floor,
    redis: Floor,
    log: Floor,
}

impl Floors {
    fn new(folder: &Path, options: &Options) -> Floors {
        let in_flight = options.in_flight();
        Floors {
            append: disk::append(folder),
            overwrite: disk::overwrite(folder),
            sqlite: sqlite::increments(folder),
            redis: redis::increments(folder, &in_flight),
            log: log_server::appends(folder, options.record_bytes, &in_flight),
        }
    }

    fn all(&self) -> [&Floor; 5] {
        let Floors {
            append,
            overwrite,
            sqlite,
            redis,
            log,
        } = self;
        [append, overwrite, sqlite, redis, log]
    }

    fn round(&mut self, time: Duration) {
        self.append.round(time);
        self.overwrite.round(time);
        self.sqlite.round(time);
        self.redis.round(time);
        self.log.round(time);
    }
}

/// Everything that was measured.
struct Results {
    floors: Floors,
    cells: Vec<Cell>,
    /// What the server used for all increments of the run, and for what it did between rows.
    overall: Usage,
    /// How many increments that were.
    commits: usize,
    /// How many objects were awake after them.
    awake: u64,
}

fn main() {
    let mut options = Options::parse();
    if let Some(folder) = log_server::folder_to_serve() {
        log_server::serve(&folder, options.record_bytes);
        return;
    }
    if options.short {
        options.rounds = 1;
        options.row_ms = 20;
    }
    let folder = disk::folder(&options.folder);
    let time = Duration::from_millis(options.row_ms);
    let mut floors = Floors::new(folder.path(), &options);
    let [.., most] = options.objects();
    let mut vat = Vat::start(&folder.path().join("vat"), most);
    let mut cells: Vec<Cell> = options
        .objects()
        .into_iter()
        .flat_map(|objects| {
            options
                .in_flight()
                .map(|in_flight| Cell::new(objects, in_flight))
        })
        .collect();
    let (usage, commits) = (vat.usage(), vat.acknowledged());
    for _ in 0..options.rounds {
        floors.round(time);
        for cell in &mut cells {
            cell.round(&mut vat, time);
        }
    }
    let results = Results {
        floors,
        cells,
        overall: vat.usage().since(&usage),
        commits: vat.acknowledged() - commits,
        awake: vat.awake(),
    };
    vat.check();
    report::print(&results, &options);
}
