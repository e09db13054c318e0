//! An object's id is its class's interface and its name, for ever.

use std::collections::HashSet;

use capnp::capability::FromClientHook;
use vatwerk::{
    CODE_GENERATOR_REQUEST, Code, ObjectId,
    cell_capnp::cell,
    counter_capnp::counter,
    object_capnp::{namespace, stub},
};
use vatwerk_server::{Class, Context};

use crate::{
    probe_capnp::probe,
    support::{Do, Hook, Mood, TestVat, Wire, code, run, run_paused, send, settle, tell},
};

async fn id_of(space: &namespace::Client, name: &str) -> capnp::Result<Vec<u8>> {
    let mut request = space.id_from_name_request();
    request.get().set_object_name(name);
    Ok(request.send().promise.await?.get()?.get_id()?.to_vec())
}

async fn parse(space: &namespace::Client, text: &str) -> capnp::Result<Vec<u8>> {
    let mut request = space.id_from_string_request();
    request.get().set_text(text);
    Ok(request.send().promise.await?.get()?.get_id()?.to_vec())
}

async fn get(space: &namespace::Client, id: &[u8]) -> capnp::Result<stub::Client> {
    let mut request = space.get_request();
    request.get().set_id(id);
    request.send().promise.await?.get()?.get_object()
}

async fn get_existing(space: &namespace::Client, id: &[u8]) -> capnp::Result<stub::Client> {
    let mut request = space.get_existing_request();
    request.get().set_id(id);
    request.send().promise.await?.get()?.get_object()
}

async fn by_name(space: &namespace::Client, name: &str) -> capnp::Result<stub::Client> {
    let mut request = space.get_by_name_request();
    request.get().set_object_name(name);
    request.send().promise.await?.get()?.get_object()
}

fn narrow(space: &namespace::Client, prefix: &str) -> namespace::Client {
    let mut request = space.restrict_request();
    request.get().set_prefix(prefix);
    request.send().pipeline.get_namespace()
}

/// One page of a listing: the names, and where the next page starts.
async fn page(
    space: &namespace::Client,
    prefix: &str,
    after: &str,
    limit: u32,
) -> capnp::Result<(Vec<String>, String)> {
    let mut request = space.list_request();
    request.get().set_prefix(prefix);
    request.get().set_after(after);
    request.get().set_limit(limit);
    let page = request.send().promise.await?;
    let page = page.get()?;
    let name = |it: vatwerk::object_capnp::object_info::Reader<'_>| {
        assert_eq!(it.get_id()?.len(), ObjectId::LEN);
        assert!(it.get_created_ms() > 0);
        Ok(it.get_object_name()?.to_string()?)
    };
    let names = page.get_objects()?.iter().map(name);
    Ok((
        names.collect::<capnp::Result<_>>()?,
        page.get_next()?.to_string()?,
    ))
}

#[test]
fn an_id_is_stable_and_64_hexadecimal_digits() {
    run(async {
        let mut vat = TestVat::start().await;
        let space = vat.wire().await;
        let before = id_of(&space.namespace::<probe::Client>(), "a")
            .await
            .unwrap();
        vat.stop().await;
        vat.start_again().await;
        let wire = vat.wire().await;
        let space = wire.namespace::<probe::Client>();
        assert_eq!(id_of(&space, "a").await.unwrap(), before);

        let text = ObjectId::try_from(&before[..]).unwrap().to_string();
        assert_eq!(text.len(), 64);
        assert!(
            text.bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        );
        assert_eq!(parse(&space, &text).await.unwrap(), before);
        // The object itself sees the same id, and the name it was called by.
        let said = tell(&wire.probe("a"), &[Do::Who]).await.unwrap();
        assert_eq!(said, [text.as_str(), "a"]);
        assert_ne!(id_of(&space, "b").await.unwrap(), before);
    });
}

#[test]
fn one_name_in_two_classes_is_two_objects_and_a_foreign_id_is_refused() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let (probes, counters) = (
            wire.namespace::<probe::Client>(),
            wire.namespace::<counter::Client>(),
        );
        let (ours, theirs) = (
            id_of(&probes, "same").await.unwrap(),
            id_of(&counters, "same").await.unwrap(),
        );
        assert_ne!(ours, theirs);
        let text = ObjectId::try_from(&theirs[..]).unwrap().to_string();
        assert_eq!(code(get(&probes, &theirs).await), Code::InvalidArgument);
        assert_eq!(
            code(get_existing(&probes, &theirs).await),
            Code::InvalidArgument
        );
        assert_eq!(code(parse(&probes, &text).await), Code::InvalidArgument);
    });
}

#[test]
fn a_malformed_id_or_name_is_refused() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let space = wire.namespace::<probe::Client>();
        for bytes in [&[][..], &[0; 31], &[0; 32], &[0xff; 33], &[7; 4096]] {
            assert_eq!(code(get(&space, bytes).await), Code::InvalidArgument);
        }
        let long = "ab".repeat(100_000);
        let zeros = "0".repeat(64);
        for text in ["", "xyz", "../../etc/passwd", &zeros, &long] {
            assert_eq!(code(parse(&space, text).await), Code::InvalidArgument);
        }
        assert_eq!(code(by_name(&space, "").await), Code::InvalidArgument);
        let longest = "n".repeat(1024);
        assert!(by_name(&space, &longest).await.is_ok());
        assert_eq!(
            code(by_name(&space, &(longest + "n")).await),
            Code::LimitExceeded
        );
        assert!(vat.object_files().is_empty());
    });
}

#[test]
fn a_name_is_a_name_and_not_a_path() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        for name in ["../../../escaped", "/etc/x", "a\0b", "ü%_*", "."] {
            let probe = wire.probe(name);
            tell(&probe, &[Do::Put("k", "v")]).await.unwrap();
            assert_eq!(tell(&probe, &[Do::Who]).await.unwrap()[1], name);
        }
        let below = vat.data().join("objects");
        assert!(
            vat.object_files()
                .iter()
                .all(|file| file.starts_with(&below))
        );
    });
}

#[test]
fn unique_ids_never_repeat_and_have_no_name() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let space = wire.namespace::<probe::Client>();
        let mut seen = HashSet::new();
        for _ in 0..100 {
            let answer = space.new_unique_id_request().send().promise.await.unwrap();
            seen.insert(answer.get().unwrap().get_id().unwrap().to_vec());
        }
        assert_eq!(seen.len(), 100);
        let id = seen.iter().next().unwrap();
        let object = get(&space, id).await.unwrap();
        let object = probe::Client::new(object.into_client_hook());
        assert_eq!(tell(&object, &[Do::Who]).await.unwrap()[1], "-");
    });
}

#[test]
fn only_an_object_that_has_come_into_being_exists() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let space = wire.namespace::<probe::Client>();
        let id = id_of(&space, "later").await.unwrap();
        assert_eq!(code(get_existing(&space, &id).await), Code::NotFound);
        tell(&wire.probe("later"), &[Do::Put("k", "v")])
            .await
            .unwrap();
        let found = get_existing(&space, &id).await.unwrap();
        let found = probe::Client::new(found.into_client_hook());
        assert_eq!(tell(&found, &[Do::Get("k")]).await.unwrap(), ["v"]);
    });
}

#[test]
fn an_object_whose_create_did_not_succeed_is_nowhere() {
    run_paused(async {
        let vat = TestVat::with(|config| config.limits.activation_ms = 500).await;
        let wire = vat.wire().await;
        let space = wire.namespace::<probe::Client>();
        let probe = wire.probe("p");
        let id = id_of(&space, "p").await.unwrap();
        let moods = [
            (Mood::Latch("for ever"), Code::ActivationFailed),
            (Mood::Fail("no tea"), Code::ActivationFailed),
            (Mood::Panic, Code::ObjectReset),
        ];
        for (mood, expected) in moods {
            vat.controls.set_mood(Hook::Create, "p", Some(mood));
            // `create` has ended a turn in which it wrote, and would notice what is left of that.
            assert_eq!(code(tell(&probe, &[]).await), expected);
            settle().await;
            assert!(page(&space, "", "", 10).await.unwrap().0.is_empty());
            assert_eq!(code(get_existing(&space, &id).await), Code::NotFound);
            assert!(vat.object_files().is_empty(), "{:?}", vat.object_files());
        }
        vat.controls.set_mood(Hook::Create, "p", None);
        tell(&probe, &[Do::Put("k", "v")]).await.unwrap();
        assert_eq!(page(&space, "", "", 10).await.unwrap().0, ["p"]);
        assert!(get_existing(&space, &id).await.is_ok());
    });
}

/// The object of that name, by its id alone.
async fn without_a_name(space: &namespace::Client, name: &str) -> probe::Client {
    let id = id_of(space, name).await.unwrap();
    let object = get(space, &id).await.unwrap();
    probe::Client::new(object.into_client_hook())
}

#[test]
fn an_object_that_is_awake_takes_the_name_it_is_called_by() {
    run(async {
        let mut vat = TestVat::start().await;
        let wire = vat.wire().await;
        let space = wire.namespace::<probe::Client>();
        let by_id = without_a_name(&space, "late").await;
        let made = [Do::Who, Do::Put("k", "v")];
        assert_eq!(tell(&by_id, &made).await.unwrap()[1], "-");
        assert_eq!(page(&space, "", "", 10).await.unwrap().0, [""]);
        let named = tell(&wire.probe("late"), &[Do::Who]).await.unwrap();
        assert_eq!(named[1], "late");
        assert_eq!(vat.controls.runs(Hook::Activate, "-"), 1);
        assert_eq!(page(&space, "", "", 10).await.unwrap().0, ["late"]);
        // And it keeps it.
        vat.crash().await;
        vat.start_again().await;
        let wire = vat.wire().await;
        let space = wire.namespace::<probe::Client>();
        let by_id = without_a_name(&space, "late").await;
        assert_eq!(tell(&by_id, &[Do::Who]).await.unwrap()[1], "late");
        assert_eq!(page(&space, "", "", 10).await.unwrap().0, ["late"]);
    });
}

#[test]
fn an_object_that_fails_to_be_made_is_not_listed_for_having_been_called_by_name() {
    run_paused(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let space = wire.namespace::<probe::Client>();
        let by_id = without_a_name(&space, "never").await;
        let mood = Mood::LatchAndFail("create");
        vat.controls.set_mood(Hook::Create, "-", Some(mood));
        let first = send(&by_id, &[]);
        vat.controls.reached("create").await;
        let second = send(&wire.probe("never"), &[]);
        settle().await;
        vat.controls.release("create");
        for call in [first, second] {
            let failed = call.promise.await.map(drop);
            assert_eq!(code(failed), Code::ActivationFailed);
        }
        settle().await;
        assert!(page(&space, "", "", 10).await.unwrap().0.is_empty());
        assert!(vat.object_files().is_empty());
    });
}

/// Puts cells into the catalog, as if they had been called: that many calls take minutes on some
/// disks.
fn note_cells(catalog: &std::path::Path, names: &[String]) {
    let class = <cell::Client as capnp::traits::HasTypeId>::TYPE_ID;
    let ids = vatwerk_server::id::IdScheme::new(class);
    let mut catalog = rusqlite::Connection::open(catalog).unwrap();
    let all = catalog.transaction().unwrap();
    for name in names {
        let id = ids.of_name(name).unwrap();
        all.execute(
            "INSERT INTO objects (class, id, name, created_ms) VALUES (?, ?, ?, 1)",
            rusqlite::params![class.cast_signed(), id.as_bytes(), name],
        )
        .unwrap();
    }
    all.commit().unwrap();
}

#[test]
fn a_listing_pages_through_any_number_of_objects_unnamed_last() {
    run(async {
        let mut vat = TestVat::start().await;
        vat.stop().await;
        // `_` and `%` stand for themselves in a prefix.
        let rooms: Vec<_> = (0..2500).map(|i| format!("room_{i:04}")).collect();
        note_cells(&vat.data().join("catalog.sqlite"), &rooms);
        vat.start_again().await;
        let wire = vat.wire().await;
        let cells = wire.namespace::<cell::Client>();
        // `X` comes before `_`.
        let mut names = vec!["roomX1".to_owned()];
        names.extend(rooms);
        names.push("zoo".into());
        for name in ["zoo", "roomX1", "room_0007"] {
            crate::support::cell::cell(&wire, name)
                .put("k", b"v")
                .await
                .unwrap();
        }
        for _ in 0..3 {
            let id = cells.new_unique_id_request().send().promise.await.unwrap();
            let cell = get(&cells, id.get().unwrap().get_id().unwrap())
                .await
                .unwrap();
            use vatwerk::storage_capnp::operations;
            let cell = operations::Client::new(cell.into_client_hook());
            let mut put = cell.put_request();
            put.get().set_key("k");
            put.send().promise.await.unwrap();
        }

        let (mut all, mut after, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let (some, next) = page(&cells, "", &after, 1000).await.unwrap();
            all.extend(some);
            pages += 1;
            if next.is_empty() {
                break;
            }
            after = next;
        }
        assert_eq!(pages, 3);
        let (named, unnamed) = all.split_at(2502);
        assert!(named == names, "the names, each once, in order");
        assert_eq!(unnamed, ["", "", ""]);

        let (some, next) = page(&cells, "room_00", "", 70).await.unwrap();
        assert_eq!(some, names[1..71]);
        let (rest, end) = page(&cells, "room_00", &next, 70).await.unwrap();
        assert_eq!(rest, names[71..101]);
        assert!(end.is_empty());
        assert_eq!(page(&cells, "roomX", "", 10).await.unwrap().0, ["roomX1"]);
        assert!(page(&cells, "none", "", 10).await.unwrap().0.is_empty());
        for limit in [0, 1001] {
            let refused = page(&cells, "", "", limit).await;
            assert_eq!(code(refused), Code::InvalidArgument);
        }
        let refused = page(&cells, "", "made up", 10).await;
        assert_eq!(code(refused), Code::InvalidArgument);
    });
}

#[test]
fn a_narrowed_namespace_reaches_only_what_starts_with_its_prefix() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let space = wire.namespace::<probe::Client>();
        for name in ["team-a/1", "team-a/2", "team-b/1"] {
            let make = [Do::Put("k", "v")];
            tell(&wire.probe(name), &make).await.unwrap();
        }
        let id = id_of(&space, "team-a/1").await.unwrap();
        let narrow_a = narrow(&space, "team-a/");
        assert!(by_name(&narrow_a, "team-a/1").await.is_ok());
        assert_eq!(
            code(by_name(&narrow_a, "team-b/1").await),
            Code::PermissionDenied
        );
        assert_eq!(code(get(&narrow_a, &id).await), Code::PermissionDenied);
        assert_eq!(
            code(get_existing(&narrow_a, &id).await),
            Code::PermissionDenied
        );
        let (names, _) = page(&narrow_a, "", "", 10).await.unwrap();
        assert_eq!(names, ["team-a/1", "team-a/2"]);
        assert!(
            page(&narrow_a, "team-b/", "", 10)
                .await
                .unwrap()
                .0
                .is_empty()
        );
        // Narrower still is fine; wider is not.
        let narrower = narrow(&narrow_a, "team-a/2");
        assert_eq!(page(&narrower, "", "", 10).await.unwrap().0, ["team-a/2"]);
        assert_eq!(
            code(by_name(&narrow(&narrow_a, "team-"), "team-b/1").await),
            Code::PermissionDenied
        );
    });
}

/// What `Counter` is called after somebody has renamed everything but its interface.
struct Tally(Context);

impl Class for Tally {
    const NAME: &'static str = "Tally";
    const SCHEMA: &'static [u8] = CODE_GENERATOR_REQUEST;
    type Client = counter::Client;

    async fn activate(ctx: Context) -> capnp::Result<Self> {
        Ok(Tally(ctx))
    }
}

impl counter::Server for Tally {
    async fn get(
        self: std::rc::Rc<Self>,
        _: counter::GetParams,
        mut results: counter::GetResults,
    ) -> capnp::Result<()> {
        let count = self.0.storage().kv().get("count")?.unwrap_or(0);
        results.get().set_count(count);
        Ok(())
    }
}

async fn count(wire: &Wire, name: &str) -> capnp::Result<i64> {
    let counter: counter::Client = wire.object(name);
    let answer = counter.get_request().send().promise.await?;
    Ok(answer.get()?.get_count())
}

#[test]
fn a_class_that_was_renamed_finds_its_objects() {
    run(async {
        let mut vat = TestVat::start().await;
        let wire = vat.wire().await;
        let counter: counter::Client = wire.object("old friend");
        let mut request = counter.increment_request();
        request.get().set_amount(41);
        request.send().promise.await.unwrap();
        let id = id_of(&wire.namespace::<counter::Client>(), "old friend").await;
        vat.stop().await;

        vat.start_serving(|server| server.class::<Tally>())
            .await
            .unwrap();
        let wire = vat.wire().await;
        assert_eq!(count(&wire, "old friend").await.unwrap(), 41);
        let space = wire.namespace::<counter::Client>();
        assert_eq!(id_of(&space, "old friend").await.unwrap(), id.unwrap());
        assert_eq!(page(&space, "", "", 10).await.unwrap().0, ["old friend"]);
    });
}
