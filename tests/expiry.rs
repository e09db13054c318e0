//! An object that deletes itself is gone with the turn in which it does, and only if that turn succeeds.

use std::{path::PathBuf, rc::Rc, time::Duration};

use tokio::task::spawn_local;
use vatwerk::Code;
use vatwerk_server::{
    AlarmInfo, Context,
    fetch::Frame,
    testing::{State, Survival, TestVat, run},
};

use crate::support::{
    code,
    puppet::{Client, Own, Program, Puppet, act, connect, get, put, vat},
    show,
};

const SECOND: Duration = Duration::from_secs(1);

async fn is_listed(vat: &TestVat) -> bool {
    show::<Client>(vat, "p").await.exists
}

/// The files of objects.
fn files(vat: &TestVat) -> Vec<PathBuf> {
    let mut files = vat.disk().files();
    files.retain(|path| {
        path.extension().is_some_and(|it| it == "sqlite")
            && path.components().any(|part| part.as_os_str() == "objects")
    });
    files
}

async fn expire(object: &Client) -> capnp::Result<()> {
    act(object, async |own| {
        own.put("k", "of the last turn")?;
        own.ctx.delete_self()?;
        Ok(own.put("l", "likewise")?)
    })
    .await
}

#[test]
fn an_object_that_deletes_itself_leaves_neither_row_nor_name_nor_alarm_nor_file() {
    run(async {
        for crashes in [false, true] {
            let (vat, p) = vat().await;
            put(&p, "k", "v").await.unwrap();
            let set = act(&p, async |own| Ok(own.ctx.alarms()?.set_in(60 * SECOND)?));
            set.await.unwrap();
            vat.restart().await;
            assert_eq!(files(&vat).len(), 1);
            expire(&p).await.unwrap();
            if crashes {
                vat.lose_power(Survival::Nothing).await;
            }
            vat.settle().await;
            assert!(!is_listed(&vat).await);
            assert_eq!(files(&vat).len(), 0);
            assert_eq!(vat.next_alarm::<Client>("p"), None);
            assert_eq!(vat.status::<Client>("p").state, State::Asleep);
            // The stub names the object that comes into being now.
            assert_eq!(get(&p, "k").await.unwrap(), None);
            put(&p, "k", "anew").await.unwrap();
            vat.restart().await;
            assert!(is_listed(&vat).await);
            assert_eq!(get(&p, "k").await.unwrap().unwrap(), "anew");
        }
    });
}

#[test]
fn what_the_last_turn_answers_leaves_when_the_deletion_is_on_disk() {
    run(async {
        let (vat, p) = vat().await;
        put(&p, "k", "v").await.unwrap();
        vat.hold_commits();
        let last = spawn_local({
            let p = p.clone();
            async move { expire(&p).await }
        });
        vat.settle().await;
        assert!(!last.is_finished());
        vat.release_commits();
        last.await.unwrap().unwrap();
        assert!(!is_listed(&vat).await);
    });
}

#[test]
fn a_deletion_that_cannot_be_made_durable_has_not_happened() {
    run(async {
        let (vat, p) = vat().await;
        put(&p, "k", "v").await.unwrap();
        vat.fail_next_commit();
        assert_eq!(code(expire(&p).await), Code::StorageFailed);
        vat.settle().await;
        assert!(is_listed(&vat).await);
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "v");
        vat.restart().await;
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "v");
    });
}

#[test]
fn a_turn_that_fails_after_it_deletes_nothing() {
    run(async {
        for panics in [false, true] {
            let (vat, p) = vat().await;
            put(&p, "k", "v").await.unwrap();
            let failed = act(&p, async move |own| {
                own.ctx.delete_self()?;
                if panics {
                    panic!("told to");
                }
                own.ctx.abort("told to");
                Ok(())
            });
            assert_eq!(code(failed.await), Code::ObjectReset);
            assert!(is_listed(&vat).await);
            assert_eq!(get(&p, "k").await.unwrap().unwrap(), "v");
        }
    });
}

#[test]
fn calls_in_flight_end_with_the_object_and_those_that_wait_make_it_anew() {
    run(async {
        let (vat, p) = vat().await;
        put(&p, "k", "v").await.unwrap();
        let running = spawn_local(act(&p, async |_| {
            std::future::pending::<capnp::Result<()>>().await
        }));
        // Goes on past the turn that was its last.
        let own = spawn_local(act(&p, async |own| {
            own.ctx.delete_self()?;
            own.ctx.sleep(SECOND).await;
            Ok(own.put("k", "newer")?)
        }));
        let behind = spawn_local({
            let p = p.clone();
            async move { get(&p, "k").await }
        });
        vat.advance(2 * SECOND).await;
        for ended in [running, own] {
            let error = ended.await.unwrap().unwrap_err();
            assert!(error.extra.contains("deleted itself"), "{error}");
            assert_eq!(code::<()>(Err(error)), Code::ObjectReset);
        }
        assert_eq!(behind.await.unwrap().unwrap(), None);
    });
}

#[test]
fn sockets_are_closed_when_their_object_deletes_itself() {
    run(async {
        let (vat, p) = vat().await;
        let mut socket = connect(&p, &[]).await.unwrap();
        expire(&p).await.unwrap();
        vat.settle().await;
        let said = socket.next().await;
        let is_over = |frame| matches!(frame, Frame::Close { .. } | Frame::Failed(_));
        assert!(said.is_none_or(|said| is_over(said.into_frame())));
        assert_eq!(show::<Client>(&vat, "p").await.web_sockets, 0);
    });
}

/// Deletes itself when its alarm runs.
struct Expiring;

impl Program for Expiring {
    async fn alarm(own: Rc<Own>, _: AlarmInfo) -> capnp::Result<()> {
        own.put("k", "of the alarm")?;
        Ok(own.ctx.delete_self()?)
    }
}

#[test]
fn an_object_that_deletes_itself_when_its_alarm_runs_does_not_come_back() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<Expiring>>()).await;
        let p: Client = vat.object("p");
        let set = act(&p, async |own| Ok(own.ctx.alarms()?.set_in(SECOND)?));
        set.await.unwrap();
        vat.advance(200 * SECOND).await;
        assert!(!is_listed(&vat).await);
        assert_eq!(vat.next_alarm::<Client>("p"), None);
        assert_eq!(vat.status::<Client>("p").state, State::Asleep);
        assert_eq!(vat.status::<Client>("p").resets, 0);
        vat.restart().await;
        assert_eq!(files(&vat).len(), 0);
    });
}

/// Deletes itself too early.
struct Hasty;

impl Program for Hasty {
    async fn create(ctx: &Context) -> capnp::Result<()> {
        Ok(ctx.delete_self()?)
    }
}

#[test]
fn an_object_that_comes_into_being_cannot_delete_itself() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<Hasty>>()).await;
        let refused = put(&vat.object("p"), "k", "v").await;
        assert_eq!(code(refused), Code::InvalidArgument);
        assert!(!is_listed(&vat).await);
    });
}

#[test]
fn wherever_a_crash_comes_an_object_that_deletes_itself_is_there_whole_or_not_at_all() {
    run(async {
        for operation in 1.. {
            let (vat, p) = vat().await;
            put(&p, "k", "v").await.unwrap();
            put(&p, "l", "v").await.unwrap();
            let disk = vat.disk();
            disk.crash_at(disk.operations() + operation);
            let deleted = expire(&p).await;
            vat.settle().await;
            let has_crashed = disk.has_crashed();
            vat.lose_power(operation).await;
            let found = [get(&p, "k").await.unwrap(), get(&p, "l").await.unwrap()];
            let whole = [Some("v".into()), Some("v".into())];
            assert!(
                found == [None, None] || found == whole && deleted.is_err(),
                "{found:?}"
            );
            if !has_crashed {
                return assert!(operation > 2, "{operation}");
            }
        }
    });
}
