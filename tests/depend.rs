//! A commit never outlives what it was built on, whichever database that is in: when the disk fails
//! between two commits of which the second needs the first, neither has happened.

use std::time::Duration;

use vatwerk::{Code, counter_capnp::counter};
use vatwerk_server::{
    Alarm,
    env::{
        now_ms,
        sim::{Fault, Survival},
    },
    testing::{self, run as run_kit},
};

use crate::support::{
    TestVat, Wire, code,
    disk::{journal_sync, night, vat_on_disk},
    puppet::{self, Client, act, get, put},
    run, run_paused,
};

/// The journal fails once, in both segments that it tries, and works again.
fn fails_once() -> Fault {
    Fault::io_error().when(journal_sync).times(2)
}

async fn increment(wire: &Wire, name: &str) -> capnp::Result<i64> {
    let counter: counter::Client = wire.object(name);
    Ok(counter
        .increment_request()
        .send()
        .promise
        .await?
        .get()?
        .get_count())
}

async fn counters(wire: &Wire) -> usize {
    let mut request = wire.namespace::<counter::Client>().list_request();
    request.get().set_limit(1000);
    let answer = request.send().promise.await.unwrap();
    answer.get().unwrap().get_objects().unwrap().len() as usize
}

#[test]
fn an_object_is_not_made_without_its_entry_in_the_catalog() {
    run_paused(async {
        let (mut vat, mut wire) = vat_on_disk().await;
        vat.disk().fail(fails_once());
        let made = increment(&wire, "newborn").await;
        assert_eq!(code(made), Code::StorageFailed);
        assert_eq!(counters(&wire).await, 0);
        for count in 1..4 {
            assert_eq!(increment(&wire, "newborn").await.unwrap(), count);
            assert_eq!(counters(&wire).await, 1);
            night().await;
            vat.lose_power(Survival::Nothing).await;
            vat.start_again().await;
            wire = vat.wire().await;
            assert_eq!(counters(&wire).await, 1);
        }
    });
}

#[test]
fn an_alarm_is_not_set_without_its_entry_in_the_index() {
    run_kit(async {
        let (vat, p) = puppet::vat().await;
        put(&p, "k", "v").await.unwrap();
        let due = vat.now_ms() + 60_000;
        let set = async || {
            let set = act(&p, async move |own| {
                Ok(own.ctx.alarms()?.set_named("a", &Alarm::at(due))?)
            });
            set.await
        };
        vat.disk().fail(fails_once());
        assert_eq!(code(set().await), Code::StorageFailed);
        vat.lose_power(Survival::Nothing).await;
        assert_eq!(vat.next_alarm::<Client>("p"), None);
        let own = act(&p, async |own| Ok(own.ctx.alarms()?.get_named("a")?)).await;
        assert!(own.unwrap().is_none());
        set().await.unwrap();
        vat.lose_power(Survival::Nothing).await;
        assert_eq!(vat.next_alarm::<Client>("p"), Some(due));
    });
}

#[test]
fn an_object_is_not_unlisted_without_being_deleted() {
    run_kit(async {
        let (vat, p) = puppet::vat().await;
        put(&p, "k", "v").await.unwrap();
        vat.evict::<Client>("p").await;
        vat.advance(Duration::from_secs(5)).await;
        vat.disk().fail(fails_once());
        let deleted = vat.delete::<Client>("p").await;
        assert!(deleted.is_err(), "{deleted:?}");
        for _ in 0..2 {
            assert_eq!(listed(&vat).await, 1);
            assert_eq!(get(&p, "k").await.unwrap().as_deref(), Some("v"));
            vat.lose_power(Survival::Nothing).await;
        }
        assert_eq!(vat.delete::<Client>("p").await, Ok(true));
        assert_eq!(listed(&vat).await, 0);
    });
}

async fn listed(vat: &testing::TestVat) -> u32 {
    let mut request = vat.session().namespace_request();
    request.get().init_key().set_class_name("Puppet");
    let mut request = request.send().pipeline.get_namespace().list_request();
    request.get().set_limit(100);
    let answer = request.send().promise.await.unwrap();
    answer.get().unwrap().get_objects().unwrap().len()
}

/// As in production: between the commit of the catalog and that of the object, which is large, the
/// journal's thread has time enough to fail and to try again.
#[test]
fn with_threads_an_alarm_that_is_acknowledged_is_in_the_index() {
    run(async {
        let mut vat = TestVat::on_disk_with_threads(|_| {}).await;
        let serve = |server: vatwerk_server::Server| server.class::<puppet::Puppet>();
        vat.stop().await;
        vat.start_serving(serve).await.unwrap();
        let wire = vat.wire().await;
        let p: Client = wire.object("p");
        put(&p, "k", "v").await.unwrap();
        vat.disk().fail(fails_once());
        let due = now_ms() + 3_600_000;
        let set = act(&p, async move |own| {
            own.ctx.alarms()?.set_named("a", &Alarm::at(due))?;
            for n in 0..60 {
                let kv = own.ctx.storage().kv();
                kv.put_bytes(&n.to_string(), &[0xAB; 100_000])?;
            }
            Ok(())
        });
        let is_set = set.await.is_ok();
        vat.lose_power(Survival::Nothing).await;
        vat.start_serving(serve).await.unwrap();
        let wire = vat.wire().await;
        assert!(wire.alarms().await.len() >= usize::from(is_set));
        vat.stop().await;
    });
}
