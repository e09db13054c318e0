//! Objects' files that cannot be read or written: what was acknowledged is in the journal, and stays
//! there until it is in the files.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use vatwerk::Code;
use vatwerk_server::{
    Config,
    env::sim::{Fault, Operation, Survival},
};

use crate::support::{
    Do, TestVat,
    cell::cell,
    code,
    disk::{catalog, count, is_in, listed, object_files, read, vat_on_disk, write},
    run, run_paused, tell,
};

#[test]
fn a_stop_that_the_disk_fails_in_whatever_way_loses_nothing() {
    run_paused(async {
        let faults: [fn() -> Fault; 5] = [
            Fault::no_space,
            Fault::io_error,
            || Fault::io_error().leaving(5),
            || Fault::io_error().times(1),
            Fault::no_descriptors,
        ];
        for (round, fault) in faults.iter().enumerate() {
            for only_syncs in [false, true] {
                let (mut vat, wire) = vat_on_disk().await;
                write(&wire.probe("p"), "new").await.unwrap();
                let struck = Arc::new(AtomicBool::default());
                let strikes = struck.clone();
                vat.disk().fail(fault().when(move |path, op| {
                    let is_meant = object_files(path, op) && (op.is_sync() || !only_syncs);
                    strikes.fetch_or(is_meant, Ordering::Relaxed);
                    is_meant
                }));
                vat.stop().await;
                assert!(struck.load(Ordering::Relaxed), "{round}, {only_syncs}");
                vat.disk().heal();
                vat.start_again().await;
                let wire = vat.wire().await;
                let found = read(&wire.probe("p")).await.unwrap();
                assert_eq!(found, ["new"; 2], "{round}, {only_syncs}");
            }
        }
    });
}

#[test]
fn an_object_that_cannot_be_read_is_whole_when_it_can() {
    run_paused(async {
        fn reads(path: &Path, operation: Operation) -> bool {
            is_in(path, "objects") && [Operation::Read, Operation::Open].contains(&operation)
        }
        let (mut vat, wire) = vat_on_disk().await;
        let large = cell(&wire, "large");
        for n in 0..10 {
            large.put(&n.to_string(), &vec![n; 100_000]).await.unwrap();
        }
        for fault in [
            Fault::io_error().when(reads),
            Fault::io_error().when(|path, op| reads(path, op) && op == Operation::Read),
        ] {
            // What is not in the files yet is not read from there.
            vat.stop().await;
            vat.start_again().await;
            let wire = vat.wire().await;
            let (p, large) = (wire.probe("p"), cell(&wire, "large"));
            vat.disk().fail(fault);
            assert_eq!(code(read(&p).await), Code::StorageFailed);
            assert_eq!(code(write(&p, "new").await), Code::StorageFailed);
            assert_eq!(code(large.get("5").await), Code::StorageFailed);
            vat.disk().heal();
            assert_eq!(read(&p).await.unwrap(), ["old"; 2]);
            // Part of the way through its database.
            assert!(large.get("0").await.unwrap() == Some(vec![0; 100_000]));
            vat.disk().fail(Fault::io_error().when(reads));
            assert_eq!(code(large.get("5").await), Code::StorageFailed);
            vat.disk().heal();
            assert!(large.get("5").await.unwrap() == Some(vec![5; 100_000]));
        }
        vat.stop().await;
        vat.start_again().await;
        let wire = vat.wire().await;
        assert_eq!(read(&wire.probe("p")).await.unwrap(), ["old"; 2]);
    });
}

#[test]
fn a_stop_that_cannot_write_the_files_keeps_the_journal() {
    run_paused(async {
        let (mut vat, wire) = vat_on_disk().await;
        write(&wire.probe("p"), "new").await.unwrap();
        vat.disk().fail(Fault::no_space().when(object_files));
        vat.disk().fail(Fault::no_space().when(catalog));
        vat.stop().await;
        // A start that cannot write them either does not start, and spoils nothing.
        let start = vat.start_serving(|server| server).await;
        assert!(start.unwrap_err().to_string().starts_with("the journal: "));
        vat.disk().heal();
        vat.start_again().await;
        let wire = vat.wire().await;
        assert_eq!(read(&wire.probe("p")).await.unwrap(), ["new"; 2]);
        assert_eq!(read(&wire.probe("q")).await.unwrap(), ["old"; 2]);
    });
}

#[test]
fn a_catalog_whose_file_cannot_be_written_lists_everybody_all_the_same() {
    run_paused(async {
        let mut vat = TestVat::on_disk(|config| config.limits.journal_bytes = 8 << 20).await;
        let wire = vat.wire().await;
        vat.disk().fail(Fault::no_space().when(catalog));
        let (noisy, mut made) = (cell(&wire, "noisy"), 0);
        // Until the journal is full, for nothing of it is in the file.
        loop {
            let object = wire.probe(&format!("object {made}"));
            if tell(&object, &[Do::Put("k", "v")]).await.is_err() {
                break;
            }
            made += 1;
            assert!(made < 200, "the journal is full");
            if let Err(error) = noisy.put(&made.to_string(), &vec![0xAB; 100_000]).await {
                assert_eq!(code::<()>(Err(error)), Code::StorageFailed);
            }
        }
        assert!(made > 30, "{made}");
        vat.lose_power(Survival::Nothing).await;
        vat.start_again().await;
        assert_eq!(listed(&vat.wire().await, "object ").await, made);
    });
}

#[test]
fn a_journal_that_cannot_be_retired_becomes_full_and_goes_on_when_it_can() {
    fn object_syncs(path: &Path, operation: Operation) -> bool {
        object_files(path, operation) && operation.is_sync()
    }
    run_paused(async {
        let faults: [fn() -> Fault; 4] = [
            || Fault::io_error().when(object_files),
            || Fault::no_space().when(object_files),
            // What was written before is lost, and the next sync does not tell.
            || Fault::io_error().when(object_syncs),
            || Fault::io_error().when(object_syncs).leaving(7),
        ];
        for (round, fault) in faults.iter().enumerate() {
            let mut vat = TestVat::on_disk(|config| config.limits.journal_bytes = 8 << 20).await;
            let wire = vat.wire().await;
            let (noisy, p) = (cell(&wire, "noisy"), wire.probe("p"));
            write(&p, "old").await.unwrap();
            vat.disk().fail(fault());
            let mut kept = 0;
            let failed = loop {
                match noisy.put(&kept.to_string(), &vec![0xAB; 100_000]).await {
                    Ok(()) => kept += 1,
                    Err(error) => break error,
                }
                assert!(kept < 200, "the journal is full");
            };
            assert_eq!(code::<()>(Err(failed)), Code::StorageFailed, "{round}");
            assert!(kept > 30, "{round}");
            assert_eq!(read(&p).await.unwrap(), ["old"; 2], "{round}");
            vat.disk().heal();
            assert_eq!(count(&noisy).await, kept, "{round}");
            for more in kept..2 * kept {
                noisy
                    .put(&more.to_string(), &vec![0xAB; 100_000])
                    .await
                    .unwrap();
            }
            vat.lose_power(Survival::Nothing).await;
            vat.start_again().await;
            let wire = vat.wire().await;
            assert_eq!(count(&cell(&wire, "noisy")).await, 2 * kept, "{round}");
            assert_eq!(read(&wire.probe("p")).await.unwrap(), ["old"; 2], "{round}");
        }
    });
}

#[test]
fn a_journal_with_threads_becomes_full_and_goes_on_likewise() {
    run(async {
        let settings: fn(&mut Config) = |config| config.limits.journal_bytes = 8 << 20;
        let mut vat = TestVat::on_disk_with_threads(settings).await;
        let wire = vat.wire().await;
        let noisy = cell(&wire, "noisy");
        noisy.put("first", &[1]).await.unwrap();
        vat.disk().fail(Fault::no_space().when(object_files));
        let mut kept = 1;
        while noisy
            .put(&kept.to_string(), &vec![0xAB; 100_000])
            .await
            .is_ok()
        {
            kept += 1;
            assert!(kept < 200, "the journal is full");
        }
        vat.disk().heal();
        while let Err(error) = noisy.put("last", &[1]).await {
            assert_eq!(code::<()>(Err(error)), Code::StorageFailed);
        }
        assert_eq!(count(&noisy).await, kept + 1);
        vat.lose_power(Survival::Nothing).await;
        vat.start_again().await;
        assert_eq!(count(&cell(&vat.wire().await, "noisy")).await, kept + 1);
        vat.stop().await;
    });
}
