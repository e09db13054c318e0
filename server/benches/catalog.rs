//! The catalog with many objects in it: how long it takes to open, and a page of a listing.
//!
//! `cargo bench -p vatwerk-server --bench catalog [-- OBJECTS]`

mod host;

use std::time::{Duration, Instant};

use tokio::task::LocalSet;
use vatwerk::{ObjectId, limit_capnp::MAX_LISTED_OBJECTS};
use vatwerk_server::{
    catalog::{After, Catalog},
    classes::Counter,
    storage,
};

use host::Vat;

const DEFAULT_OBJECTS: usize = 1_000_000;

const PAGES: u32 = 200;

fn main() {
    let objects = std::env::args()
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(DEFAULT_OBJECTS);
    let folder = tempfile::tempdir().expect("a temporary folder");
    storage::configure_process();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let vat = Vat::serving::<Counter>(folder.path(), 1);
        let class = vat.host.classes.by_name("Counter").expect("it is served");
        let class = class.interface_id;
        let started = Instant::now();
        for n in 0..objects {
            let mut id = [0; ObjectId::LEN];
            // In no order, as ids are.
            let mixed = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            id[..8].copy_from_slice(&mixed.to_be_bytes());
            let name = format!("user-{n:07}");
            let catalog = &vat.host.catalog;
            // Not more at once than the journal is given room for.
            if n % 1000 == 0 {
                vat.host.catalog_is_durable().await.expect("a disk");
            }
            let recorded = catalog.record(class, ObjectId(id), Some(&name));
            recorded.expect("it is listed");
        }
        println!("{objects} objects");
        println!(
            "listed: {:.1} us each",
            micros(started.elapsed()) / objects as f64
        );
        vat.stop().await;

        let started = Instant::now();
        let vat = Vat::serving::<Counter>(folder.path(), 1);
        println!(
            "start of the vat: {:.1} ms",
            micros(started.elapsed()) / 1000.0
        );
        let started = Instant::now();
        let count = vat.host.catalog.count(class).expect("a count");
        assert_eq!(count, objects as u64);
        println!("count: {:.1} us", micros(started.elapsed()));
        println!(
            "a page of {MAX_LISTED_OBJECTS}: {:.0} us",
            pages(&vat.host.catalog, class)
        );
        vat.stop().await;
    });
}

/// How long a page takes, one after the other.
fn pages(catalog: &Catalog, class: u64) -> f64 {
    let mut after = After::Beginning;
    let started = Instant::now();
    for _ in 0..PAGES {
        let page = catalog.list(class, "", &after, MAX_LISTED_OBJECTS);
        let page = page.expect("a page");
        let Some(last) = page.last() else { break };
        after = After::Name(last.name.clone().expect("it has a name"));
    }
    micros(started.elapsed()) / f64::from(PAGES)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
