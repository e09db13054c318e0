//! Ordinary use.

use std::{
    cell::RefCell,
    sync::{Arc, mpsc},
};

use futures::TryStreamExt;
use vatwerk::{Code, ObjectId, cell_capnp::cell, counter_capnp::counter};
use vatwerk_client::{Client, Credential, Error, LocalClient};

use crate::{
    block_on,
    fake::{FakeVat, World},
    increment, is_itself,
};

#[test]
fn a_typed_call_works_over_tcp_and_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let world = Arc::new(World::default());
    let vats = [
        FakeVat::tcp(&world),
        FakeVat::unix(&dir.path().join("vat.sock"), &world),
    ];
    for (i, vat) in vats.iter().enumerate() {
        let count = block_on(async {
            let client = Client::connect(&vat.address).await.unwrap();
            let stub = client.namespace::<counter::Client>().get("user-123");
            increment(&stub, 5).await.unwrap()
        });
        assert_eq!(count, 5 * (i as i64 + 1));
    }
}

#[test]
fn many_threads_share_one_client() {
    let world = Arc::new(World::default());
    let vat = FakeVat::tcp(&world);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let count = runtime.block_on(async {
        let client = Client::connect(&vat.address).await.unwrap();
        let stub = client.namespace::<counter::Client>().get("shared");
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let stub = stub.clone();
                tokio::spawn(async move { increment(&stub, 1).await.unwrap() })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        increment(&stub, 0).await.unwrap()
    });
    assert_eq!(count, 50);
}

#[test]
fn calls_that_are_not_awaited_arrive_in_order() {
    let world = Arc::new(World::default());
    let vat = FakeVat::tcp(&world);
    block_on(async {
        let client = Client::connect(&vat.address).await.unwrap();
        let counters = client.namespace::<counter::Client>();
        // Two stubs of one object are one stub.
        let stubs = [counters.get("ordered"), counters.get("ordered")];
        let calls: Vec<_> = (0..1000)
            .map(|i| increment(&stubs[i % 2], i as i64))
            .collect();
        // The last first: who waits for what makes no difference.
        for call in calls.into_iter().rev() {
            call.await.unwrap();
        }
    });
    let arrived = world.arrived.lock().unwrap();
    assert_eq!(*arrived, (0..1000).collect::<Vec<_>>());
}

#[test]
fn the_rest_of_the_wire_contract_is_there() {
    let world = Arc::new(World::default());
    let vat = FakeVat::tcp(&world);
    block_on(async {
        let client = Client::connect(&vat.address).await.unwrap();
        assert_eq!(client.describe().await.unwrap().version, "1.2.3");
        let classes = client.classes().await.unwrap();
        assert_eq!((&*classes[0].name, classes[0].object_count), ("Counter", 2));

        let counters = client.namespace::<counter::Client>();
        let id = counters.id_from_name("abc").await.unwrap();
        assert_eq!(id, ObjectId([3; 32]));
        let listed: Vec<_> = counters.list("").try_collect().await.unwrap();
        let names: Vec<_> = listed.iter().map(|o| o.name.as_deref().unwrap()).collect();
        assert_eq!(names, ["a", "b", "c", "d", "e"]);

        let mine = counters.restrict("mine-").restrict("mine-too-");
        increment(&mine.get("mine-too-1"), 1).await.unwrap();
        let error = increment(&mine.get("mine-1"), 1).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::PermissionDenied));

        let restored = client.restore::<counter::Client>(b"mine-too-1");
        assert_eq!(increment(&restored, 1).await.unwrap(), 2);

        // By class name, with a call made up at run time.
        let untyped = client.namespace_named("Counter").get("mine-too-1");
        let count = increment(&untyped.cast(), 0).await.unwrap();
        assert_eq!(count, 2);
    });
}

#[test]
fn errors_at_connecting_appear_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nobody.sock");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().to_string();
    drop(free);
    block_on(async {
        for address in [format!("unix:{}", path.display()), port] {
            let error = Client::connect(&address).await.err().unwrap();
            assert!(matches!(error, Error::Connect { .. }), "{error}");
            assert!(error.to_string().contains(&address), "{error}");
        }
        let error = Client::connect("unix:").await.err().unwrap();
        assert!(matches!(error, Error::Address(_)), "{error}");
    });

    let world = Arc::new(World::default());
    *world.token.lock().unwrap() = Some("sesame".to_owned());
    let vat = FakeVat::tcp(&world);
    block_on(async {
        let error = Client::connect(&vat.address).await.err().unwrap();
        assert_eq!(error.code(), Some(Code::Unauthenticated));
        let credential = Credential::Token("sesame".to_owned());
        let client = Client::builder().credential(credential);
        let client = client.connect(&vat.address).await.unwrap();
        let stub = client.namespace::<counter::Client>().get("x");
        increment(&stub, 1).await.unwrap();
    });
}

#[test]
fn a_listener_that_hangs_up_is_no_vat() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let hangs_up = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let error = block_on(Client::connect(&address)).err().unwrap();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    hangs_up.join().unwrap();
}

#[test]
fn a_stub_that_is_passed_back_is_the_vats_own() {
    let world = Arc::new(World::default());
    *world.serves_cell.lock().unwrap() = true;
    let vat = FakeVat::tcp(&world);
    block_on(async {
        let client = Client::connect(&vat.address).await.unwrap();
        let stub = client.namespace::<cell::Client>().get("x");
        for _ in 0..2 {
            assert!(is_itself(&stub).await.unwrap());
        }
        assert!(stub.local().is_err(), "a capability left its thread");
    });
}

#[test]
fn a_class_that_comes_later_is_found_by_the_same_stub() {
    let world = Arc::new(World::default());
    let vat = FakeVat::tcp(&world);
    block_on(async {
        let client = Client::connect(&vat.address).await.unwrap();
        let stub = client.namespace::<cell::Client>().get("x");
        let call = || {
            stub.call(async |cell| {
                use capnp::capability::FromClientHook;
                let storage = cell.cast_to::<vatwerk::storage_capnp::storage::Client>();
                let error = storage.delete_all_request().send().promise.await.err();
                Ok(Error::from(error.unwrap()).code())
            })
        };
        assert_eq!(call().await.unwrap(), Some(Code::NotFound));
        *world.serves_cell.lock().unwrap() = true;
        assert_eq!(call().await.unwrap(), Some(Code::Unimplemented));
    });
    assert_eq!(*world.connections.lock().unwrap(), 1);
}

#[test]
fn dropping_a_call_cancels_it() {
    let world = Arc::new(World::default());
    let arrivals = world.listen();
    let vat = FakeVat::tcp(&world);
    let _client = block_on(async {
        let client = Client::connect(&vat.address).await.unwrap();
        let call = increment(&client.namespace::<counter::Client>().get("hang"), 1);
        assert_eq!(arrivals.recv().unwrap(), 1);
        drop(call);
        client
    });
    assert_eq!(arrivals.recv().unwrap(), -1);
}

#[test]
fn a_panic_in_a_closure_is_the_callers() {
    let world = Arc::new(World::default());
    let vat = FakeVat::tcp(&world);
    block_on(async {
        let client = Client::connect(&vat.address).await.unwrap();
        let stub = client.namespace::<counter::Client>().get("x");
        let panics = tokio::spawn(stub.call::<(), _, _>(async |_| panic!("on purpose")));
        assert!(panics.await.unwrap_err().is_panic());
        increment(&stub, 1).await.unwrap();
    });
}

#[test]
fn the_thread_ends_with_the_last_handle() {
    struct TellsOnDrop(mpsc::Sender<()>);
    impl Drop for TellsOnDrop {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
        }
    }
    thread_local! {
        static ENDS_WITH_THE_THREAD: RefCell<Option<TellsOnDrop>> = const { RefCell::new(None) };
    }

    let world = Arc::new(World::default());
    let vat = FakeVat::tcp(&world);
    let (tell, told) = mpsc::channel();
    let stub = block_on(async {
        let client = Client::connect(&vat.address).await.unwrap();
        let name = client
            .run(async move |_| {
                ENDS_WITH_THE_THREAD.set(Some(TellsOnDrop(tell)));
                Ok(std::thread::current().name().map(str::to_owned))
            })
            .await;
        assert_eq!(name.unwrap().as_deref(), Some("vatwerk-client"));
        client.namespace::<counter::Client>().get("x")
    });
    // Of the handles, only the stub is left, and it keeps the thread.
    block_on(increment(&stub, 1)).unwrap();
    let call = increment(&stub, 1);
    drop(stub);
    // A call under way keeps it too.
    assert_eq!(block_on(call).unwrap(), 2);
    told.recv().unwrap();
}

#[test]
fn one_thread_uses_the_generated_clients_directly() {
    let world = Arc::new(World::default());
    let vat = FakeVat::tcp(&world);
    let local = tokio::task::LocalSet::new();
    block_on(local.run_until(async {
        let client = LocalClient::connect(&vat.address).await.unwrap();
        let counter: counter::Client = client.namespace().get("x");
        // The promise keeps what it needs.
        drop(client);
        let mut request = counter.increment_request();
        drop(counter);
        request.get().set_amount(3);
        let answer = request.send().promise.await.unwrap();
        assert_eq!(answer.get().unwrap().get_count(), 3);
    }));
}
