//! When the connection is gone.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    rc::Rc,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use vatwerk::{
    Code,
    cell_capnp::cell,
    counter_capnp::counter,
    storage_capnp::{entry_sink, operations},
};
use vatwerk_client::{Client, Error, Namespace};

use crate::{
    block_on,
    fake::{FakeVat, World},
    increment, is_itself,
};

/// Kills the vat and waits until the client knows of it, as a call in flight tells.
pub async fn cut_off(counters: &Namespace<counter::Client>, world: &World, vat: FakeVat) {
    let arrivals = world.listen();
    let call = increment(&counters.get("hang"), 1);
    arrivals.recv().unwrap();
    drop(vat);
    let error = call.await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Disconnected), "{error}");
}

#[test]
fn the_same_stub_works_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vat.sock");
    let world = Arc::new(World::default());
    let mut vat = FakeVat::unix(&path, &world);
    block_on(async {
        let client = Client::connect(&vat.address).await.unwrap();
        let counters = client.namespace::<counter::Client>();
        let stub = counters.get("x");
        for i in 1..=3 {
            assert_eq!(increment(&stub, 1).await.unwrap(), i);
            cut_off(&counters, &world, vat).await;
            vat = FakeVat::unix(&path, &world);
        }
        assert_eq!(client.classes().await.unwrap().len(), 1);
    });
}

#[test]
fn a_client_may_try_to_connect_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vat.sock");
    let world = Arc::new(World::default());
    let vat = FakeVat::unix(&path, &world);
    block_on(async {
        let builder = Client::builder().connect_timeout(Duration::MAX);
        let builder = builder.call_timeout(Duration::MAX);
        let client = builder.connect(&vat.address).await.unwrap();
        let counters = client.namespace::<counter::Client>();
        cut_off(&counters, &world, vat).await;
        let call = increment(&counters.get("x"), 7);
        let _vat = FakeVat::unix(&path, &world);
        assert_eq!(call.await.unwrap(), 7);
    });
}

#[test]
fn calls_in_flight_fail_and_the_next_one_goes_through() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vat.sock");
    let world = Arc::new(World::default());
    let arrivals = world.listen();
    let vat = FakeVat::unix(&path, &world);
    block_on(async {
        let client = Client::connect(&vat.address).await.unwrap();
        let counters = client.namespace::<counter::Client>();
        let hang = counters.get("hang");
        let calls = [increment(&hang, 1), increment(&hang, 2)];
        arrivals.recv().unwrap();
        arrivals.recv().unwrap();
        drop(vat);
        for call in calls {
            let error = call.await.unwrap_err();
            assert_eq!(error.code(), Some(Code::Disconnected), "{error}");
            assert!(error.is_retryable());
        }
        let _vat = FakeVat::unix(&path, &world);
        assert_eq!(increment(&counters.get("x"), 7).await.unwrap(), 7);
    });
    // Nothing was repeated.
    assert_eq!(*world.arrived.lock().unwrap(), [1, 2, 7]);
}

#[test]
fn calls_that_wait_for_a_connection_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vat.sock");
    let world = Arc::new(World::default());
    let vat = FakeVat::unix(&path, &world);
    block_on(async {
        let client = Client::connect(&vat.address).await.unwrap();
        let stub = client.namespace::<counter::Client>().get("x");
        increment(&stub, 0).await.unwrap();
        drop(vat);
        let mut calls: Vec<_> = (1..100).map(|i| increment(&stub, i)).collect();
        // The thread has taken them when it answers this.
        client.run(async |_| Ok(())).await.unwrap();
        let _vat = FakeVat::unix(&path, &world);
        calls.extend((100..200).map(|i| increment(&stub, i)));
        let mut lost = 0;
        for call in calls {
            // Those that were sent before the client saw the end of the connection are lost.
            lost += i64::from(call.await.is_err());
        }
        let arrived = world.arrived.lock().unwrap();
        assert_eq!(arrived[0], 0);
        assert_eq!(arrived[1..], (1 + lost..200).collect::<Vec<_>>());
    });
}

#[test]
fn a_stub_can_be_passed_back_in_a_call_that_waits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vat.sock");
    let world = Arc::new(World::default());
    *world.serves_cell.lock().unwrap() = true;
    let vat = FakeVat::unix(&path, &world);
    block_on(async {
        let client = Client::connect(&vat.address).await.unwrap();
        cut_off(&client.namespace::<counter::Client>(), &world, vat).await;
        let stub = client.namespace::<cell::Client>().get("x");
        let calls: Vec<_> = (0..3).map(|_| is_itself(&stub)).collect();
        client.run(async |_| Ok(())).await.unwrap();
        let _vat = FakeVat::unix(&path, &world);
        for call in calls {
            assert!(call.await.unwrap());
        }
    });
}

#[test]
fn an_object_that_is_reset_does_not_cost_the_connection() {
    let world = Arc::new(World::default());
    let vat = FakeVat::tcp(&world);
    block_on(async {
        let client = Client::connect(&vat.address).await.unwrap();
        let counters = client.namespace::<counter::Client>();
        let reset = counters.get("reset");
        for _ in 0..3 {
            let error = increment(&reset, 1).await.unwrap_err();
            assert_eq!(error.code(), Some(Code::ObjectReset));
            assert!(error.is_retryable());
        }
        increment(&counters.get("x"), 1).await.unwrap();
    });
    assert_eq!(*world.connections.lock().unwrap(), 1);
}

#[test]
fn a_vat_that_stays_away_is_an_error_in_bounded_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vat.sock");
    let world = Arc::new(World::default());
    let vat = FakeVat::unix(&path, &world);
    block_on(async {
        let client = Client::builder().connect_timeout(Duration::from_millis(100));
        let client = client.connect(&vat.address).await.unwrap();
        let counters = client.namespace::<counter::Client>();
        cut_off(&counters, &world, vat).await;
        let stub = counters.get("x");
        for _ in 0..2 {
            let error = increment(&stub, 1).await.unwrap_err();
            assert!(error.to_string().contains("cannot connect"), "{error}");
            assert_eq!(error.code(), Some(Code::Disconnected));
        }
        let _vat = FakeVat::unix(&path, &world);
        increment(&stub, 1).await.unwrap();
    });
}

/// One connection through a proxy that lets nothing come back until it is told to.
fn proxy_one_way(listener: UnixListener, to: &Path) -> (mpsc::Sender<()>, thread::JoinHandle<()>) {
    let (let_back, held) = mpsc::channel();
    let to = to.to_owned();
    let proxy = thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let vat = UnixStream::connect(to).unwrap();
        let (client2, vat2) = (client.try_clone().unwrap(), vat.try_clone().unwrap());
        let there = thread::spawn(move || pump(client2, vat2));
        let _ = held.recv();
        pump(vat, client);
        there.join().unwrap();
    });
    (let_back, proxy)
}

fn pump(mut from: UnixStream, mut to: UnixStream) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

#[test]
fn from_no_connection_to_an_answer_is_one_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let (front, back) = (dir.path().join("front.sock"), dir.path().join("back.sock"));
    let world = Arc::new(World::default());
    let first = FakeVat::unix(&front, &world);
    block_on(async {
        let client = Client::connect(&first.address).await.unwrap();
        let counters = client.namespace::<counter::Client>();
        cut_off(&counters, &world, first).await;
        let arrivals = world.listen();

        let _vat = FakeVat::unix(&back, &world);
        std::fs::remove_file(&front).unwrap();
        let (let_back, proxy) = proxy_one_way(UnixListener::bind(&front).unwrap(), &back);
        let call = increment(&counters.get("x"), 5);
        // It arrives although not one byte has come back.
        assert_eq!(arrivals.recv().unwrap(), 5);
        let_back.send(()).unwrap();
        assert_eq!(call.await.unwrap(), 5);
        drop((client, counters));
        proxy.join().unwrap();
    });
}

#[test]
fn calls_do_not_hang_when_the_rpc_task_panics() {
    struct PanickingSink;
    impl entry_sink::Server for PanickingSink {
        async fn write(self: Rc<Self>, _: entry_sink::WriteParams) -> capnp::Result<()> {
            panic!("on purpose");
        }
    }

    let world = Arc::new(World::default());
    *world.serves_cell.lock().unwrap() = true;
    let vat = FakeVat::tcp(&world);
    block_on(async {
        let client = Client::connect(&vat.address).await.unwrap();
        let stub = client.namespace::<cell::Client>().get("x");
        let error = stub.call(async |cell| {
            use capnp::capability::FromClientHook;
            let mut request = cell.cast_to::<operations::Client>().list_request();
            request.get().set_sink(capnp_rpc::new_client(PanickingSink));
            let error = request.send().promise.await.err();
            Ok(Error::from(error.unwrap()).code())
        });
        assert_eq!(error.await.unwrap(), Some(Code::Disconnected));
        assert_eq!(client.classes().await.unwrap().len(), 1);
    });
    assert_eq!(*world.connections.lock().unwrap(), 2);
}
