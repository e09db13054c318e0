//! A stub names an object for ever, and costs nothing until it is called.

use capnp::capability::FromClientHook;
use vatwerk::{Code, counter_capnp::counter, object_capnp::stub};

use crate::{
    probe_capnp::probe,
    support::{Do, Proxy, TestVat, Wire, code, run, tell},
};

/// The same capability, as what every stub is.
fn as_stub<C: FromClientHook>(object: &C) -> stub::Client {
    stub::Client::new(object.as_client_hook().add_ref())
}

async fn identify(stub: &stub::Client) -> (Vec<u8>, String, String, u64) {
    let answer = stub.identify_request().send().promise.await.unwrap();
    let answer = answer.get().unwrap();
    (
        answer.get_id().unwrap().to_vec(),
        answer.get_object_name().unwrap().to_string().unwrap(),
        answer.get_class_name().unwrap().to_string().unwrap(),
        answer.get_interface_id(),
    )
}

#[test]
fn from_a_fresh_connection_to_a_result_is_one_round_trip() {
    run(async {
        let vat = TestVat::start().await;
        let proxy = Proxy::to(&vat.socket()).await;
        let wire = Wire::connect(proxy.socket()).await;
        let call = tokio::task::spawn_local({
            let probe = wire.probe("far away");
            async move { tell(&probe, &[Do::Latch("here"), Do::Say("hello")]).await }
        });
        // The method runs while the client has not heard one byte.
        vat.controls.reached("here").await;
        assert_eq!(proxy.answered(), 0);
        vat.controls.release("here");
        proxy.let_answers_through();
        assert_eq!(call.await.unwrap().unwrap(), ["hello"]);
    });
}

#[test]
fn a_call_on_a_stub_that_is_known_is_one_flight() {
    run(async {
        let vat = TestVat::start().await;
        let proxy = Proxy::to(&vat.socket()).await;
        proxy.let_answers_through();
        let wire = Wire::connect(proxy.socket()).await;
        let counter: counter::Client = wire.object("c");
        let first = counter.increment_request().send().promise.await.unwrap();
        assert_eq!(first.get().unwrap().get_count(), 1);
        assert!(proxy.flights() <= 2, "{} flights", proxy.flights());
    });
}

#[test]
fn one_capability_answers_both_the_stub_and_the_class() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let counter: counter::Client = wire.object("both");
        let (_, name, class, interface) = identify(&as_stub(&counter)).await;
        assert_eq!((name.as_str(), class.as_str()), ("both", "Counter"));
        assert_eq!(
            interface,
            <counter::Client as capnp::traits::HasTypeId>::TYPE_ID
        );
        let count = counter.increment_request().send().promise.await.unwrap();
        assert_eq!(count.get().unwrap().get_count(), 1);
    });
}

#[test]
fn a_stub_is_made_without_io_and_identify_does_not_wake() {
    run(async {
        let mut vat = TestVat::start().await;
        let wire = vat.wire().await;
        let probe = wire.probe("asleep");
        identify(&as_stub(&probe)).await;
        let info = wire.session().server_info_request().send();
        let info = info.promise.await.unwrap();
        let resident = info
            .get()
            .unwrap()
            .get_info()
            .unwrap()
            .get_resident_objects();
        assert_eq!(resident, 0);

        vat.stop().await;
        assert!(vat.object_files().is_empty());
    });
}

#[test]
fn a_stub_survives_the_reset_of_its_object() {
    run(async {
        let vat = TestVat::start().await;
        let probe = vat.wire().await;
        let probe = (probe.probe("phoenix"), probe);
        tell(&probe.0, &[Do::Put("k", "kept")]).await.unwrap();
        assert_eq!(code(tell(&probe.0, &[Do::Panic]).await), Code::ObjectReset);
        let said = tell(&probe.0, &[Do::Get("k")]).await.unwrap();
        assert_eq!(said, ["kept"]);
    });
}

#[test]
fn a_stub_of_the_client_library_survives_a_restart_and_a_crash_of_the_vat() {
    run(async {
        let mut vat = TestVat::start().await;
        let client = vat.client().await;
        let probe: probe::Client = client.namespace().get("lasting");
        assert_eq!(tell(&probe, &[Do::Add("n")]).await.unwrap(), ["1"]);
        vat.stop().await;
        vat.start_again().await;
        assert_eq!(tell(&probe, &[Do::Add("n")]).await.unwrap(), ["2"]);
        vat.crash().await;
        vat.start_again().await;
        assert_eq!(tell(&probe, &[Do::Add("n")]).await.unwrap(), ["3"]);
    });
}

async fn save(stub: &stub::Client) -> Vec<u8> {
    let mut request = stub.persist_request();
    request.get().set_label("a test's");
    let answer = request.send().promise.await.unwrap();
    answer.get().unwrap().get_sturdy_ref().unwrap().to_vec()
}

fn restore(wire: &Wire, saved: &[u8]) -> probe::Client {
    let mut request = wire.session().restore_request();
    request.get().set_sturdy_ref(saved);
    let cap = request.send().pipeline.get_cap();
    probe::Client::new(cap.as_cap())
}

async fn forget(wire: &Wire, saved: &[u8]) -> bool {
    let mut request = wire.session().forget_request();
    request.get().set_sturdy_ref(saved);
    let answer = request.send().promise.await.unwrap();
    answer.get().unwrap().get_existed()
}

#[test]
fn a_saved_reference_is_good_after_a_crash_until_it_is_forgotten() {
    run(async {
        let mut vat = TestVat::start().await;
        let wire = vat.wire().await;
        let probe = wire.probe("saved");
        tell(&probe, &[Do::Put("k", "v")]).await.unwrap();
        let saved = save(&as_stub(&probe)).await;
        vat.crash().await;
        vat.start_again().await;

        let wire = vat.wire().await;
        let again = restore(&wire, &saved);
        let (_, name, class, _) = identify(&as_stub(&again)).await;
        assert_eq!((name.as_str(), class.as_str()), ("saved", "Probe"));
        assert_eq!(tell(&again, &[Do::Get("k")]).await.unwrap(), ["v"]);

        assert!(forget(&wire, &saved).await);
        assert!(!forget(&wire, &saved).await);
        let gone = restore(&wire, &saved);
        assert_eq!(code(tell(&gone, &[]).await), Code::NotFound);
        // What was restored before stays good.
        assert_eq!(tell(&again, &[Do::Get("k")]).await.unwrap(), ["v"]);
        assert_eq!(
            code(tell(&restore(&wire, b"made up"), &[]).await),
            Code::NotFound
        );
    });
}

#[test]
fn a_label_of_a_saved_reference_has_a_limit() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let mut request = as_stub(&wire.probe("p")).persist_request();
        request.get().set_label("x".repeat(1025).as_str());
        let refused = request.send().promise.await;
        assert_eq!(code(refused.map(drop)), Code::LimitExceeded);
    });
}
