//! A vat that is told to stop finishes what it has begun, and leaves plain databases.

use capnp::capability::FromClientHook;
use rusqlite::{Connection, OpenFlags};
use vatwerk::Code;

use crate::{
    probe_capnp::sink,
    support::{
        Do, Ear, TestVat, cap_of, cell::cell, code, run, run_paused, said, send, settle, tell,
    },
};

#[test]
fn calls_in_flight_finish_and_new_ones_are_refused() {
    run_paused(async {
        let mut vat = TestVat::start().await;
        let wire = vat.wire().await;
        let (probe, other) = (wire.probe("p"), wire.probe("q"));
        tell(&other, &[]).await.unwrap();
        let call = send(
            &probe,
            &[Do::Latch("busy"), Do::Put("k", "v"), Do::Say("finished")],
        );
        vat.controls.reached("busy").await;
        let stopped = vat.begin_stop();
        settle().await;
        assert!(!stopped.is_finished());
        assert_eq!(code(tell(&other, &[]).await), Code::ShuttingDown);
        vat.controls.release("busy");
        let answer = call.promise.await.unwrap();
        assert_eq!(said(answer.get().unwrap()).unwrap(), ["finished"]);
        stopped.await.unwrap();

        vat.start_again().await;
        let wire = vat.wire().await;
        let found = tell(&wire.probe("p"), &[Do::Get("k")]).await.unwrap();
        assert_eq!(found, ["v"]);
    });
}

#[test]
fn a_call_that_never_ends_is_given_up_after_the_time_for_draining() {
    run_paused(async {
        let mut vat = TestVat::with(|config| config.drain_ms = 500).await;
        let wire = vat.wire().await;
        let call = send(
            &wire.probe("p"),
            &[Do::Put("k", "v"), Do::Latch("for ever")],
        );
        vat.controls.reached("for ever").await;
        let before = tokio::time::Instant::now();
        vat.stop().await;
        assert!(before.elapsed() < std::time::Duration::from_secs(10));
        let given_up = call.promise.await.map(drop).unwrap_err();
        assert_eq!(given_up.kind, capnp::ErrorKind::Disconnected, "{given_up}");
        vat.start_again().await;
        let wire = vat.wire().await;
        let found = tell(&wire.probe("p"), &[Do::Get("k")]).await.unwrap();
        assert_eq!(found, ["v"]);
    });
}

#[test]
fn after_a_stop_every_object_is_a_plain_database() {
    run(async {
        let mut vat = TestVat::start().await;
        let wire = vat.wire().await;
        for name in ["a", "b", "c"] {
            tell(&wire.probe(name), &[Do::Put("k", "v")]).await.unwrap();
            let cell = cell(&wire, name);
            cell.put("k", &vec![1; 100_000]).await.unwrap();
            cell.exec("CREATE TABLE t AS SELECT 1 AS x", &[])
                .await
                .unwrap();
        }
        // Capabilities that are still held, and an open cursor, are no reason to leave anything.
        let ear = Ear::default();
        let _handle = cap_of(&wire.probe("a"), &[Do::Hold(ear.client()), Do::Open]).await;
        let open = cell(&wire, "a");
        let _cursor = open.cursor("SELECT x FROM t", &[]).await.unwrap();
        vat.stop().await;
        leaves_plain_databases(&vat, 6);
    });
}

/// There are that many databases, and each is one whole file with pairs in it.
#[track_caller]
fn leaves_plain_databases(vat: &TestVat, count: usize) {
    let files = vat.object_files();
    assert_eq!(files.len(), count, "no -wal, no -shm: {files:?}");
    for file in files {
        assert_eq!(file.extension().unwrap(), "sqlite");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let database = Connection::open_with_flags(&file, flags).unwrap();
        let check: String = database
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(check, "ok");
        let pairs: u32 = database
            .query_row("SELECT count(*) FROM _vw_kv", [], |row| row.get(0))
            .unwrap();
        assert!(pairs > 0);
    }
}

#[test]
fn objects_that_hold_capabilities_of_each_other_do_not_keep_their_databases_open() {
    run_paused(async {
        let mut vat = TestVat::with(|config| config.drain_ms = 500).await;
        let wire = vat.wire().await;
        let (a, b) = (wire.probe("a"), wire.probe("b"));
        for (holder, held) in [(&a, &b), (&b, &a)] {
            let handle = cap_of(held, &[Do::Open]).await.unwrap();
            let handle = sink::Client::new(handle.into_client_hook());
            let script = [Do::Hold(handle), Do::Put("k", "v")];
            tell(holder, &script).await.unwrap();
        }
        settle().await;
        vat.stop().await;
        leaves_plain_databases(&vat, 2);
    });
}

#[test]
fn a_folder_belongs_to_one_vat_at_a_time_and_is_free_after_a_stop() {
    run(async {
        let mut vat = TestVat::start().await;
        let in_use = vatwerk_server::Server::builder()
            .config(vatwerk_server::Config {
                data: vat.data(),
                listen: Some(vec![]),
                ..Default::default()
            })
            .start()
            .await;
        let refused = in_use.err().expect("it is refused").to_string();
        assert!(refused.contains("in use"), "{refused}");
        vat.stop().await;
        vat.start_again().await;
    });
}

#[test]
fn an_open_transaction_does_not_hold_up_a_stop_and_leaves_nothing() {
    run_paused(async {
        let mut vat = TestVat::with(|config| config.drain_ms = 1000).await;
        let wire = vat.wire().await;
        cell(&wire, "c").put("l", b"whole").await.unwrap();
        let tx = cell(&wire, "c").begun().await.unwrap();
        tx.ops.put("k", b"half").await.unwrap();
        vat.stop().await;
        assert_eq!(vat.object_files().len(), 1);
        vat.start_again().await;
        let wire = vat.wire().await;
        assert_eq!(cell(&wire, "c").get("k").await.unwrap(), None);
    });
}
