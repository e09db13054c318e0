//! What fails says so with a code that arrives, and harms nobody else.

use capnp::{ErrorKind, capability::FromClientHook};
use vatwerk::{Code, counter_capnp::counter};

use crate::{
    probe_capnp::probe,
    support::{
        Do, Hook, TestVat, cap_of, cell::cell, code, log::Log, run, run_paused, send, settle, tell,
    },
};

#[test]
fn an_error_of_a_method_arrives_and_the_object_goes_on_with_its_writes() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        let script = [Do::Put("k", "kept"), Do::Fail("no tea left")];
        let error = tell(&probe, &script).await.unwrap_err();
        assert!(
            error.extra.contains("application-failed: no tea left"),
            "{error}"
        );
        assert_eq!(error.kind, ErrorKind::Failed);
        assert_eq!(tell(&probe, &[Do::Get("k")]).await.unwrap(), ["kept"]);
        assert_eq!(vat.controls.runs(Hook::Activate, "p"), 1);
    });
}

#[test]
fn a_code_of_the_class_arrives_as_it_is_even_through_another_object() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        for script in [
            vec![Do::Fail("out-of-tea: none left")],
            vec![Do::Object("b", vec![Do::Fail("out-of-tea: none left")])],
        ] {
            let error = tell(&probe, &script).await.unwrap_err();
            let text = error.extra.trim_start_matches("remote exception: ");
            assert_eq!(text, "out-of-tea: none left");
        }
        let through = [Do::Object("b", vec![Do::Sql("SELEKT")])];
        assert_eq!(code(tell(&probe, &through).await), Code::ApplicationFailed);
    });
}

#[test]
fn a_panic_in_a_method_resets_that_object_and_nothing_else() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let (probe, other) = (wire.probe("p"), wire.probe("other"));
        let waiting = send(&other, &[Do::Latch("busy"), Do::Say("fine")]);
        let bystander = send(&probe, &[Do::Latch("never")]);
        vat.controls.reached("busy").await;
        vat.controls.reached("never").await;

        let error = tell(&probe, &[Do::Panic]).await.unwrap_err();
        // What it panicked with is for the log, not for callers.
        assert!(!error.extra.contains("told to panic"), "{error}");
        assert_eq!(code::<()>(Err(error)), Code::ObjectReset);
        let bystander = bystander.promise.await.map(drop);
        assert_eq!(code(bystander), Code::ObjectReset);

        vat.controls.release("busy");
        let said = crate::support::said(waiting.promise.await.unwrap().get().unwrap());
        assert_eq!(said.unwrap(), ["fine"]);
        tell(&probe, &[]).await.unwrap();
        assert_eq!(vat.controls.runs(Hook::Activate, "p"), 2);
        assert_eq!(vat.controls.runs(Hook::Activate, "other"), 1);
    });
}

#[test]
fn an_object_that_aborts_is_reset_with_the_reason_and_without_its_turn() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        tell(&probe, &[Do::Put("k", "before")]).await.unwrap();
        let script = [Do::Put("k", "during"), Do::Leave("had enough"), Do::Pause];
        let error = tell(&probe, &script).await.unwrap_err();
        assert!(error.extra.contains("had enough"), "{error}");
        assert_eq!(code::<()>(Err(error)), Code::ObjectReset);
        assert_eq!(tell(&probe, &[Do::Get("k")]).await.unwrap(), ["before"]);
    });
}

#[test]
fn who_waits_when_an_object_aborts_hears_object_reset_and_the_reason() {
    run_paused(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        let running = send(&probe, &[Do::Latch("never")]);
        vat.controls.reached("never").await;
        // Its end waits for the disk, and calls come in meanwhile.
        vat.hold.hold();
        let written = send(&probe, &[Do::Put("k", "v")]);
        let leaving = send(&probe, &[Do::Leave("had enough"), Do::Pause]);
        settle().await;
        let queued = send(&probe, &[Do::Put("k", "too late")]);
        settle().await;
        vat.hold.release();
        written.promise.await.unwrap();
        for call in [running, leaving] {
            let error = call.promise.await.map(drop).unwrap_err();
            assert!(error.extra.contains("had enough"), "{error}");
            assert_eq!(code::<()>(Err(error)), Code::ObjectReset);
        }
        // The call that had not begun is for the next instance.
        queued.promise.await.unwrap();
        assert_eq!(tell(&probe, &[Do::Get("k")]).await.unwrap(), ["too late"]);
    });
}

/// Spoils the database of the only object there is, but for its first pages.
fn spoil(vat: &TestVat) {
    use std::io::{Seek, SeekFrom, Write};
    let files = vat.object_files();
    let mut file = files
        .iter()
        .filter(|file| file.extension().unwrap() == "sqlite");
    let file = file.next().expect("there is an object");
    let mut file = std::fs::File::options().write(true).open(file).unwrap();
    let from = 64 * 1024;
    let rest = file.metadata().unwrap().len().checked_sub(from).unwrap();
    file.seek(SeekFrom::Start(from)).unwrap();
    file.write_all(&vec![0xff; rest as usize]).unwrap();
}

#[test]
fn an_error_of_the_disk_goes_to_the_call_that_met_it_and_not_to_those_not_begun() {
    run_paused(async {
        let mut vat = TestVat::start().await;
        let wire = vat.wire().await;
        let large = "CREATE TABLE t AS WITH RECURSIVE n (i) AS \
                     (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) \
                     SELECT i, hex(zeroblob(1000)) AS x FROM n";
        tell(&wire.probe("p"), &[Do::Sql(large)]).await.unwrap();
        vat.stop().await;
        vat.start_again().await;
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        let running = send(&probe, &[Do::Latch("never")]);
        vat.controls.reached("never").await;
        // Its end waits for the disk, and calls come in meanwhile.
        vat.hold.hold();
        let written = send(&probe, &[Do::Put("k", "v")]);
        settle().await;
        spoil(&vat);
        let failing = send(&probe, &[Do::Sql("SELECT sum(length(x)) FROM t")]);
        settle().await;
        let queued = send(&probe, &[Do::Put("k", "too late")]);
        settle().await;
        vat.hold.release();
        written.promise.await.unwrap();
        let failed = failing.promise.await.map(drop);
        assert_eq!(code(failed), Code::StorageDamaged);
        queued.promise.await.unwrap();
        // Nobody knows how far it got.
        let running = running.promise.await.map(drop);
        assert_eq!(code(running), Code::ObjectReset);
    });
}

#[test]
fn a_database_that_cannot_be_read_is_an_error_and_is_kept() {
    run_paused(async {
        let mut vat = TestVat::start().await;
        let wire = vat.wire().await;
        tell(&wire.probe("p"), &[Do::Put("k", "v")]).await.unwrap();
        vat.stop().await;
        let file = vat.object_files().remove(0);
        let whole = std::fs::read(&file).unwrap();
        let mut spoilt = whole.clone();
        spoilt[4096..].fill(0xff);
        std::fs::write(&file, &spoilt).unwrap();
        vat.start_again().await;
        let wire = vat.wire().await;
        let failed = tell(&wire.probe("p"), &[Do::Get("k")]).await;
        assert_eq!(code(failed), Code::StorageDamaged);
        settle().await;
        assert_eq!(std::fs::read(&file).unwrap(), spoilt);
        // Mended from a backup, it goes on.
        std::fs::write(&file, &whole).unwrap();
        assert_eq!(
            tell(&wire.probe("p"), &[Do::Get("k")]).await.unwrap(),
            ["v"]
        );
    });
}

#[test]
fn a_destructor_that_panics_at_the_end_of_an_instance_leaves_nobody_without_an_answer() {
    run_paused(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        for place in ["self", "result", "call", "parameter"] {
            let probe = wire.probe(place);
            let script = match place {
                "parameter" => {
                    let given = cap_of(&wire.probe("giver"), &[Do::Mine("result")]).await;
                    vec![Do::Latch(place), Do::Pass(given.unwrap())]
                }
                _ => vec![Do::Mine(place), Do::Latch(place)],
            };
            let others = [send(&probe, &script), send(&probe, &[Do::Latch(place)])];
            let held = cap_of(&probe, &[Do::Mine("result")]).await.unwrap();
            drop(script);
            vat.controls.reached(place).await;
            settle().await;

            assert_eq!(code(tell(&probe, &[Do::Panic]).await), Code::ObjectReset);
            for call in others {
                let reset = call.promise.await.map(drop);
                assert_eq!(code(reset), Code::ObjectReset, "{place}");
            }
            assert_eq!(tell(&probe, &[Do::Say("new")]).await.unwrap(), ["new"]);
            assert_eq!(vat.controls.runs(Hook::Activate, place), 2);
            assert_eq!(code(tell(&held, &[]).await), Code::ObjectReset);
        }
        assert_eq!(vat.controls.runs(Hook::Activate, "giver"), 1);
    });
}

#[test]
fn a_destructor_that_panics_when_a_client_lets_go_harms_nobody() {
    run_paused(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        let held = cap_of(&probe, &[Do::Mine("result")]).await.unwrap();
        drop(held);
        settle().await;
        assert_eq!(tell(&probe, &[Do::Say("well")]).await.unwrap(), ["well"]);
        assert_eq!(vat.controls.runs(Hook::Activate, "p"), 1);
    });
}

#[test]
fn what_a_class_does_not_have_is_unimplemented() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        let method = probe.later_request().send().promise.await.map(drop);
        assert_eq!(code(method), Code::Unimplemented);
        let other = counter::Client::new(wire.probe("q").into_client_hook());
        let interface = other.get_request().send().promise.await.map(drop);
        let error = interface.unwrap_err();
        // It says what was asked of whom, and did not wake it.
        assert!(error.extra.contains("Probe"), "{error}");
        assert_eq!(code::<()>(Err(error)), Code::Unimplemented);
        assert_eq!(vat.controls.runs(Hook::Activate, "q"), 0);
    });
}

#[test]
fn an_unknown_class_is_not_found_and_the_error_lists_those_there_are() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let mut request = wire.session().namespace_request();
        request.get().init_key().set_class_name("Kounter");
        let error = request.send().promise.await.map(drop).unwrap_err();
        for text in ["`Kounter`", "Cell", "Counter", "Probe"] {
            assert!(error.extra.contains(text), "{error}");
        }
        assert_eq!(code::<()>(Err(error)), Code::NotFound);

        let mut request = wire.session().namespace_request();
        request.get().init_key().set_interface_id(0xdead_beef);
        let refused = request.send().promise.await.map(drop);
        assert_eq!(code(refused), Code::NotFound);
    });
}

#[test]
fn a_vat_without_classes_says_that_it_serves_none() {
    let registry = vatwerk_server::object::Registry::default();
    let error = registry.by_name("Counter").map(drop).unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert!(error.to_string().contains("none"), "{error}");
}

#[test]
fn a_token_is_not_good_where_none_is_configured() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let mut request = wire.vat.authenticate_request();
        request.get().init_credential().set_token("guess");
        let session = request.send();
        // What was pipelined on the session fails for the same reason.
        let pipelined = session.pipeline.get_session().classes_request().send();
        assert_eq!(code(session.promise.await.map(drop)), Code::Unauthenticated);
        let pipelined = pipelined.promise.await.map(drop);
        assert_eq!(code(pipelined), Code::Unauthenticated);
    });
}

#[test]
fn every_error_keeps_its_code_its_kind_and_its_words_on_the_wire() {
    use vatwerk_server::{Error, StatementLimit};
    let cases = [
        (Error::InvalidArgument("w".into()), Code::InvalidArgument),
        (Error::NotFound("w".into()), Code::NotFound),
        (
            Error::LimitExceeded {
                what: "w",
                limit: 1,
                actual: 2,
            },
            Code::LimitExceeded,
        ),
        (
            Error::SqlLimit {
                what: "w",
                limit: 1,
                key: "k",
            },
            Code::LimitExceeded,
        ),
        (
            Error::StatementTimeout {
                limit_ms: 1,
                set_by: StatementLimit::Vat,
            },
            Code::LimitExceeded,
        ),
        (Error::Unauthenticated("w"), Code::Unauthenticated),
        (Error::PermissionDenied("w".into()), Code::PermissionDenied),
        (Error::SqlRefused("w".into()), Code::SqlRefused),
        (Error::SqlFailed("w".into()), Code::SqlFailed),
        (Error::Closed("w"), Code::Closed),
        (Error::ActivationFailed("w".into()), Code::ActivationFailed),
        (
            Error::Raised {
                code: Code::ApplicationFailed,
                text: "w".into(),
            },
            Code::ApplicationFailed,
        ),
        (Error::Unimplemented("w".into()), Code::Unimplemented),
        (Error::ObjectReset("w".into()), Code::ObjectReset),
        (Error::ShuttingDown, Code::ShuttingDown),
        (
            Error::Overloaded {
                what: "w",
                limit: 1,
            },
            Code::Overloaded,
        ),
        (Error::StorageFailed("w".into()), Code::StorageFailed),
        (Error::StorageDamaged("w".into()), Code::StorageDamaged),
        (Error::OutcomeUnknown("w".into()), Code::OutcomeUnknown),
        (
            Error::Raised {
                code: Code::Internal,
                text: "w".into(),
            },
            Code::Internal,
        ),
    ];
    for (error, expected) in cases {
        let words = error.to_string();
        let mut wire = capnp::Error::from(error);
        // Two hops.
        wire.extra = format!("remote exception: remote exception: {}", wire.extra);
        assert_eq!(wire.kind, expected.kind());
        let back = vatwerk_client::Error::from(wire);
        assert_eq!(back.code(), Some(expected));
        assert_eq!(back.to_string(), format!("{expected}: {words}"));
    }
}

#[test]
fn an_error_of_a_class_reaches_a_user_of_the_client_library_with_its_code() {
    run(async {
        let vat = TestVat::start().await;
        let client = vat.client().await;
        let probe: probe::Client = client.namespace().get("p");
        let error = tell(&probe, &[Do::Sql("PRAGMA journal_mode")]).await;
        let error = vatwerk_client::Error::from(error.unwrap_err());
        assert_eq!(error.code(), Some(Code::ApplicationFailed));
        assert!(!error.is_retryable());
        let error = tell(&probe, &[Do::Panic]).await.unwrap_err();
        let error = vatwerk_client::Error::from(error);
        assert_eq!(error.code(), Some(Code::ObjectReset));
        assert!(error.is_retryable());
    });
}

#[test]
fn what_fails_inside_an_object_is_told_outside_in_words_that_reveal_nothing() {
    run(async {
        let vat = TestVat::start().await;
        let log = Log::keep();
        let wire = vat.wire().await;
        let probe = wire.probe("p");
        let told = "application-failed: the object failed; the vat's log says why";
        for _ in 0..3 {
            for script in [
                vec![Do::Sql("SELECT secret FROM hidden")],
                vec![Do::Object("b", vec![Do::Sql("SELECT secret FROM hidden")])],
            ] {
                let error = tell(&probe, &script).await.unwrap_err();
                let text = error.extra.trim_start_matches("remote exception: ");
                assert_eq!(text, told);
            }
        }
        // Once for each object that runs it.
        assert_eq!(log.count("no such table: hidden"), 2);
        assert_eq!(log.count("a call failed inside its object"), 2);
        // Whoever wrote the SQL sees what is wrong with it.
        let cell = cell(&wire, "c");
        let error = cell.exec("SELECT * FROM mine", &[]).await.err().unwrap();
        assert!(error.extra.contains("no such table: mine"), "{error}");
        assert_eq!(code::<()>(Err(error)), Code::SqlFailed);
        assert_eq!(log.count("no such table: mine"), 0);
    });
}
