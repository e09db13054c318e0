//! What is gone from the data folder is missed, and not begun anew as if it had never been.

use std::path::{Path, PathBuf};

use vatwerk::{Code, counter_capnp::counter};
use vatwerk_server::{
    ServeError, Server,
    env::{
        Disk, Open,
        sim::{Fault, SimDisk, Survival},
    },
};

use crate::{
    probe_capnp::probe,
    support::{
        Probe, TestVat, Wire, code,
        disk::{is_in, journal_sync, listed, night, read, vat_on_disk, write},
        log::Log,
        run_paused,
    },
};

fn files(disk: &SimDisk, matches: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut files = disk.files();
    files.retain(|path| matches(path));
    files
}

fn objects(disk: &SimDisk) -> Vec<PathBuf> {
    files(disk, |path| is_in(path, "objects"))
}

fn empty(disk: &SimDisk, path: &Path) {
    disk.open(path, Open::Existing).unwrap().set_len(0).unwrap();
}

async fn delete(wire: &Wire, name: &str) -> capnp::Result<bool> {
    let mut request = wire.namespace::<probe::Client>().delete_request();
    request.get().init_key().set_object_name(name);
    Ok(request.send().promise.await?.get()?.get_existed())
}

/// Why the vat does not start.
async fn refused(vat: &mut TestVat) -> String {
    let serve = |server: Server| server.class::<Probe>();
    match vat.start_serving(serve).await {
        Ok(()) => panic!("it starts"),
        Err(error @ (ServeError::Catalog(_) | ServeError::Journal(_))) => error.to_string(),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn an_object_whose_file_is_gone_or_empty_is_refused_until_the_file_is_back_or_it_is_deleted() {
    run_paused(async {
        let log = Log::keep();
        for is_removed in [true, false] {
            let (mut vat, _) = vat_on_disk().await;
            night().await;
            vat.stop().await;
            let disk = vat.disk().clone();
            let whole: Vec<_> = objects(&disk)
                .into_iter()
                .map(|path| (disk.read(&path).unwrap(), path))
                .collect();
            assert_eq!(whole.len(), 2);
            for (_, path) in &whole {
                match is_removed {
                    true => disk.remove(path).unwrap(),
                    false => empty(&disk, path),
                }
            }
            vat.start_again().await;
            let mut wire = vat.wire().await;
            for name in ["p", "q"] {
                let told = read(&wire.probe(name)).await;
                let words = told.as_ref().unwrap_err().extra.clone();
                assert_eq!(code(told), Code::StorageDamaged);
                assert!(!words.contains("objects delete"), "{words}");
                assert!(log.count("objects delete") > 0);
                assert!(words.ends_with("[not-delivered]"), "{words}");
                assert_eq!(
                    code(write(&wire.probe(name), "new").await),
                    Code::StorageDamaged
                );
            }
            assert_eq!(listed(&wire, "").await, 2);
            // The file is put back of one, and the other is given up.
            vat.stop().await;
            for (bytes, path) in &whole {
                let file = disk.open(path, Open::OrCreate).unwrap();
                file.write_at(bytes, 0).unwrap();
            }
            vat.start_again().await;
            wire = vat.wire().await;
            for name in ["p", "q"] {
                assert_eq!(read(&wire.probe(name)).await.unwrap(), ["old"; 2]);
            }
            night().await;
            vat.stop().await;
            for (_, path) in &whole {
                disk.remove(path).unwrap();
            }
            vat.start_again().await;
            wire = vat.wire().await;
            for name in ["p", "q"] {
                assert!(delete(&wire, name).await.unwrap());
                write(&wire.probe(name), "anew").await.unwrap();
            }
            vat.stop().await;
        }
    });
}

#[test]
fn an_object_that_was_never_written_or_was_deleted_is_not_missed_wherever_a_crash_comes() {
    run_paused(async {
        // Between the object's entry and its first commit, or what ends it and its entry.
        for strikes in 1..6 {
            let (mut vat, mut wire) = vat_on_disk().await;
            night().await;
            let fault = Fault::io_error().when(journal_sync).leaving(strikes);
            vat.disk().fail(fault.times(strikes));
            let _ = write(&wire.probe("newborn"), "new").await;
            let _ = delete(&wire, "p").await;
            for survival in [Survival::Nothing, Survival::Seeded(strikes)] {
                vat.lose_power(survival).await;
                vat.start_again().await;
                wire = vat.wire().await;
                for name in ["p", "q", "newborn"] {
                    write(&wire.probe(name), "newer").await.unwrap();
                }
                let _ = delete(&wire, "p").await;
            }
        }
    });
}

#[test]
fn objects_without_a_catalog_are_not_served() {
    run_paused(async {
        for is_removed in [true, false] {
            let (mut vat, _) = vat_on_disk().await;
            night().await;
            vat.stop().await;
            let disk = vat.disk().clone();
            let catalog = files(&disk, |path| path.ends_with("catalog.sqlite")).remove(0);
            match is_removed {
                true => disk.remove(&catalog).unwrap(),
                false => empty(&disk, &catalog),
            }
            let told = refused(&mut vat).await;
            assert!(told.contains("check --rebuild-catalog"), "{told}");
            // Without objects there is nothing to miss.
            for path in objects(&disk) {
                disk.remove(&path).unwrap();
            }
            vat.start_again().await;
            vat.stop().await;
        }
    });
}

#[test]
fn a_segment_that_may_hold_commits_is_missed_and_one_that_does_not_is_not() {
    run_paused(async {
        let segments = |disk: &SimDisk| {
            files(disk, |path| {
                path.extension()
                    .is_some_and(|extension| extension == "segment")
            })
        };
        let mut vat = TestVat::on_disk(|config| config.limits.journal_bytes = 8 << 20).await;
        let wire = vat.wire().await;
        let counter: counter::Client = wire.object("c");
        for _ in 0..3 {
            counter.increment_request().send().promise.await.unwrap();
        }
        vat.lose_power(Survival::Nothing).await;
        let disk = vat.disk().clone();
        let segment = segments(&disk).remove(0);
        let bytes = disk.read(&segment).unwrap();
        disk.remove(&segment).unwrap();
        for _ in 0..2 {
            let told = refused(&mut vat).await;
            assert!(told.contains(&segment.display().to_string()), "{told}");
        }
        let file = disk.open(&segment, Open::OrCreate).unwrap();
        file.write_at(&bytes, 0).unwrap();
        vat.start_again().await;
        let wire = vat.wire().await;
        let counter: counter::Client = wire.object("c");
        let answer = counter.increment_request().send().promise.await.unwrap();
        assert_eq!(answer.get().unwrap().get_count(), 4);
        // After a stop nothing is in it.
        vat.stop().await;
        for segment in segments(&disk) {
            disk.remove(&segment).unwrap();
        }
        vat.start_again().await;
        let wire = vat.wire().await;
        let counter: counter::Client = wire.object("c");
        let answer = counter.increment_request().send().promise.await.unwrap();
        assert_eq!(answer.get().unwrap().get_count(), 5);
    });
}
