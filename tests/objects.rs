//! What an operator sees of objects and their alarms, and the end of an object.

use std::time::Duration;

use tokio::{task::spawn_local, time::sleep};
use vatwerk::{
    Code, ObjectId,
    counter_capnp::counter,
    object_capnp::{ObjectState, namespace},
};
use vatwerk_client::{Client, ObjectInfo, ObjectKey, ObjectStatus, Page};
use vatwerk_server::Config;

use crate::{
    probe_capnp::probe,
    support::{Do, Hook, Mood, TestVat, cap_of, cell, code, run, run_paused, send, settle, tell},
};

const HOUR_MS: u64 = 3_600_000;

fn short_idle(config: &mut Config) {
    config.limits.idle_ms = 1000;
}

fn narrow(space: &namespace::Client, prefix: &str) -> namespace::Client {
    let mut request = space.restrict_request();
    request.get().set_prefix(prefix);
    request.send().pipeline.get_namespace()
}

async fn id_of(space: &namespace::Client, name: &str) -> ObjectId {
    let mut request = space.id_from_name_request();
    request.get().set_object_name(name);
    let answer = request.send().promise.await.unwrap();
    ObjectId::try_from(answer.get().unwrap().get_id().unwrap()).unwrap()
}

async fn list(space: &namespace::Client) -> Vec<ObjectInfo> {
    let page = space.list_request().send().promise.await.unwrap();
    Page::read(page.get().unwrap()).unwrap().objects
}

async fn names(space: &namespace::Client) -> Vec<String> {
    let listed = list(space).await.into_iter();
    listed.map(|it| it.name.unwrap_or_default()).collect()
}

async fn count(space: &namespace::Client, prefix: &str) -> u64 {
    let mut request = space.count_request();
    request.get().set_prefix(prefix);
    let answer = request.send().promise.await.unwrap();
    answer.get().unwrap().get_count()
}

async fn show(space: &namespace::Client, key: impl Into<ObjectKey>) -> capnp::Result<ObjectStatus> {
    let mut request = space.show_request();
    key.into().write(request.get().init_key());
    ObjectStatus::read(request.send().promise.await?.get()?.get_status()?)
}

async fn delete(space: &namespace::Client, key: impl Into<ObjectKey>) -> capnp::Result<bool> {
    let mut request = space.delete_request();
    key.into().write(request.get().init_key());
    Ok(request.send().promise.await?.get()?.get_existed())
}

#[test]
fn what_does_not_exist_is_shown_and_not_made() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let space = wire.namespace::<probe::Client>();
        let id = id_of(&space, "never").await;
        let by_name = show(&space, "never").await.unwrap();
        assert_eq!((by_name.info.id, by_name.exists), (id, false));
        assert_eq!(by_name.info.name.as_deref(), Some("never"));
        assert_eq!(by_name.info.created_ms, 0);
        assert_eq!(by_name.state, ObjectState::Asleep);
        let by_id = show(&space, id).await.unwrap();
        assert_eq!((by_id.info.id, by_id.info.name), (id, None));
        assert!(!delete(&space, "never").await.unwrap());
        assert!(names(&space).await.is_empty());
        assert_eq!(vat.controls.runs(Hook::Create, "never"), 0);
        assert_eq!(vat.controls.runs(Hook::Create, "-"), 0);
        let foreign = id_of(&wire.namespace::<counter::Client>(), "never").await;
        assert_eq!(code(show(&space, foreign).await), Code::InvalidArgument);
        assert_eq!(code(delete(&space, foreign).await), Code::InvalidArgument);
        assert_eq!(code(show(&space, "").await), Code::InvalidArgument);
    });
}

#[test]
fn an_object_is_shown_as_it_is_and_not_woken() {
    run_paused(async {
        let vat = TestVat::with(short_idle).await;
        let wire = vat.wire().await;
        let space = wire.namespace::<probe::Client>();
        let look = async || show(&space, "p").await.unwrap();
        let probe = wire.probe("p");

        let waking = Mood::Latch("activate");
        vat.controls.set_mood(Hook::Activate, "p", Some(waking));
        let script = [Do::Alarm(HOUR_MS), Do::Latch("call")];
        let call = send(&probe, &script);
        vat.controls.reached("activate").await;
        let shown = look().await;
        assert_eq!(shown.state, ObjectState::Waking);
        assert_eq!((shown.in_flight, shown.queued), (1, 1));
        assert_eq!(shown.activated_ms, None);

        vat.controls.release("activate");
        vat.controls.reached("call").await;
        let shown = look().await;
        assert!(shown.exists);
        assert_eq!(shown.state, ObjectState::Awake);
        assert_eq!((shown.in_flight, shown.queued), (1, 0));
        let activated_ms = shown.activated_ms.unwrap();
        assert!(shown.info.created_ms >= activated_ms);
        assert!(shown.alarm_ms.unwrap() >= activated_ms + HOUR_MS as i64);

        vat.controls.release("call");
        call.promise.await.unwrap();
        let handle = cap_of(&probe, &[Do::Open]).await.unwrap();
        assert_eq!(look().await.held_capabilities, 1);
        drop(handle);
        settle().await;
        let shown = look().await;
        assert_eq!((shown.held_capabilities, shown.in_flight), (0, 0));

        sleep(Duration::from_secs(2)).await;
        let shown = look().await;
        assert_eq!(shown.state, ObjectState::Asleep);
        let remembered = (shown.activated_ms, shown.resets);
        assert_eq!(remembered, (Some(activated_ms), 0));
        assert!(shown.exists && shown.alarm_ms.is_some());
        assert_eq!(vat.controls.runs(Hook::Activate, "p"), 1);

        assert_eq!(code(tell(&probe, &[Do::Panic]).await), Code::ObjectReset);
        assert_eq!(look().await.resets, 1);
    });
}

#[test]
fn a_listing_says_when_an_object_was_written_and_how_large_it_is() {
    run_paused(async {
        let mut vat = TestVat::with(short_idle).await;
        let wire = vat.wire().await;
        let cells = wire.namespace::<vatwerk::cell_capnp::cell::Client>();
        let cell = cell::cell(&wire, "c");
        cell.put("k", b"v").await.unwrap();
        let small = list(&cells).await.pop().unwrap();
        assert!(small.written_ms.unwrap() >= small.created_ms);
        assert!(small.bytes.unwrap() > 0);
        cell.put("k", &[7; 100_000]).await.unwrap();
        sleep(Duration::from_secs(2)).await;
        let large = list(&cells).await.pop().unwrap();
        assert!(large.bytes.unwrap() >= small.bytes.unwrap() + 100_000);
        assert!(large.written_ms >= small.written_ms);
        assert_eq!(show(&cells, "c").await.unwrap().info, large);
        vat.crash().await;
        vat.start_again().await;
        let cells = vat.wire().await;
        let cells = cells.namespace::<vatwerk::cell_capnp::cell::Client>();
        assert_eq!(list(&cells).await, [large]);
    });
}

#[test]
fn a_deleted_object_is_gone_for_good_and_the_next_call_makes_it_anew() {
    run(async {
        let mut vat = TestVat::start().await;
        let wire = vat.wire().await;
        let space = wire.namespace::<probe::Client>();
        for name in ["p", "other"] {
            let script = [Do::Put("k", name), Do::Alarm(HOUR_MS)];
            tell(&wire.probe(name), &script).await.unwrap();
        }
        assert!(delete(&space, "p").await.unwrap());
        let shown = show(&space, "p").await.unwrap();
        assert_eq!((shown.exists, shown.alarm_ms), (false, None));
        assert_eq!(names(&space).await, ["other"]);
        assert_eq!(count(&space, "").await, 1);
        assert_eq!(wire.alarms().await, ["other"]);
        assert!(!delete(&space, "p").await.unwrap());
        vat.crash().await;
        vat.start_again().await;

        let wire = vat.wire().await;
        let space = wire.namespace::<probe::Client>();
        assert_eq!(names(&space).await, ["other"]);
        assert_eq!(wire.alarms().await, ["other"]);
        assert_eq!(
            tell(&wire.probe("p"), &[Do::Get("k")]).await.unwrap(),
            ["-"]
        );
        assert_eq!(names(&space).await, ["other"]);
        let anew = [Do::Put("k", "anew")];
        tell(&wire.probe("p"), &anew).await.unwrap();
        assert_eq!(vat.controls.runs(Hook::Create, "p"), 2);
        assert_eq!(names(&space).await, ["other", "p"]);
        let other = tell(&wire.probe("other"), &[Do::Get("k")]).await;
        assert_eq!(other.unwrap(), ["other"]);
    });
}

#[test]
fn an_object_that_sleeps_is_deleted_by_its_id_with_its_file() {
    run(async {
        let mut vat = TestVat::start().await;
        tell(&vat.wire().await.probe("p"), &[Do::Put("k", "v")])
            .await
            .unwrap();
        vat.stop().await;
        assert_eq!(vat.object_files().len(), 1);
        vat.start_again().await;
        let wire = vat.wire().await;
        let space = wire.namespace::<probe::Client>();
        let id = id_of(&space, "p").await;
        assert!(delete(&space, id).await.unwrap());
        assert_eq!(vat.controls.runs(Hook::Activate, "p"), 1);
        vat.stop().await;
        assert!(vat.object_files().is_empty(), "{:?}", vat.object_files());
        vat.start_again().await;
        let wire = vat.wire().await;
        let space = wire.namespace::<probe::Client>();
        assert_eq!(count(&space, "").await, 0);
    });
}

#[test]
fn calls_that_are_in_flight_at_a_deletion_get_object_reset() {
    run_paused(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let space = wire.namespace::<probe::Client>();
        let probe = wire.probe("p");
        let handle = cap_of(&probe, &[Do::Open]).await.unwrap();
        let call = send(&probe, &[Do::Put("k", "v"), Do::Latch("here")]);
        vat.controls.reached("here").await;
        assert!(delete(&space, "p").await.unwrap());
        assert_eq!(code(call.promise.await.map(drop)), Code::ObjectReset);
        assert_eq!(code(tell(&handle, &[]).await), Code::ObjectReset);
        assert_eq!(vat.controls.runs(Hook::Drop, "p"), 1);
        // The stub still names the object.
        assert_eq!(tell(&probe, &[Do::Get("k")]).await.unwrap(), ["-"]);
    });
}

#[test]
fn a_deletion_is_told_when_it_is_on_disk() {
    run_paused(async {
        let mut vat = TestVat::start().await;
        let wire = vat.wire().await;
        let space = wire.namespace::<probe::Client>();
        tell(&wire.probe("p"), &[Do::Put("k", "v")]).await.unwrap();
        vat.hold.hold();
        let deleted = spawn_local({
            let space = space.clone();
            async move { delete(&space, "p").await }
        });
        settle().await;
        let shown = spawn_local({
            let space = space.clone();
            async move { show(&space, "p").await }
        });
        settle().await;
        // Nobody hears of it.
        assert!(!deleted.is_finished() && !shown.is_finished());
        vat.hold.release();
        assert!(deleted.await.unwrap().unwrap());
        assert!(!shown.await.unwrap().unwrap().exists);
        vat.crash().await;
        vat.start_again().await;
        let wire = vat.wire().await;
        let space = wire.namespace::<probe::Client>();
        assert!(names(&space).await.is_empty());
    });
}

#[test]
fn a_narrowed_namespace_shows_counts_and_deletes_within_its_reach() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let space = wire.namespace::<probe::Client>();
        for name in ["team-a/1", "team-a/2", "team-b/1"] {
            let make = [Do::Put("k", "v")];
            tell(&wire.probe(name), &make).await.unwrap();
        }
        let ours = narrow(&space, "team-a/");
        let id = id_of(&space, "team-a/1").await;
        for key in ["team-b/1".into(), ObjectKey::Id(id)] {
            let shown = show(&ours, key.clone()).await;
            assert_eq!(code(shown), Code::PermissionDenied, "{key:?}");
            let deleted = delete(&ours, key.clone()).await;
            assert_eq!(code(deleted), Code::PermissionDenied, "{key:?}");
        }
        for (prefix, all, within) in [
            ("", 3, 2),
            ("team-", 3, 2),
            ("team-a/2", 1, 1),
            ("team-b/", 1, 0),
            ("x", 0, 0),
        ] {
            assert_eq!(count(&space, prefix).await, all, "{prefix:?}");
            assert_eq!(count(&ours, prefix).await, within, "{prefix:?}");
        }
        assert!(show(&ours, "team-a/1").await.unwrap().exists);
        assert!(delete(&ours, "team-a/1").await.unwrap());
        assert_eq!(names(&space).await, ["team-a/2", "team-b/1"]);
    });
}

#[test]
fn alarms_are_listed_in_the_order_in_which_they_are_due() {
    run(async {
        let mut vat = TestVat::start().await;
        let wire = vat.wire().await;
        assert!(wire.alarms().await.is_empty());
        for (name, hours) in [("late", 3), ("soon", 1), ("later", 4), ("next", 2)] {
            let script = [Do::Alarm(hours * HOUR_MS)];
            tell(&wire.probe(name), &script).await.unwrap();
        }
        assert_eq!(wire.alarms().await, ["soon", "next", "late", "later"]);
        // One that is put off moves back.
        tell(&wire.probe("soon"), &[Do::Alarm(5 * HOUR_MS)])
            .await
            .unwrap();
        assert_eq!(wire.alarms().await, ["next", "late", "later", "soon"]);
        vat.crash().await;
        vat.start_again().await;

        let wire = vat.wire().await;
        let first = wire.alarm_page("", 3).await.unwrap();
        let second = wire.alarm_page(first.next.as_deref().unwrap(), 3);
        let second = second.await.unwrap();
        assert_eq!((first.alarms.len(), second.alarms.len()), (3, 1));
        assert_eq!(second.next, None);
        let last = &second.alarms[0];
        assert_eq!(last.name.as_deref(), Some("soon"));
        assert_eq!(last.class.as_deref(), Some("Probe"));
        let space = wire.namespace::<probe::Client>();
        assert_eq!(last.id, id_of(&space, "soon").await);
        let shown = show(&space, last.id).await.unwrap();
        assert_eq!(shown.alarm_ms, Some(last.due_ms));
        assert_eq!(vat.controls.runs(Hook::Activate, "soon"), 1);
        for (after, limit) in [("", 0), ("", 1001), ("made up", 10)] {
            let refused = wire.alarm_page(after, limit).await;
            assert_eq!(code(refused), Code::InvalidArgument);
        }
    });
}

#[test]
fn an_alarm_is_listed_until_it_has_run() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let ringing = Mood::Latch("ringing");
        vat.controls.set_mood(Hook::Alarm, "p", Some(ringing));
        tell(&wire.probe("p"), &[Do::Alarm(0)]).await.unwrap();
        vat.controls.reached("ringing").await;
        assert_eq!(wire.alarms().await, ["p"]);
        vat.controls.release("ringing");
        while !wire.alarms().await.is_empty() {}
        assert_eq!(vat.controls.runs(Hook::Alarm, "p"), 1);
    });
}

#[test]
fn the_client_library_has_all_of_it() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        tell(&wire.probe("p"), &[Do::Alarm(HOUR_MS)]).await.unwrap();
        let address = format!("unix:{}", vat.socket().display());
        let client = Client::connect(&address).await.unwrap();
        let probes = client.namespace::<probe::Client>();
        assert_eq!(probes.count("p").await.unwrap(), 1);
        let shown = probes.show("p").await.unwrap();
        let pending = client.alarm_page("", 10).await.unwrap().alarms;
        assert_eq!(Some(pending[0].due_ms), shown.alarm_ms);
        assert!(probes.reset("p").await.unwrap());
        assert!(!probes.reset("p").await.unwrap());
        assert!(probes.delete(shown.info.id).await.unwrap());
        assert!(!probes.show("p").await.unwrap().exists);
    });
}
