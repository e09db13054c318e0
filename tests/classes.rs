//! What a class defines, and when it runs.

use capnp::traits::HasTypeId;
use futures::future::join_all;
use vatwerk::{CODE_GENERATOR_REQUEST, Code, Delivery, cell_capnp::cell, counter_capnp::counter};
use vatwerk_server::{Class, Context, ServeError};

use crate::{
    probe_capnp::probe,
    support::{Do, Hook, Mood, SCHEMA, TestVat, code, run, run_paused, send, settle, tell},
};

#[test]
fn create_runs_once_and_activate_each_time() {
    run(async {
        let mut vat = TestVat::start().await;
        for _ in 0..3 {
            let wire = vat.wire().await;
            tell(&wire.probe("p"), &[Do::Put("k", "v")]).await.unwrap();
            vat.stop().await;
            vat.start_again().await;
        }
        assert_eq!(vat.controls.runs(Hook::Create, "p"), 1);
        assert_eq!(vat.controls.runs(Hook::Activate, "p"), 3);
        assert_eq!(vat.controls.runs(Hook::Drop, "p"), 3);
    });
}

#[test]
fn calls_wait_in_order_while_create_and_activate_run_alone() {
    run_paused(async {
        let vat = TestVat::start().await;
        for hook in [Hook::Create, Hook::Activate] {
            let latch = if hook == Hook::Create { "c" } else { "a" };
            vat.controls.set_mood(hook, "p", Some(Mood::Latch(latch)));
        }
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        let calls: Vec<_> = (0..3)
            .map(|number| {
                let mut request = probe.arrive_request();
                request.get().set_number(number);
                request.send().promise
            })
            .collect();
        vat.controls.reached("c").await;
        settle().await;
        assert!(vat.controls.arrived().is_empty());
        vat.controls.release("c");
        vat.controls.reached("a").await;
        settle().await;
        assert!(vat.controls.arrived().is_empty());
        vat.controls.release("a");
        join_all(calls).await;
        assert_eq!(vat.controls.arrived(), [0, 1, 2]);
        // What `create` wrote is there for the first call.
        assert_eq!(tell(&probe, &[Do::Get("created")]).await.unwrap(), ["yes"]);
    });
}

#[test]
fn two_first_calls_at_once_wake_one_instance() {
    run(async {
        let vat = TestVat::start().await;
        let (one, other) = (vat.wire().await, vat.wire().await);
        let calls = [&one, &other].map(|wire| {
            let probe = wire.probe("p");
            async move { tell(&probe, &[Do::Who]).await.unwrap() }
        });
        let ids = join_all(calls).await;
        assert_eq!(ids[0], ids[1]);
        assert_eq!(vat.controls.runs(Hook::Create, "p"), 1);
        assert_eq!(vat.controls.runs(Hook::Activate, "p"), 1);
    });
}

#[test]
fn a_failed_create_leaves_nothing_and_the_next_call_tries_again() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let (probe, other) = (wire.probe("p"), wire.probe("other"));
        tell(&other, &[]).await.unwrap();
        let moods = [
            (Mood::Fail("no tea"), Code::ActivationFailed),
            (Mood::Panic, Code::ObjectReset),
        ];
        for (i, (mood, expected)) in moods.into_iter().enumerate() {
            vat.controls.set_mood(Hook::Create, "p", Some(mood));
            let calls = [send(&probe, &[Do::Say("x")]), send(&probe, &[])];
            for call in join_all(calls.map(|call| call.promise)).await {
                assert_eq!(code(call.map(drop)), expected);
            }
            assert_eq!(vat.controls.runs(Hook::Activate, "p"), 0);
            assert!(vat.controls.runs(Hook::Create, "p") > i as u32);
        }
        // Others, and the connection, go on as before.
        tell(&other, &[Do::Put("k", "v")]).await.unwrap();

        vat.controls.set_mood(Hook::Create, "p", None);
        let said = tell(&probe, &[Do::Get("created")]).await.unwrap();
        assert_eq!(said, ["yes"]);
        assert_eq!(vat.controls.runs(Hook::Activate, "other"), 1);
    });
}

#[test]
fn the_error_of_create_and_activate_keeps_its_words_its_code_and_its_kind() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let failed = |text: &str| capnp::Error::failed(text.into());
        let cases = [
            (
                failed("no tea"),
                "activation-failed: the object does not wake; the vat's log says why",
            ),
            (
                failed("sql-failed: no such table: tea"),
                "activation-failed: the object does not wake; the vat's log says why",
            ),
            (failed("not-found: no tea"), "not-found: no tea"),
            (
                capnp::Error::overloaded("no tea".into()),
                "overloaded: no tea",
            ),
            (
                capnp::Error::overloaded("overloaded: no tea".into()),
                "overloaded: no tea",
            ),
        ];
        for (i, (error, arrives)) in cases.into_iter().enumerate() {
            let name = i.to_string();
            for hook in [Hook::Create, Hook::Activate] {
                let mood = Mood::Raise(error.clone());
                vat.controls.set_mood(hook, &name, Some(mood));
                let error = tell(&wire.probe(&name), &[]).await.unwrap_err();
                let text = error.extra.trim_start_matches("remote exception: ");
                let (text, delivery) = Delivery::split(text);
                assert_eq!(text, arrives, "{hook:?}");
                assert_eq!(delivery, Some(Delivery::NotDelivered));
                // With the kind of its code.
                code::<()>(Err(error));
                vat.controls.set_mood(hook, &name, None);
            }
        }
    });
}

#[test]
fn a_failed_activate_keeps_what_is_stored_and_the_next_call_tries_again() {
    run(async {
        let mut vat = TestVat::start().await;
        let wire = vat.wire().await;
        tell(&wire.probe("p"), &[Do::Put("k", "v")]).await.unwrap();
        vat.stop().await;
        vat.start_again().await;
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        let moods = [
            (Mood::Fail("not now"), Code::ActivationFailed),
            (Mood::Panic, Code::ObjectReset),
        ];
        for (mood, expected) in moods {
            vat.controls.set_mood(Hook::Activate, "p", Some(mood));
            assert_eq!(code(tell(&probe, &[]).await), expected);
        }
        vat.controls.set_mood(Hook::Activate, "p", None);
        assert_eq!(tell(&probe, &[Do::Get("k")]).await.unwrap(), ["v"]);
        assert_eq!(vat.controls.runs(Hook::Create, "p"), 1);
    });
}

#[test]
fn an_activation_that_takes_too_long_fails_and_lets_callers_go() {
    run_paused(async {
        let vat = TestVat::with(|config| config.limits.activation_ms = 500).await;
        vat.controls
            .set_mood(Hook::Activate, "p", Some(Mood::Latch("stuck")));
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        assert_eq!(code(tell(&probe, &[]).await), Code::ActivationFailed);
        vat.controls.set_mood(Hook::Activate, "p", None);
        tell(&probe, &[]).await.unwrap();
    });
}

#[test]
fn a_class_sees_its_binding_its_id_and_its_name() {
    run(async {
        let vat = TestVat::start().await;
        vat.controls.set_greeting("hello from outside");
        let wire = vat.wire().await;
        let said = tell(&wire.probe("me"), &[Do::Greeting, Do::Who]).await;
        let said = said.unwrap();
        assert_eq!(said[0], "hello from outside");
        assert_eq!(said[1].len(), 64);
        assert_eq!(said[2], "me");
    });
}

/// A class that has the interface of another.
struct Usurper;

impl Class for Usurper {
    const NAME: &'static str = "Usurper";
    const SCHEMA: &'static [u8] = CODE_GENERATOR_REQUEST;
    type Client = counter::Client;

    async fn activate(_: Context) -> capnp::Result<Self> {
        Ok(Usurper)
    }
}

impl counter::Server for Usurper {}

/// A class that has the name of another.
struct Namesake;

impl Class for Namesake {
    const NAME: &'static str = "Counter";
    const SCHEMA: &'static [u8] = SCHEMA;
    type Client = probe::Client;

    async fn activate(_: Context) -> capnp::Result<Self> {
        Ok(Namesake)
    }
}

impl probe::Server for Namesake {}

/// A class whose schema is another one's.
struct Blank;

impl Class for Blank {
    const NAME: &'static str = "Blank";
    const SCHEMA: &'static [u8] = CODE_GENERATOR_REQUEST;
    type Client = probe::Client;

    async fn activate(_: Context) -> capnp::Result<Self> {
        Ok(Blank)
    }
}

impl probe::Server for Blank {}

#[test]
fn classes_that_do_not_fit_together_do_not_start_and_the_error_names_both() {
    run(async {
        use vatwerk_server::classes::Counter;
        let mut vat = TestVat::start().await;
        vat.stop().await;

        let same_interface = vat
            .start_serving(|server| server.class::<Counter>().class::<Usurper>())
            .await
            .unwrap_err();
        assert!(matches!(same_interface, ServeError::Classes(_)));
        let text = same_interface.to_string();
        assert!(
            text.contains("`Counter`") && text.contains("`Usurper`"),
            "{text}"
        );

        let same_name = vat
            .start_serving(|server| server.class::<Counter>().class::<Namesake>())
            .await
            .unwrap_err()
            .to_string();
        let ids = [counter::Client::TYPE_ID, probe::Client::TYPE_ID];
        let ids = ids.map(|id| format!("{id:#018x}"));
        assert!(same_name.contains("`Counter`"), "{same_name}");
        assert!(ids.iter().all(|id| same_name.contains(id)), "{same_name}");

        let no_schema = vat
            .start_serving(|server| server.class::<Blank>())
            .await
            .unwrap_err()
            .to_string();
        assert!(no_schema.contains("`Blank`"), "{no_schema}");
    });
}

#[test]
fn a_vat_lists_its_classes_and_describes_them() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        for name in ["one", "two"] {
            let make = [Do::Put("k", "v")];
            tell(&wire.probe(name), &make).await.unwrap();
        }
        let classes = wire.session().classes_request().send().promise.await;
        let classes = classes.unwrap();
        let classes = classes.get().unwrap().get_classes().unwrap();
        let listed: Vec<_> = classes
            .iter()
            .map(|class| {
                let name = class.get_class_name().unwrap().to_string().unwrap();
                (name, class.get_interface_id(), class.get_object_count())
            })
            .collect();
        let expected = [
            ("Cell", cell::Client::TYPE_ID, 0),
            ("Counter", counter::Client::TYPE_ID, 0),
            ("Probe", probe::Client::TYPE_ID, 2),
        ];
        assert_eq!(
            listed,
            expected.map(|(name, id, n)| (name.to_owned(), id, n))
        );

        // The description has the methods of every class, in order, by name.
        let described = wire.vat.describe_request().send().promise.await.unwrap();
        let described = described.get().unwrap();
        assert!(!described.get_version().unwrap().is_empty());
        let bytes = described.get_code_generator_request().unwrap();
        let request =
            capnp::serialize::read_message(bytes, capnp::message::ReaderOptions::new()).unwrap();
        use capnp::schema_capnp::{code_generator_request, node};
        let request = request
            .get_root::<code_generator_request::Reader>()
            .unwrap();
        let nodes = request.get_nodes().unwrap();
        let methods = |id| {
            let node = nodes.iter().find(|node| node.get_id() == id).unwrap();
            let Ok(node::Interface(interface)) = node.which() else {
                panic!("an interface")
            };
            let methods = interface.get_methods().unwrap();
            let name = |it: capnp::schema_capnp::method::Reader<'_>| {
                it.get_name().unwrap().to_string().unwrap()
            };
            methods.iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(
            methods(counter::Client::TYPE_ID),
            ["increment", "get", "reset"]
        );
        assert_eq!(
            methods(probe::Client::TYPE_ID),
            ["run", "arrive", "stream", "later"]
        );
        assert!(methods(cell::Client::TYPE_ID).is_empty());
    });
}
