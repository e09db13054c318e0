//! Key-value pairs over the wire.

use vatwerk::Code;

use crate::support::{
    TestVat,
    cell::{Ops, Sink, Span, cell, keys},
    code, run, run_paused, settle,
};

async fn letters(cell: &Ops) {
    let all = [
        ("a", b"1"),
        ("b", b"2"),
        ("c", b"3"),
        ("d", b"4"),
        ("e", b"5"),
    ];
    let all = all.map(|(key, value)| (key, &value[..]));
    cell.put_multiple(&all).await.unwrap();
}

#[test]
fn put_get_and_delete_one() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        assert_eq!(cell.get("k").await.unwrap(), None);
        cell.put("k", b"v").await.unwrap();
        assert_eq!(cell.get("k").await.unwrap().unwrap(), b"v");
        cell.put("k", b"").await.unwrap();
        assert_eq!(cell.get("k").await.unwrap().unwrap(), b"");
        cell.put("", b"the empty key is a key").await.unwrap();
        assert!(cell.get("").await.unwrap().is_some());
        assert!(cell.delete("k").await.unwrap());
        assert!(!cell.delete("k").await.unwrap());
        assert_eq!(cell.get("k").await.unwrap(), None);
    });
}

#[test]
fn put_get_and_delete_several() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        letters(&cell).await;
        let found = cell.get_multiple(&["d", "none", "a", "a"]).await.unwrap();
        assert_eq!(
            found,
            [("a".into(), b"1".to_vec()), ("d".into(), b"4".to_vec())]
        );
        assert_eq!(cell.delete_multiple(&["a", "none", "e"]).await.unwrap(), 2);
        assert_eq!(cell.keys(Span::default()).await, ["b", "c", "d"]);
    });
}

#[test]
fn pairs_are_there_for_the_next_vat_on_the_folder_and_have_a_file() {
    run(async {
        let mut vat = TestVat::start().await;
        let wire = vat.wire().await;
        cell(&wire, "c").put("k", b"v").await.unwrap();
        vat.stop().await;
        assert_eq!(vat.object_files().len(), 1);
        vat.start_again().await;
        let wire = vat.wire().await;
        let found = cell(&wire, "c").get("k").await.unwrap();
        assert_eq!(found.unwrap(), b"v");
    });
}

#[test]
fn a_range_has_bounds_a_direction_and_a_limit() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        letters(&cell).await;
        let all = Span::default();
        let back = Span {
            reverse: true,
            ..all
        };
        let start = |key| Some(key);
        let cases: &[(Span<'_>, &[&str])] = &[
            (all, &["a", "b", "c", "d", "e"]),
            (
                Span {
                    after: start("a"),
                    end: start("d"),
                    ..all
                },
                &["b", "c"],
            ),
            (
                Span {
                    after: start("b"),
                    end: start("d"),
                    ..all
                },
                &["c"],
            ),
            (
                Span {
                    after: start("c"),
                    end: start("d"),
                    ..all
                },
                &[],
            ),
            (
                Span {
                    start: start("b"),
                    limit: Some(2),
                    ..all
                },
                &["b", "c"],
            ),
            // Bounds keep their meaning when the direction is reversed.
            (
                Span {
                    after: start("c"),
                    ..back
                },
                &["e", "d"],
            ),
            (
                Span {
                    start: start("c"),
                    ..back
                },
                &["e", "d", "c"],
            ),
            (
                Span {
                    end: start("c"),
                    ..back
                },
                &["b", "a"],
            ),
            (
                Span {
                    limit: Some(2),
                    ..back
                },
                &["e", "d"],
            ),
            // Empty ranges are no error.
            (
                Span {
                    start: start("d"),
                    end: start("b"),
                    ..all
                },
                &[],
            ),
            (Span { prefix: "z", ..all }, &[]),
            (
                Span {
                    prefix: "c",
                    after: start("c"),
                    ..all
                },
                &[],
            ),
        ];
        for (i, (span, expected)) in cases.iter().enumerate() {
            assert_eq!(cell.keys(*span).await, *expected, "case {i}");
        }
        let refused = cell
            .page(Span {
                limit: Some(0),
                ..all
            })
            .await;
        assert_eq!(code(refused), Code::InvalidArgument);
    });
}

#[test]
fn a_prefix_is_bytes_and_not_a_pattern() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        for key in ["room_1", "roomX1", "room%", "Room_1", "ü1", "ü2"] {
            cell.put(key, b"").await.unwrap();
        }
        let with = |prefix| Span {
            prefix,
            ..Span::default()
        };
        assert_eq!(cell.keys(with("room_")).await, ["room_1"]);
        assert_eq!(cell.keys(with("room%")).await, ["room%"]);
        assert_eq!(cell.keys(with("ü")).await, ["ü1", "ü2"]);
        assert_eq!(cell.keys(with("r")).await, ["room%", "roomX1", "room_1"]);
    });
}

#[test]
fn over_a_limit_nothing_is_stored() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        let (key, value) = ("k".repeat(2048), vec![7; 2 << 20]);
        cell.put(&key, &value).await.unwrap();
        assert_eq!(cell.get(&key).await.unwrap().unwrap().len(), value.len());
        cell.delete(&key).await.unwrap();

        let (long, large) = (key + "k", [value, vec![0]].concat());
        assert_eq!(code(cell.put(&long, b"").await), Code::LimitExceeded);
        assert_eq!(code(cell.put("k", &large).await), Code::LimitExceeded);
        for refused in [
            ("long", (long.as_str(), &b""[..])),
            ("large", ("l", &large)),
        ] {
            let entries = [("first", &b"1"[..]), refused.1, ("last", b"3")];
            let refused_with = code(cell.put_multiple(&entries).await);
            assert_eq!(refused_with, Code::LimitExceeded, "{}", refused.0);
        }
        let many = vec!["k"; 129];
        assert_eq!(code(cell.get_multiple(&many).await), Code::LimitExceeded);
        assert_eq!(code(cell.delete_multiple(&many).await), Code::LimitExceeded);
        let entries = vec![("k", &b"v"[..]); 129];
        assert_eq!(code(cell.put_multiple(&entries).await), Code::LimitExceeded);
        assert!(cell.keys(Span::default()).await.is_empty());
        assert!(cell.get_multiple(&many[..128]).await.is_ok());
    });
}

#[test]
fn several_values_that_do_not_fit_in_a_message_are_over_the_limit() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        let value = vec![1; 2 << 20];
        let names: Vec<_> = (0..9).map(|i| format!("k{i}")).collect();
        for name in &names {
            cell.put(name, &value).await.unwrap();
        }
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        assert_eq!(code(cell.get_multiple(&names).await), Code::LimitExceeded);
        assert_eq!(cell.get_multiple(&names[..3]).await.unwrap().len(), 3);
    });
}

#[test]
fn pages_resume_where_the_last_one_ended_in_both_directions() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        let value = vec![0; 300 << 10];
        let all: Vec<_> = (0..10).map(|i| format!("k{i}")).collect();
        for key in &all {
            cell.put(key, &value).await.unwrap();
        }
        for reverse in [false, true] {
            let (mut read, mut pages) = (Vec::<String>::new(), 0);
            loop {
                let last = read.last().cloned();
                let span = Span {
                    after: last.as_deref().filter(|_| !reverse),
                    end: last.as_deref().filter(|_| reverse),
                    reverse,
                    ..Span::default()
                };
                let (found, more) = cell.page(span).await.unwrap();
                let bytes: usize = found.iter().map(|(_, value)| value.len()).sum();
                assert!(bytes <= 1 << 20);
                read.extend(found.into_iter().map(|(key, _)| key));
                pages += 1;
                if !more {
                    break;
                }
            }
            if reverse {
                read.reverse();
            }
            assert_eq!(read, all);
            assert!(pages > 2);
        }
        // An entry larger than a page is a page of its own.
        cell.put("huge", &vec![0; 2 << 20]).await.unwrap();
        let (found, _) = cell.page(Span::default()).await.unwrap();
        assert_eq!(keys(&found), ["huge"]);
    });
}

#[test]
fn a_list_goes_to_its_sink_in_order_as_fast_as_the_sink_takes_it_and_then_ends() {
    run_paused(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        let value = vec![0; 700 << 10];
        for i in 0..6 {
            cell.put(&format!("k{i}"), &value).await.unwrap();
        }
        let sink = Sink::with_room(0);
        let listing = tokio::task::spawn_local(cell.list(Span::default(), &sink));
        settle().await;
        assert_eq!(sink.batches.borrow().len(), 1);
        assert!(!sink.ended.get());
        // The object does other things meanwhile.
        cell.put("k0", b"changed").await.unwrap();
        sink.room.add_permits(100);
        assert_eq!(listing.await.unwrap().unwrap(), 6);
        assert!(sink.ended.get());
        let found = sink.pairs();
        assert_eq!(keys(&found), ["k0", "k1", "k2", "k3", "k4", "k5"]);

        let back = Sink::with_room(100);
        let span = Span {
            reverse: true,
            limit: Some(4),
            ..Span::default()
        };
        assert_eq!(cell.list(span, &back).await.unwrap(), 4);
        assert_eq!(keys(&back.pairs()), ["k5", "k4", "k3", "k2"]);

        let none = Sink::with_room(100);
        let span = Span {
            prefix: "none",
            ..Span::default()
        };
        assert_eq!(cell.list(span, &none).await.unwrap(), 0);
        assert!(none.ended.get() && none.batches.borrow().is_empty());
    });
}

#[test]
fn delete_all_removes_pairs_and_tables_and_the_next_write_works() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        letters(&cell).await;
        cell.exec("CREATE TABLE t (x)", &[]).await.unwrap();
        let request = cell.storage().delete_all_request();
        request.send().promise.await.unwrap();
        assert!(cell.keys(Span::default()).await.is_empty());
        let gone = cell.exec("SELECT * FROM t", &[]).await;
        assert_eq!(code(gone), Code::SqlFailed);
        cell.put("k", b"v").await.unwrap();
        assert_eq!(cell.keys(Span::default()).await, ["k"]);
    });
}

#[test]
fn sync_returns_when_earlier_writes_are_on_disk() {
    run_paused(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        // Nothing written: at once.
        let storage = cell.storage();
        storage.sync_request().send().promise.await.unwrap();
        vat.hold.hold();
        let write = tokio::task::spawn_local({
            let cell = cell.clone();
            async move { cell.put("k", b"v").await }
        });
        settle().await;
        let sync = storage.sync_request().send();
        let sync = tokio::task::spawn_local(async move { sync.promise.await.map(drop) });
        settle().await;
        assert!(!write.is_finished() && !sync.is_finished());
        vat.hold.release();
        write.await.unwrap().unwrap();
        sync.await.unwrap().unwrap();
    });
}

#[test]
fn a_list_fails_when_its_sink_refuses_a_batch_even_the_last() {
    run_paused(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        let value = vec![0; 700 << 10];
        for entries in 1..=3 {
            cell.put(&format!("k{entries}"), &value).await.unwrap();
            for taken in 0..entries {
                let sink = Sink::with_room(taken);
                let listing = tokio::task::spawn_local(cell.list(Span::default(), &sink));
                settle().await;
                sink.room.close();
                let refused = listing.await.unwrap().unwrap_err();
                assert_eq!(refused.kind, capnp::ErrorKind::Overloaded, "{refused}");
                assert!(refused.extra.contains("the sink is full"), "{refused}");
                assert_eq!(sink.batches.borrow().len(), taken + 1);
                assert!(!sink.ended.get());
            }
        }
    });
}

#[test]
fn a_list_that_its_caller_gives_up_ends_though_its_sink_is_silent() {
    run_paused(async {
        let vat = TestVat::with(|config| config.metrics = "127.0.0.1:0".parse().ok()).await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        cell.put("k", b"v").await.unwrap();
        let sink = Sink::with_room(0);
        let listing = tokio::task::spawn_local(cell.list(Span::default(), &sink));
        settle().await;
        let in_flight = async |calls| {
            let line = format!("\nvatwerk_calls_in_flight {calls}\n");
            vat.metrics().await.contains(&line)
        };
        assert!(in_flight(1).await);
        listing.abort();
        settle().await;
        assert!(in_flight(0).await);
        assert!(!sink.ended.get());
    });
}

#[test]
fn a_sink_whose_owner_hangs_up_ends_the_list_and_nothing_else() {
    run_paused(async {
        let vat = TestVat::start().await;
        let (gone, wire) = (vat.wire().await, vat.wire().await);
        let cell_of = |wire| cell(wire, "c");
        let value = vec![0; 700 << 10];
        for i in 0..6 {
            cell_of(&wire).put(&format!("k{i}"), &value).await.unwrap();
        }
        let sink = Sink::with_room(0);
        let listing = tokio::task::spawn_local(cell_of(&gone).list(Span::default(), &sink));
        settle().await;
        gone.hang_up().await;
        listing.abort();
        settle().await;
        assert!(!sink.ended.get());
        cell_of(&wire).put("k0", b"fine").await.unwrap();
        assert_eq!(cell_of(&wire).keys(Span::default()).await[0], "k0");
    });
}
