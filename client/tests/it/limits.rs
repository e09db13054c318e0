//! How long a call may take, and how many may be in flight.

use std::{sync::Arc, time::Duration};

use vatwerk::{Code, Delivery, cell_capnp::cell, counter_capnp::counter, object_capnp::namespace};
use vatwerk_client::{Client, Error};

use crate::{
    block_on,
    fake::{FakeVat, World},
    increment, is_itself,
    reconnect::cut_off,
};

#[test]
fn a_call_that_is_not_answered_in_time_fails_and_its_outcome_is_unknown() {
    let world = Arc::new(World::default());
    let arrivals = world.listen();
    let vat = FakeVat::tcp(&world);
    in_paused_time(async |pause| {
        let builder = Client::builder().call_timeout(Duration::from_secs(50));
        let client = builder.connect_local(&vat.address).await.unwrap();
        let counters = client.namespace::<counter::Client>();
        let increment = |name, amount| {
            let mut request = counters.get(name).increment_request();
            request.get().set_amount(amount);
            request.send().promise
        };
        let began = tokio::time::Instant::now();
        let call = increment("hang", 3);
        // It arrives before time is virtual.
        while world.arrived.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        pause();
        let error = Error::from(call.await.err().unwrap());
        assert!(began.elapsed() >= Duration::from_secs(50));
        tokio::time::resume();
        assert_eq!(error.code(), Some(Code::Disconnected), "{error}");
        assert!(error.to_string().contains("50000 ms"), "{error}");
        assert!(error.is_retryable());
        assert_eq!(error.delivery(), Delivery::Unknown);
        // The connection is as good as before, and the call was given up.
        let answer = increment("x", 7).await.unwrap();
        assert_eq!(answer.get().unwrap().get_count(), 7);
        assert_eq!(arrivals.recv().unwrap(), 3);
        assert_eq!(arrivals.recv().unwrap(), -1);
        assert_eq!(*world.connections.lock().unwrap(), 1);
    });
}

#[test]
fn a_client_waits_for_two_minutes_unless_it_is_told_to_wait_as_long_as_it_takes() {
    let world = Arc::new(World::default());
    let vat = FakeVat::tcp(&world);
    let patient = Client::builder().call_timeout(None);
    for (builder, seconds) in [(Client::builder(), Some(120)), (patient, None)] {
        in_paused_time(async |pause| {
            let client = builder.connect_local(&vat.address).await.unwrap();
            let hang = client.namespace::<counter::Client>().get("hang");
            pause();
            let began = tokio::time::Instant::now();
            let call = hang.increment_request().send().promise;
            // A day.
            let ended = tokio::time::timeout(Duration::from_secs(86_400), call).await;
            let took = began.elapsed().as_secs();
            assert_eq!(ended.ok().map(|_| took), seconds);
        });
    }
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
fn calls_that_wait_for_room_when_the_connection_ends_go_through_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vat.sock");
    let world = Arc::new(World::default());
    *world.serves_cell.lock().unwrap() = true;
    let arrivals = world.listen();
    let vat = FakeVat::unix(&path, &world);
    block_on(async {
        let builder = Client::builder().calls_in_flight(2);
        let client = builder.connect(&vat.address).await.unwrap();
        let counters = client.namespace::<counter::Client>();
        let (hang, x) = (counters.get("hang"), counters.get("x"));
        let hanging = [1, 2].map(|n| increment(&hang, n));
        let held: Vec<_> = (3..=5).map(|n| increment(&x, n)).collect();
        // Its parameters are a capability of the connection that ends.
        let cell = client.namespace::<cell::Client>().get("c");
        let passed = is_itself(&cell);
        for expected in [1, 2] {
            assert_eq!(arrivals.recv().unwrap(), expected);
        }
        drop(vat);
        let _vat = FakeVat::unix(&path, &world);
        for call in hanging {
            let error = call.await.unwrap_err();
            assert_eq!(error.code(), Some(Code::Disconnected), "{error}");
            assert_eq!(error.delivery(), Delivery::Unknown, "{error}");
        }
        for (call, sum) in held.into_iter().zip([3, 7, 12]) {
            assert_eq!(call.await.unwrap(), sum);
        }
        assert!(passed.await.unwrap());
    });
    let mut arrived = world.arrived.lock().unwrap().clone();
    arrived.retain(|amount| *amount > 0);
    assert_eq!(arrived, [1, 2, 3, 4, 5]);
}

#[test]
fn a_call_whose_time_is_up_while_it_waits_for_room_is_never_sent() {
    let world = Arc::new(World::default());
    let vat = FakeVat::tcp(&world);
    in_paused_time(async |pause| {
        let builder = Client::builder().calls_in_flight(1);
        let client = builder.connect_local(&vat.address).await.unwrap();
        let counters = client.namespace::<counter::Client>();
        let amount = |name, amount| {
            let mut request = counters.get(name).increment_request();
            request.get().set_amount(amount);
            request.send()
        };
        // It takes all the room, and nobody looks at the time it takes.
        let late = amount("late", 1);
        let held = amount("x", 2);
        // What it would return is wanted after its time is up.
        let mut request = counters.capability().get_by_name_request();
        request.get().set_object_name("x");
        let pipelined = request.send();
        pause();
        let (one, other) = futures::join!(held.promise, pipelined.promise);
        tokio::time::resume();
        for error in [one.err().unwrap(), other.err().unwrap()] {
            assert!(error.extra.contains("within 120000 ms"), "{error}");
            assert!(error.extra.contains("1 calls were in flight"), "{error}");
            assert_eq!(Error::from(error).delivery(), Delivery::NotDelivered);
        }
        // There is room again, and neither is sent.
        world.late.notify_one();
        assert!(amount("x", 7).promise.await.is_ok());
        drop(late);
        let object = pipelined.pipeline.get_object();
        let object = counter::Client {
            client: object.client,
        };
        let error = object.increment_request().send().promise.await;
        let error = Error::from(error.err().unwrap());
        assert_eq!(error.delivery(), Delivery::NotDelivered, "{error}");
        assert_eq!(*world.arrived.lock().unwrap(), [1, 7]);
    });
}

#[test]
fn a_call_that_waited_for_a_connection_leaves_room_though_nobody_awaits_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vat.sock");
    let world = Arc::new(World::default());
    let vat = FakeVat::unix(&path, &world);
    block_on(async {
        let builder = Client::builder().calls_in_flight(2);
        let client = builder.connect(&vat.address).await.unwrap();
        let counters = client.namespace::<counter::Client>();
        cut_off(&counters, &world, vat).await;
        let count = client.run(async |local| {
            let x = local.namespace::<counter::Client>().get("x");
            let increment = |amount| {
                let mut request = x.increment_request();
                request.get().set_amount(amount);
                request.send().promise
            };
            let (kept, last) = ([1, 2].map(increment), increment(3));
            let count = last.await?.get()?.get_count();
            drop(kept);
            Ok(count)
        });
        // The calls are made, and wait, when the thread answers this.
        client.run(async |_| Ok(())).await.unwrap();
        let _vat = FakeVat::unix(&path, &world);
        assert_eq!(count.await.unwrap(), 6);
    });
}

/// Runs a test in which nothing but the clock happens after it has called the function that it is
/// given: time is virtual from then on, until it is resumed.
fn in_paused_time(test: impl AsyncFnOnce(fn())) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test(tokio::time::pause));
}
