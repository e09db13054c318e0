//! Objects call objects, and capabilities go where they are sent.

use crate::{
    probe_capnp::probe,
    support::{Do, Ear, Hook, TestVat, cap_of, run, run_paused, said, send, tell},
};

#[test]
fn an_object_calls_objects_of_its_own_and_of_another_class() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let script = [
            Do::Object("q", vec![Do::Put("k", "from p"), Do::Get("k")]),
            Do::Increment("c"),
            Do::Increment("c"),
        ];
        let answer = tell(&wire.probe("p"), &script).await.unwrap();
        assert_eq!(answer, ["from p", "1", "2"]);
        assert_eq!(
            tell(&wire.probe("q"), &[Do::Get("k")]).await.unwrap(),
            ["from p"]
        );
    });
}

#[test]
fn a_calls_b_calls_a_does_not_deadlock() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let back = Do::Object("a", vec![Do::Get("k"), Do::Say("a again")]);
        let script = [
            Do::Put("k", "from a"),
            Do::Object("b", vec![Do::Say("b"), back]),
            Do::Say("a"),
        ];
        let answer = tell(&wire.probe("a"), &script).await.unwrap();
        assert_eq!(answer, ["b", "from a", "a again", "a"]);
    });
}

#[test]
fn an_object_calls_itself_by_name_and_by_its_own_stub() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let probe = wire.probe("me");
        let script = [Do::Put("k", "v"), Do::Object("me", vec![Do::Get("k")])];
        assert_eq!(tell(&probe, &script).await.unwrap(), ["v"]);
        let own = cap_of(&probe, &[Do::Own]).await.unwrap();
        let through = [Do::On(own.clone(), vec![Do::Get("k")])];
        assert_eq!(tell(&probe, &through).await.unwrap(), ["v"]);
        // Its own stub outlives the instance, like any.
        tell(&probe, &[Do::Panic]).await.unwrap_err();
        assert_eq!(tell(&own, &[Do::Get("k")]).await.unwrap(), ["v"]);
        assert_eq!(vat.controls.runs(Hook::Activate, "me"), 2);
    });
}

#[test]
fn a_capability_that_comes_home_is_the_objects_own() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let probe = wire.probe("home");
        let handle = cap_of(&probe, &[Do::Open]).await.unwrap();
        // Called in the same turn as the write: it is not held back by the object's own gate, and
        // does not queue behind the call that calls it.
        vat.hold.hold();
        let script = [
            Do::Put("k", "v"),
            Do::On(handle.clone(), vec![Do::Get("k"), Do::Latch("inside")]),
        ];
        let call = send(&probe, &script);
        vat.controls.reached("inside").await;
        vat.controls.release("inside");
        vat.hold.release();
        let answer = call.promise.await.unwrap();
        assert_eq!(said(answer.get().unwrap()).unwrap(), ["v"]);
        // And it goes out again as what it was.
        let again = cap_of(&probe, &[Do::Pass(handle)]).await.unwrap();
        assert_eq!(tell(&again, &[Do::Get("k")]).await.unwrap(), ["v"]);
    });
}

#[test]
fn stubs_and_handles_pass_as_parameters_and_results_between_objects() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let (a, b) = (wire.probe("a"), wire.probe("b"));
        // A stub as parameter: b calls c, whom it knows only by what it was given.
        let stub = wire.probe("c");
        tell(&b, &[Do::On(stub, vec![Do::Put("k", "c's")])])
            .await
            .unwrap();
        assert_eq!(
            tell(&wire.probe("c"), &[Do::Get("k")]).await.unwrap(),
            ["c's"]
        );
        // A stub as result.
        let gift = cap_of(&a, &[Do::Gift("c")]).await.unwrap();
        assert_eq!(tell(&gift, &[Do::Get("k")]).await.unwrap(), ["c's"]);
        // A handle of a, through the client, to b, which calls it.
        tell(&a, &[Do::Put("k", "a's")]).await.unwrap();
        let handle = cap_of(&a, &[Do::Open]).await.unwrap();
        let script = [Do::On(handle.clone(), vec![Do::Get("k")])];
        assert_eq!(tell(&b, &script).await.unwrap(), ["a's"]);
        // Through b and back to the client: still a's.
        let through = cap_of(&b, &[Do::Pass(handle)]).await.unwrap();
        assert_eq!(tell(&through, &[Do::Get("k")]).await.unwrap(), ["a's"]);
    });
}

#[test]
fn an_object_pipelines_on_what_another_has_not_answered_yet() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let script = [
            Do::Put("own", "write"),
            Do::Chain("q", vec![Do::Put("k", "v"), Do::Open], vec![Do::Get("k")]),
            Do::Chain("q", vec![Do::Gift("r")], vec![Do::Who]),
        ];
        let answer = tell(&wire.probe("p"), &script).await.unwrap();
        assert_eq!((answer[0].as_str(), answer[2].as_str()), ("v", "r"));
    });
}

#[test]
fn a_client_calls_what_an_object_will_return_before_it_has() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let mut call = send(&wire.probe("a"), &[Do::Gift("b")]);
        for next in ["c", "d", "e"] {
            let cap: probe::Client = call.pipeline.get_cap();
            call = send(&cap, &[Do::Gift(next)]);
        }
        let answer = tell(&call.pipeline.get_cap(), &[Do::Who]).await.unwrap();
        assert_eq!(answer[1], "e");
        // Along an error it is that error.
        let failed = send(&wire.probe("a"), &[Do::Fail("no-way: closed")]);
        let piped = tell(&failed.pipeline.get_cap(), &[]).await.unwrap_err();
        assert!(piped.extra.contains("no-way: closed"), "{piped}");
    });
}

#[test]
fn what_is_written_after_set_pipeline_is_looked_at_by_nobody() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let script = [
            Do::Gift("r"),
            Do::Say("early"),
            Do::Early,
            Do::Gift("nobody"),
            Do::Say("late"),
        ];
        // Over the wire, and to another object.
        let here = send(&wire.probe("q"), &script).promise.await.unwrap();
        let there = [Do::Object("q", script.to_vec())];
        let there = send(&wire.probe("p"), &there).promise.await.unwrap();
        for answer in [here, there] {
            let answer = answer.get().unwrap();
            assert_eq!(said(answer).unwrap(), ["early"]);
            let who = tell(&answer.get_cap().unwrap(), &[Do::Who]).await.unwrap();
            assert_eq!(who[1], "r");
        }
        assert_eq!(vat.controls.runs(Hook::Create, "nobody"), 0);
    });
}

#[test]
fn a_callback_of_a_client_that_hung_up_is_an_error_for_the_object_and_nothing_more() {
    run_paused(async {
        let vat = TestVat::start().await;
        let (gone, wire) = (vat.wire().await, vat.wire().await);
        let ear = Ear::default();
        tell(&gone.probe("p"), &[Do::Hold(ear.client())])
            .await
            .unwrap();
        gone.hang_up().await;
        let probe = wire.probe("p");
        let error = tell(&probe, &[Do::TellHeld("anybody?")]).await.unwrap_err();
        assert_eq!(error.kind, capnp::ErrorKind::Disconnected, "{error}");
        assert_eq!(tell(&probe, &[Do::Say("fine")]).await.unwrap(), ["fine"]);
        assert_eq!(vat.controls.runs(Hook::Activate, "p"), 1);
    });
}

#[test]
fn a_panic_of_one_object_is_an_error_for_the_one_that_called_it() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let script = [Do::Object("q", vec![Do::Panic])];
        let error = tell(&wire.probe("p"), &script).await;
        assert_eq!(crate::support::code(error), vatwerk::Code::ObjectReset);
        assert_eq!(vat.controls.runs(Hook::Activate, "p"), 1);
        assert_eq!(vat.controls.runs(Hook::Drop, "p"), 0);
    });
}
