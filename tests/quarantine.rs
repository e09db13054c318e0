//! One file that cannot be written does not stop the vat: its object takes no commits, and all others go on.

use std::path::PathBuf;

use vatwerk::Code;
use vatwerk_server::{
    Config,
    env::sim::{Fault, Survival},
};

use crate::support::{
    TestVat, Wire,
    cell::{Ops, cell},
    code,
    disk::{is_in, night},
    log::Log,
    run_paused, settle,
};

/// More than the journal has room for, each of 100 KB.
const MANY: usize = 90;

fn small(config: &mut Config) {
    config.limits.journal_bytes = 8 << 20;
    config.limits.idle_ms = 1000;
}

/// Two objects that are asleep, with the file of the first, which a stop has written.
async fn two(vat: &mut TestVat, wire: &mut Wire) -> (Ops, Ops, PathBuf) {
    cell(wire, "bad").put("k", &[1; 5000]).await.unwrap();
    vat.stop().await;
    vat.start_again().await;
    *wire = vat.wire().await;
    let (bad, good) = (cell(wire, "bad"), cell(wire, "good"));
    let files = vat.disk().files();
    let mut files = files.into_iter().filter(|path| is_in(path, "objects"));
    let file = files.next().unwrap();
    good.put("k", &[1; 5000]).await.unwrap();
    night().await;
    (bad, good, file)
}

/// Writes 100 KB so many times.
async fn fill(good: &Ops, times: usize) {
    for n in 0..times {
        let value = vec![n as u8 | 1; 100_000];
        good.put(&(n % 10).to_string(), &value).await.unwrap();
    }
}

#[test]
fn an_object_whose_file_cannot_be_written_takes_no_commits_and_all_others_go_on() {
    run_paused(async {
        let log = Log::keep();
        // What it does at the disk: all it asks for, and what a failing device does.
        for (round, only_syncs) in [(0, false), (1, true), (2, false), (3, true)] {
            let mut vat = TestVat::on_disk(small).await;
            let mut wire = vat.wire().await;
            let (bad, good, file) = two(&mut vat, &mut wire).await;
            let fault = {
                let file = file.clone();
                Fault::io_error()
                    .when(move |path, op| {
                        path == file && op.is_change() && (op.is_sync() || !only_syncs)
                    })
                    .leaving(round)
                    .evicting()
            };
            vat.disk().fail(fault);
            bad.put("k", &[3; 5000]).await.unwrap();
            bad.put("l", &[4; 9000]).await.unwrap();
            fill(&good, MANY).await;
            let refused = bad.put("k", &[5; 5000]).await;
            assert_eq!(code(refused), Code::StorageFailed, "{round}");
            let path = file.display().to_string();
            assert!(only_syncs || log.count(&path) > 0, "{round}");
            // One that sleeps, too, and after a crash or a stop.
            night().await;
            assert_eq!(code(bad.put("k", &[5; 5000]).await), Code::StorageFailed);
            // What the file lacks is in memory as long as the vat lives.
            let read = bad.get("k").await.unwrap();
            assert!(read == Some(vec![3; 5000]), "{round}");
            let still = {
                let file = file.clone();
                move |disk: &vatwerk_server::env::sim::SimDisk| {
                    let file = file.clone();
                    disk.fail(Fault::io_error().when(move |path, op| {
                        path == file && op.is_change() && (op.is_sync() || !only_syncs)
                    }));
                }
            };
            if round < 2 {
                vat.stop().await;
            } else {
                vat.lose_power(Survival::Seeded(round)).await;
                still(vat.disk());
            }
            vat.start_again().await;
            wire = vat.wire().await;
            let (bad, good) = (cell(&wire, "bad"), cell(&wire, "good"));
            assert_eq!(code(bad.put("k", &[5; 5000]).await), Code::StorageFailed);
            let unread = bad.get("k").await.unwrap_err();
            // Which file that is, the log says.
            assert!(!unread.extra.contains(&path), "{unread}");
            assert!(log.count(&path) > 0);
            fill(&good, 30).await;
            // It can be written again, and everything is there.
            vat.disk().heal();
            settle().await;
            assert!(
                bad.get("k").await.unwrap() == Some(vec![3; 5000]),
                "{round}"
            );
            assert!(
                bad.get("l").await.unwrap() == Some(vec![4; 9000]),
                "{round}"
            );
            bad.put("k", &[6; 5000]).await.unwrap();
            vat.lose_power(Survival::Nothing).await;
            vat.start_again().await;
            wire = vat.wire().await;
            let (bad, good) = (cell(&wire, "bad"), cell(&wire, "good"));
            assert!(
                bad.get("k").await.unwrap() == Some(vec![6; 5000]),
                "{round}"
            );
            assert!(
                bad.get("l").await.unwrap() == Some(vec![4; 9000]),
                "{round}"
            );
            let last = good.get("9").await.unwrap();
            assert!(last == Some(vec![29 | 1; 100_000]), "{round}");
            vat.stop().await;
            let held = |path: &PathBuf| path.extension().is_some_and(|it| it == "held");
            assert!(!vat.disk().files().iter().any(held), "{round}");
        }
    });
}

#[test]
fn what_a_crash_leaves_of_a_file_that_cannot_be_written_is_mended_by_the_start_that_can() {
    run_paused(async {
        let mut vat = TestVat::on_disk(small).await;
        let mut wire = vat.wire().await;
        let (bad, good, file) = two(&mut vat, &mut wire).await;
        vat.disk()
            .fail(Fault::io_error().when(move |path, op| path == file && op.is_change()));
        bad.put("k", &[3; 5000]).await.unwrap();
        fill(&good, 60).await;
        // Without the fault.
        vat.lose_power(Survival::Everything).await;
        vat.start_again().await;
        let wire = vat.wire().await;
        let bad = cell(&wire, "bad");
        assert!(bad.get("k").await.unwrap() == Some(vec![3; 5000]));
        bad.put("k", &[4; 5000]).await.unwrap();
    });
}
