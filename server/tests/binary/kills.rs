//! What is acknowledged survives `kill -9`, whole, whatever the vat is doing.
//!
//! As many kills as one likes: `VATWERK_KILLS=100 cargo test -p vatwerk-server --test binary kills
//! -- --nocapture`. `VATWERK_KILLS_SEED` has the kills come as they came before, as far as the load
//! lets them.

mod checks;
mod ledger;
mod load;
mod random;
mod things;

use std::{env, fs, path::Path, thread, time::Duration};

use tempfile::TempDir;

use self::{
    checks::Settled,
    load::{Clients, Order},
    random::Random,
};
use crate::vat::{Vat, files};

const TEST: &str = "kills::what_is_acknowledged_survives_kills_whole";

/// How many kills there are when nobody says.
const KILLS: u64 = 8;

const CLIENTS: usize = 4;

/// The settings of every second vat: objects fall asleep, and wake, all the time, and the journal is
/// small, so that its segments are used again and again.
const SLEEPY: &str = "[limits]\nidle_ms = 20\njournal_bytes = 8_388_608\n";

/// Client processes increment counters, write pairs, rows and tables, make objects and delete
/// everything, while the vat is killed again and again: under the load, on its way down, and on its
/// way up again. After each kill everything that was acknowledged is there, no turn or transaction
/// is there in part, nothing counts twice, and every object answers.
#[test]
fn what_is_acknowledged_survives_kills_whole() {
    if let Some(order) = load::order() {
        return load::run(&order);
    }
    let kills = setting("VATWERK_KILLS").unwrap_or(KILLS);
    let seed = setting("VATWERK_KILLS_SEED").unwrap_or_else(|| getrandom::u64().unwrap());
    let scene = Scene::new(seed);
    let mut random = Random::new(seed);
    let mut settled = Settled::nothing(CLIENTS);
    let mut vat = scene.start(0);
    for kill in 1..=kills {
        let orders = scene.orders(&vat, kill, &settled, &mut random);
        let mut clients = Clients::start(TEST, &orders);
        // Every tenth time enough to have segments retired.
        let most = if kill.is_multiple_of(10) { 4_000 } else { 400 };
        let acknowledged = 1 + random.below(most);
        clients.wait_for(acknowledged);
        let delay = pause(random.below(5_000));
        // On its way down.
        let stopping = kill.is_multiple_of(3).then(|| {
            vat.signal(libc::SIGTERM);
            pause(random.below(20_000))
        });
        scene.kill(vat);
        clients.end();
        scene.copy_data();
        // On its way up.
        let starts = random.below(4);
        for _ in 0..starts {
            let starting = scene.spawn(kill);
            // Short ones are as frequent as long ones: how long a start takes, nobody knows.
            let least = 1 << (9 + random.below(6));
            pause(least + random.below(least));
            scene.kill(starting);
        }
        vat = scene.start(kill);
        let ledgers: Vec<_> = orders
            .iter()
            .map(|order| ledger::read(&order.ledger))
            .collect();
        println!(
            "kill {kill}: {acknowledged} calls and {delay:?} after the start, \
             {stopping:?} after SIGTERM, with {} under way; then {starts} in the next start",
            ledger::under_way(&ledgers)
        );
        settled.settle(&vat, &ledgers);
    }
    settled.check(&vat);
    vat.signal(libc::SIGTERM);
    assert_eq!(vat.wait(), Some(0), "{}", vat.errors());
    checks::check_files(&scene.path().join("data"));
    settled.check(&scene.start(0));
}

fn setting(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}: a number")))
}

/// Lets the vat come to whatever point it comes to. Only a kill is waited for like this.
fn pause(micros: u64) -> Duration {
    let pause = Duration::from_micros(micros);
    thread::sleep(pause);
    pause
}

/// Where it happens: a folder for one vat after another, for the ledgers, and for a copy of the
/// data as the last kill under load left it. It is kept when the test fails.
struct Scene {
    folder: TempDir,
    seed: u64,
}

impl Scene {
    fn new(seed: u64) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("sleepy.toml"), SLEEPY).unwrap();
        Scene { folder, seed }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The next vat, which may be of the sleepy ones.
    fn spawn(&self, kill: u64) -> Vat {
        let sleepy: &[&str] = if kill % 2 == 1 {
            &["--config", "sleepy.toml"]
        } else {
            &[]
        };
        let listen = &["--listen", "tcp:127.0.0.1:0"];
        Vat::spawn(self.path(), sleepy.iter().chain(listen))
    }

    fn start(&self, kill: u64) -> Vat {
        self.spawn(kill).ready(1)
    }

    fn kill(&self, vat: Vat) {
        let errors = vat.kill();
        assert!(!errors.contains("panicked"), "{errors}");
    }

    /// So that a recovery that went wrong can be tried again.
    fn copy_data(&self) {
        let (data, copy) = (self.path().join("data"), self.path().join("killed"));
        fs::create_dir_all(&copy).unwrap();
        for copied in files(&copy) {
            if !data.join(copied.strip_prefix(&copy).unwrap()).exists() {
                fs::remove_file(copied).unwrap();
            }
        }
        let modified = |path: &Path| fs::metadata(path).and_then(|it| it.modified()).ok();
        for file in files(&data) {
            let copied = copy.join(file.strip_prefix(&data).unwrap());
            // Most objects sleep most of the time, and there are more and more of them.
            if modified(&copied) <= modified(&file) {
                fs::create_dir_all(copied.parent().unwrap()).unwrap();
                fs::copy(file, copied).unwrap();
            }
        }
    }

    /// For each client what it is to do, with a ledger that is begun.
    fn orders(&self, vat: &Vat, kill: u64, settled: &Settled, random: &mut Random) -> Vec<Order> {
        let order = |client| {
            let ledger = self.path().join(format!("ledger-{kill}-{client}"));
            ledger::begin(&ledger, &settled.lines(client));
            Order {
                client,
                address: vat.address(0),
                ledger,
                seed: random.seed(),
            }
        };
        (0..CLIENTS).map(order).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if thread::panicking() {
            self.folder.disable_cleanup(true);
            eprintln!("seed {}; kept: {}", self.seed, self.path().display());
        }
    }
}
