//! Calls on one stub arrive in the order they were made.

use crate::{
    probe_capnp::probe,
    support::{Do, TestVat, run, tell},
};

const MANY: u32 = 1000;

fn in_order() -> Vec<u32> {
    (0..MANY).collect()
}

#[test]
fn a_thousand_calls_from_the_wire_that_nobody_awaited() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let probe = wire.probe("orderly");
        let calls = (0..MANY).map(|number| {
            let mut request = probe.arrive_request();
            request.get().set_number(number);
            request.send().promise
        });
        let mut calls: Vec<_> = calls.collect();
        while let Some(last) = calls.pop() {
            last.await.unwrap();
        }
        assert_eq!(vat.controls.arrived(), in_order());
    });
}

#[test]
fn a_thousand_calls_through_the_client_library() {
    run(async {
        let vat = TestVat::start().await;
        let client = vat.client().await;
        let probe: probe::Client = client.namespace().get("orderly");
        let calls = (0..MANY).map(|number| {
            let mut request = probe.arrive_request();
            request.get().set_number(number);
            request.send().promise
        });
        let mut calls: Vec<_> = calls.collect();
        while let Some(last) = calls.pop() {
            last.await.unwrap();
        }
        assert_eq!(vat.controls.arrived(), in_order());
    });
}

#[test]
fn a_thousand_calls_from_object_to_object_awaited_from_the_last_to_the_first() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let burst = Do::Burst("target", MANY, true);
        tell(&wire.probe("source"), &[burst]).await.unwrap();
        assert_eq!(vat.controls.arrived(), in_order());
    });
}

#[test]
fn a_thousand_calls_from_object_to_object_that_nobody_waits_for() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        // After a write, so that all of them queue at the gate too.
        let script = [Do::Put("k", "v"), Do::Burst("target", MANY, false)];
        tell(&wire.probe("source"), &script).await.unwrap();
        // A call of the same object to the same target comes after all of them.
        let last = [Do::Object("target", vec![])];
        tell(&wire.probe("source"), &last).await.unwrap();
        assert_eq!(vat.controls.arrived(), in_order());
    });
}

#[test]
fn streamed_calls_arrive_in_order_and_are_kept() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let probe = wire.probe("stream");
        for number in 0..200 {
            let mut request = probe.stream_request();
            request.get().set_number(number);
            request.send().await.unwrap();
        }
        tell(&probe, &[]).await.unwrap();
        assert_eq!(vat.controls.arrived(), (0..200).collect::<Vec<_>>());
    });
}
