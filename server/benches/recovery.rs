//! How long a start takes after a crash: reading the journal twice, bringing its commits to the
//! objects' files, and syncing those. Beside it stands reading the same journal once, as a floor.
//!
//! `cargo bench -p vatwerk-server --bench recovery [-- --short]`

use std::{fs, path::Path, sync::Arc, time::Instant};

use vatwerk::ObjectId;
use vatwerk_server::{
    env::RealDisk,
    folder::{DatabaseId, Folder},
    journal::{self, Journal},
    storage::{Settings, Storage, Vfs},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is written before the crash.
struct Load {
    name: &'static str,
    objects: u32,
    /// How large the values are.
    bytes: usize,
}

const LOADS: [Load; 4] = [
    Load {
        name: "increments, 64 objects",
        objects: 64,
        bytes: 8,
    },
    Load {
        name: "increments, 10,000 objects",
        objects: 10_000,
        bytes: 8,
    },
    Load {
        name: "3 KiB of noise, 64 objects",
        objects: 64,
        bytes: 3000,
    },
    Load {
        name: "3 KiB of noise, 10,000 objects",
        objects: 10_000,
        bytes: 3000,
    },
];

fn main() {
    let short = std::env::args().any(|arg| arg == "--short");
    println!("| what was written | commits | journal | recovery | MiB/s | read alone |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for load in &LOADS {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        crash(folder.path(), load, if short { 1 << 20 } else { 120 << 20 });
        // What was just written is in memory anyway; a start after a loss of power finds nothing
        // there.
        let data = Folder::open(folder.path()).expect("a data folder");
        let read = Instant::now();
        for entry in fs::read_dir(data.layout().journal()).expect("the journal") {
            fs::read(entry.expect("a segment").path()).expect("it can be read");
        }
        let read = read.elapsed();
        let started = Instant::now();
        let (journal, recovery) = open(&data);
        let took = started.elapsed();
        drop(journal);
        let mib = recovery.bytes as f64 / f64::from(1 << 20);
        println!(
            "| {} | {} | {mib:.0} MiB | {} ms | {:.0} | {} ms |",
            load.name,
            recovery.commits,
            took.as_millis(),
            mib / took.as_secs_f64(),
            read.as_millis(),
        );
    }
}

fn open(folder: &Folder) -> (Journal, journal::Recovery) {
    let settings = journal::Settings::default();
    let disk = Arc::new(RealDisk::default());
    Journal::open(disk, folder.layout(), &settings, |_| {}).expect("the journal opens")
}

/// Commits until the journal is about `bytes` long, and leaves everything as it stands.
fn crash(folder: &Path, load: &Load, bytes: u64) {
    let data = Folder::open(folder).expect("a data folder");
    let (journal, _) = open(&data);
    let vfs = Vfs::register(journal);
    let settings = Settings::default();
    let objects: Vec<Storage> = (0..load.objects)
        .map(|number| {
            let mut object = [0; ObjectId::LEN];
            object[..4].copy_from_slice(&number.to_le_bytes());
            let object = ObjectId(object);
            Storage::open(&vfs, DatabaseId { class: 1, object }, &settings).expect("it opens")
        })
        .collect();
    let mut noise = 1u64;
    let mut value = vec![0; load.bytes];
    // Roughly what a record takes, and a batch of its own now and then.
    let commits = bytes / (load.bytes as u64 + 400);
    for object in objects.iter().cycle().take(commits as usize) {
        for byte in &mut value {
            noise = noise
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *byte = (noise >> 56) as u8;
        }
        object
            .kv()
            .put_bytes("value", &value)
            .expect("it is written");
    }
}
