//! When an object sleeps, and that nobody notices.

use std::time::Duration;

use tokio::time::sleep;
use vatwerk_server::Config;

use crate::support::{
    Do, Ear, Hook, TestVat, Wire, cap_of, run, run_paused, said, send, settle, tell,
};

fn short_idle(config: &mut Config) {
    config.limits.idle_ms = 1000;
}

async fn residents(wire: &Wire) -> u64 {
    let info = wire.session().server_info_request().send();
    let info = info.promise.await.unwrap();
    let info = info.get().unwrap().get_info().unwrap();
    info.get_resident_objects()
}

#[test]
fn an_idle_object_falls_asleep_and_wakes_with_its_state() {
    run_paused(async {
        let vat = TestVat::with(short_idle).await;
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        tell(&probe, &[Do::Put("k", "v")]).await.unwrap();
        assert_eq!(residents(&wire).await, 1);
        sleep(Duration::from_millis(1500)).await;
        assert_eq!(residents(&wire).await, 0);
        assert_eq!(vat.controls.runs(Hook::Drop, "p"), 1);
        assert_eq!(tell(&probe, &[Do::Get("k")]).await.unwrap(), ["v"]);
        assert_eq!(vat.controls.runs(Hook::Activate, "p"), 2);
        assert_eq!(vat.controls.runs(Hook::Create, "p"), 1);
    });
}

#[test]
fn calls_keep_an_object_awake() {
    run_paused(async {
        let vat = TestVat::with(short_idle).await;
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        for _ in 0..5 {
            tell(&probe, &[]).await.unwrap();
            sleep(Duration::from_millis(700)).await;
        }
        assert_eq!(vat.controls.runs(Hook::Activate, "p"), 1);
    });
}

#[test]
fn an_object_does_not_sleep_while_a_call_runs() {
    run_paused(async {
        let vat = TestVat::with(short_idle).await;
        let wire = vat.wire().await;
        let call = send(&wire.probe("p"), &[Do::Latch("l"), Do::Say("done")]);
        vat.controls.reached("l").await;
        sleep(Duration::from_secs(10)).await;
        vat.controls.release("l");
        let answer = call.promise.await.unwrap();
        assert_eq!(said(answer.get().unwrap()).unwrap(), ["done"]);
        assert_eq!(vat.controls.runs(Hook::Activate, "p"), 1);
    });
}

#[test]
fn an_object_does_not_sleep_while_somebody_holds_a_capability_of_it() {
    run_paused(async {
        let vat = TestVat::with(short_idle).await;
        let wire = vat.wire().await;
        let handle = cap_of(&wire.probe("p"), &[Do::Open]).await.unwrap();
        sleep(Duration::from_secs(10)).await;
        assert_eq!(residents(&wire).await, 1);
        assert_eq!(tell(&handle, &[Do::Say("still")]).await.unwrap(), ["still"]);
        drop(handle);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(residents(&wire).await, 0);
        assert_eq!(vat.controls.runs(Hook::Activate, "p"), 1);
    });
}

#[test]
fn a_client_that_hangs_up_lets_go_of_what_it_held() {
    run_paused(async {
        let vat = TestVat::with(short_idle).await;
        let (wire, watching) = (vat.wire().await, vat.wire().await);
        let handle = cap_of(&wire.probe("p"), &[Do::Open]).await.unwrap();
        sleep(Duration::from_secs(5)).await;
        assert_eq!(residents(&watching).await, 1);
        wire.hang_up().await;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(residents(&watching).await, 0);
        drop(handle);
    });
}

#[test]
fn a_capability_of_an_instance_that_is_gone_says_so() {
    run_paused(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        let handle = cap_of(&probe, &[Do::Open]).await.unwrap();
        tell(&probe, &[Do::Panic]).await.unwrap_err();
        settle().await;
        let gone = tell(&handle, &[Do::Say("hello?")]).await;
        assert_eq!(crate::support::code(gone), vatwerk::Code::ObjectReset);
    });
}

#[test]
fn what_an_object_keeps_of_others_does_not_keep_it_awake_and_is_let_go() {
    run_paused(async {
        let vat = TestVat::with(short_idle).await;
        let wire = vat.wire().await;
        let ear = Ear::default();
        tell(&wire.probe("p"), &[Do::Hold(ear.client())])
            .await
            .unwrap();
        tell(&wire.probe("p"), &[Do::TellHeld("still here")])
            .await
            .unwrap();
        assert_eq!(ear.heard(), ["still here"]);
        sleep(Duration::from_secs(3)).await;
        assert_eq!(residents(&wire).await, 0);
        assert_eq!(vat.controls.runs(Hook::Drop, "p"), 1);
    });
}

#[test]
fn above_the_limit_the_least_recently_used_go_first() {
    run(async {
        let vat = TestVat::with(|config| config.limits.resident_objects = 8).await;
        let wire = vat.wire().await;
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        for name in names {
            tell(&wire.probe(name), &[Do::Put("k", name)])
                .await
                .unwrap();
        }
        // `a` is used once more, so `b` is the one that goes.
        tell(&wire.probe("a"), &[]).await.unwrap();
        tell(&wire.probe("new"), &[]).await.unwrap();
        while vat.controls.runs(Hook::Drop, "b") == 0 {
            tell(&wire.probe("new"), &[]).await.unwrap();
        }
        assert_eq!(vat.controls.runs(Hook::Drop, "a"), 0);
        assert!(residents(&wire).await <= 8);
        for name in names {
            let found = tell(&wire.probe(name), &[Do::Get("k")]).await.unwrap();
            assert_eq!(found, [name]);
        }
    });
}

#[test]
fn above_the_limit_those_that_others_hold_on_to_stay_and_there_is_room_for_new_ones() {
    run_paused(async {
        let vat = TestVat::with(|config| config.limits.resident_objects = 4).await;
        let wire = vat.wire().await;
        let pinned = ["a", "b", "c", "d"];
        let mut handles = Vec::new();
        for name in pinned {
            let handle = cap_of(&wire.probe(name), &[Do::Open]).await.unwrap();
            handles.push(handle);
        }
        // Those are the least recently used, but they could not go.
        for i in 0..20 {
            tell(&wire.probe(&format!("new {i}")), &[]).await.unwrap();
            settle().await;
        }
        for (name, handle) in pinned.iter().zip(&handles) {
            assert_eq!(tell(handle, &[Do::Say(name)]).await.unwrap(), [*name]);
            assert_eq!(vat.controls.runs(Hook::Activate, name), 1);
        }
        assert!(residents(&wire).await <= 8);
    });
}
