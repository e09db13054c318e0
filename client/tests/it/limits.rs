//! How long a call may take, and how many may be in flight.

use std::{sync::Arc, time::Duration};

use vatwerk::{Code, counter_capnp::counter, object_capnp::namespace};
use vatwerk_client::Client;

use crate::{
    block_on,
    fake::{FakeVat, World},
    increment,
};

#[test]
fn a_call_that_is_not_answered_in_time_fails_and_its_outcome_is_unknown() {
    let world = Arc::new(World::default());
    let arrivals = world.listen();
    let vat = FakeVat::tcp(&world);
    block_on(async {
        let builder = Client::builder().call_timeout(Duration::from_millis(50));
        let client = builder.connect(&vat.address).await.unwrap();
        let counters = client.namespace::<counter::Client>();
        let error = increment(&counters.get("hang"), 3).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::Disconnected), "{error}");
        assert!(error.to_string().contains("50 ms"), "{error}");
        assert!(error.is_retryable());
        // It had arrived, and was given up.
        assert_eq!(arrivals.recv().unwrap(), 3);
        assert_eq!(arrivals.recv().unwrap(), -1);
        // The connection is as good as before.
        assert_eq!(increment(&counters.get("x"), 7).await.unwrap(), 7);
        assert_eq!(*world.connections.lock().unwrap(), 1);
    });
}

#[test]
fn a_client_waits_for_two_minutes_unless_it_is_told_to_wait_as_long_as_it_takes() {
    let world = Arc::new(World::default());
    let vat = FakeVat::tcp(&world);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let patient = Client::builder().call_timeout(None);
        for (builder, seconds) in [(Client::builder(), 120), (patient, 3600)] {
            let client = builder.connect_local(&vat.address).await.unwrap();
            let hang = client.namespace::<counter::Client>().get("hang");
            // From here on nothing but the clock happens.
            tokio::time::pause();
            let began = tokio::time::Instant::now();
            let call = hang.increment_request().send().promise;
            let _ = tokio::time::timeout(Duration::from_secs(3600), call).await;
            assert_eq!(began.elapsed().as_secs(), seconds);
            tokio::time::resume();
        }
    });
}

#[test]
fn calls_above_the_limit_wait_and_keep_their_order() {
    let world = Arc::new(World::default());
    let vat = FakeVat::tcp(&world);
    block_on(async {
        let builder = Client::builder().calls_in_flight(4);
        let client = builder.connect(&vat.address).await.unwrap();
        let slow = client.namespace::<counter::Client>().get("slow");
        let calls: Vec<_> = (0..200).map(|n| increment(&slow, n)).collect();
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.unwrap(), n as i64);
        }
        let most = world.running.lock().unwrap().1;
        assert!((2..=4).contains(&most), "{most} at once");
        let arrived = world.arrived.lock().unwrap();
        assert_eq!(*arrived, (0..200).collect::<Vec<_>>());
    });
}

#[test]
fn a_call_that_waits_can_be_dropped_and_what_it_would_return_be_called() {
    let world = Arc::new(World::default());
    let vat = FakeVat::tcp(&world);
    block_on(async {
        let builder = Client::builder().calls_in_flight(1);
        let client = builder.connect(&vat.address).await.unwrap();
        let count = client.run(async |local| {
            let counters = local.namespace::<counter::Client>();
            let slow = counters.get("slow");
            let amount = |amount| {
                let mut request = slow.increment_request();
                request.get().set_amount(amount);
                request.send()
            };
            let first = amount(1);
            drop(amount(2));
            let third = amount(3);
            // It waits too, and so does the call on what it returns.
            let namespace: namespace::Client = counters.capability();
            let mut request = namespace.get_by_name_request();
            request.get().set_object_name("x");
            let object = request.send().pipeline.get_object();
            let object = counter::Client {
                client: object.client,
            };
            let calls = [10, 20].map(|amount| {
                let mut request = object.increment_request();
                request.get().set_amount(amount);
                request.send().promise
            });
            first.promise.await?;
            third.promise.await?;
            let mut count = 0;
            for call in calls {
                count = call.await?.get()?.get_count();
            }
            Ok(count)
        });
        assert_eq!(count.await.unwrap(), 30);
        assert_eq!(*world.arrived.lock().unwrap(), [1, 3, 10, 20]);
    });
}

#[test]
fn calls_that_wait_for_room_fail_with_the_connection_and_later_ones_go_through() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vat.sock");
    let world = Arc::new(World::default());
    let arrivals = world.listen();
    let vat = FakeVat::unix(&path, &world);
    block_on(async {
        let builder = Client::builder().calls_in_flight(2);
        let client = builder.connect(&vat.address).await.unwrap();
        let counters = client.namespace::<counter::Client>();
        let hang = counters.get("hang");
        let calls: Vec<_> = (1..=5).map(|n| increment(&hang, n)).collect();
        for expected in [1, 2] {
            assert_eq!(arrivals.recv().unwrap(), expected);
        }
        drop(vat);
        for call in calls {
            let error = call.await.unwrap_err();
            assert_eq!(error.code(), Some(Code::Disconnected), "{error}");
        }
        let _vat = FakeVat::unix(&path, &world);
        assert_eq!(increment(&counters.get("x"), 7).await.unwrap(), 7);
    });
    let mut arrived = world.arrived.lock().unwrap().clone();
    arrived.retain(|amount| *amount > 0);
    assert_eq!(arrived, [1, 2, 7]);
}
