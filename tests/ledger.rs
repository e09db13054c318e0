//! Which classes may be served from a folder that others were served from.

use rusqlite::Connection;
use vatwerk_server::{Class, Context, Server, classes::Counter};

use crate::{
    probe_capnp::probe,
    support::{Do, Hook, Probe, TestVat, run, tell},
};

const HOUR_MS: u64 = 3_600_000;

/// The class of the tests, with an interface that is not compatible.
struct Changed;

impl Class for Changed {
    const NAME: &'static str = "Probe";
    const SCHEMA: &'static [u8] = include_bytes!("support/changed.cgr");
    type Client = probe::Client;

    async fn activate(_: Context) -> capnp::Result<Self> {
        Ok(Changed)
    }
}

impl probe::Server for Changed {}

async fn refused(vat: &mut TestVat, classes: fn(Server) -> Server) -> String {
    let refused = vat.start_serving(classes).await;
    refused.expect_err("it must not start").to_string()
}

#[test]
fn a_class_with_objects_is_missed_until_it_is_retired_or_put_back() {
    run(async {
        let mut vat = TestVat::start().await;
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        let script = [Do::Increment("x"), Do::Increment("y"), Do::Alarm(HOUR_MS)];
        tell(&probe, &script).await.unwrap();
        vat.stop().await;

        let error = refused(&mut vat, |server| server.class::<Probe>()).await;
        for said in ["Counter", "2", "--retire Counter", "0xb8f725b103f79538"] {
            assert!(error.contains(said), "{error}");
        }
        let error = refused(&mut vat, |server| {
            server.class::<Probe>().class::<Counter>().retire("Counter")
        });
        assert!(error.await.contains("while it is served"));
        let error = refused(&mut vat, |server| server.class::<Probe>().retire("Teapot"));
        assert!(error.await.contains("Teapot"));

        // Once is enough. The alarms of what is retired are not run.
        let retired: fn(Server) -> Server = |server| {
            let server = server.class::<Counter>();
            server.retire("Probe")
        };
        vat.start_serving(retired).await.unwrap();
        assert!(vat.wire().await.alarms().await.is_empty());
        vat.stop().await;
        vat.start_serving(|server| server.class::<Counter>())
            .await
            .unwrap();
        vat.stop().await;

        vat.start_again().await;
        let wire = vat.wire().await;
        assert_eq!(wire.alarms().await, ["p"]);
        let probe = wire.probe("p");
        let count = tell(&probe, &[Do::Increment("x")]).await.unwrap();
        assert_eq!(count, ["2"]);
    });
}

#[test]
fn an_interface_that_would_misunderstand_its_callers_is_refused() {
    run(async {
        let mut vat = TestVat::start().await;
        let wire = vat.wire().await;
        tell(&wire.probe("p"), &[Do::Put("k", "v")]).await.unwrap();
        vat.stop().await;
        let changed: fn(Server) -> Server = |s| s.class::<Changed>().class::<Counter>();
        let error = refused(&mut vat, changed).await;
        assert!(error.contains("Probe.stream (@2) was removed"), "{error}");
        // Nothing has happened.
        vat.start_again().await;
        let wire = vat.wire().await;
        let found = tell(&wire.probe("p"), &[Do::Get("k")]).await.unwrap();
        assert_eq!(found, ["v"]);
    });
}

#[test]
fn an_index_of_alarms_that_is_lost_is_made_from_objects_own_records() {
    run(async {
        let mut vat = TestVat::start().await;
        let wire = vat.wire().await;
        for (name, after_ms) in [("later", 2 * HOUR_MS), ("soon", HOUR_MS)] {
            tell(&wire.probe(name), &[Do::Alarm(after_ms)])
                .await
                .unwrap();
        }
        tell(&wire.probe("never"), &[Do::Say("x")]).await.unwrap();
        vat.stop().await;
        let catalog = Connection::open(vat.data().join("catalog.sqlite")).unwrap();
        catalog.execute_batch("DROP TABLE alarms").unwrap();
        catalog.close().unwrap();
        vat.start_again().await;
        assert_eq!(vat.wire().await.alarms().await, ["soon", "later"]);
        assert_eq!(
            vat.controls.runs(Hook::Activate, "soon"),
            1,
            "nobody is woken"
        );
    });
}
