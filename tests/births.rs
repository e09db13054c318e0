//! An object comes into being with its first write, and not with a look at it.

use std::{collections::HashMap, path::PathBuf, rc::Rc, time::Duration};

use capnp::capability::FromClientHook;
use futures::future::LocalBoxFuture;
use tokio::task::spawn_local;
use vatwerk::{
    Code,
    cell_capnp::cell,
    object_capnp::{ObjectState, stub},
};
use vatwerk_server::{
    AlarmInfo, Body, Context, Request, Response,
    classes::Cell,
    object::testing::Sabotage,
    testing::{State, Survival, TestVat, run},
};

use crate::support::{
    cell::ops,
    code, on_this_thread,
    puppet::{
        Client, Log, Own, Plain, Program, Puppet, act, connect, fetch, get, obtain, put,
        wants_socket,
    },
    show,
};

const SECOND: Duration = Duration::from_secs(1);

/// Writes whatever a class can write before the first call.
struct Made;

impl Program for Made {
    const MIGRATIONS: &'static [&'static str] = &["CREATE TABLE made (a UNIQUE)"];

    async fn create(ctx: &Context) -> capnp::Result<()> {
        ctx.storage().kv().put("made", &1)?;
        ctx.storage()
            .sql()
            .exec("INSERT INTO made VALUES (1)", ())?;
        // In two turns.
        tokio::task::yield_now().await;
        ctx.storage()
            .sql()
            .exec("INSERT INTO made VALUES (2)", ())?;
        note(ctx, "create");
        Ok(())
    }

    async fn activate(ctx: &Context) -> capnp::Result<()> {
        let woken = "CREATE TABLE IF NOT EXISTS woken (a); INSERT INTO woken VALUES (1)";
        ctx.storage().sql().exec(woken, ())?;
        Ok(())
    }

    async fn alarm(own: Rc<Own>, _: AlarmInfo) -> capnp::Result<()> {
        Ok(own.put("rang", "yes")?)
    }
}

fn note(ctx: &Context, what: &'static str) {
    if let Some(log) = ctx.binding::<Log>() {
        log.note(what);
    }
}

fn count(own: &Own, table: &str) -> vatwerk_server::Result<i64> {
    let sql = own.ctx.storage().sql();
    let counted = sql.exec(&format!("SELECT count(*) AS n FROM {table}"), ())?;
    Ok(counted.one_as::<HashMap<String, i64>>()?["n"])
}

/// The writes of `create`, migrations and `activate`, if the object has all of them.
async fn is_whole(object: &Client) -> bool {
    let whole = act(object, async |own| {
        let made = own.ctx.storage().kv().get::<i64>("made")?;
        Ok((made, count(&own, "made")?, count(&own, "woken")? > 0))
    });
    whole.await.unwrap() == (Some(1), 2, true)
}

async fn vat() -> (TestVat, Client, Log) {
    let log = Log::default();
    let bound = on_this_thread(log.clone());
    let vat = TestVat::start(move |server| {
        let server = server.class::<Puppet<Made>>().class::<Cell>();
        server.binding_with(bound.clone())
    })
    .await;
    let object = vat.object("p");
    (vat, object, log)
}

/// The files of objects.
fn files(vat: &TestVat) -> Vec<PathBuf> {
    let mut files = vat.disk().files();
    files.retain(|path| path.components().any(|part| part.as_os_str() == "objects"));
    files
}

fn commits(vat: &TestVat) -> String {
    let metrics = vat.metrics();
    let line = metrics
        .lines()
        .find(|line| line.starts_with("vatwerk_commits_total"));
    line.expect("it is counted").to_owned()
}

async fn is_listed(vat: &TestVat) -> bool {
    let shown = show::<Client>(vat, "p").await;
    assert_eq!(shown.exists, shown.info.created_ms != 0);
    shown.exists
}

type Done = LocalBoxFuture<'static, capnp::Result<()>>;

/// An action on an object, and its name in messages.
type Kind = (&'static str, fn(Client) -> Done);

fn looks() -> Vec<Kind> {
    vec![
        ("a read of pairs", |p| {
            act(&p, async |own| own.get("k").map(drop).map_err(Into::into))
        }),
        ("a read by SQL", |p| {
            act(&p, async |own| {
                count(&own, "made").map(drop).map_err(Into::into)
            })
        }),
        ("a method that fails", |p| {
            Box::pin(async move {
                let failed = act(&p, async |_| -> capnp::Result<()> {
                    Err(capnp::Error::failed("told to".into()))
                });
                assert!(failed.await.is_err());
                Ok(())
            })
        }),
        ("a method that panics when it has written", |p| {
            Box::pin(async move {
                let failed = act(&p, async |own| -> capnp::Result<()> {
                    own.put("k", "v")?;
                    panic!("told to")
                });
                assert_eq!(code(failed.await), Code::ObjectReset);
                Ok(())
            })
        }),
        ("a method that aborts when it has written", |p| {
            Box::pin(async move {
                let failed = act(&p, async |own| {
                    own.put("k", "v")?;
                    own.ctx.abort("told to");
                    Ok(())
                });
                assert_eq!(code(failed.await), Code::ObjectReset);
                Ok(())
            })
        }),
        ("a transaction that is undone", |p| {
            act(&p, async |own| {
                let undone = own.ctx.storage().transaction(|_| {
                    own.put("k", "v")?;
                    Err::<(), _>(vatwerk_server::Error::Closed("told to"))
                });
                assert!(undone.is_err() && own.get("k")?.is_none());
                Ok(())
            })
        }),
        ("a write that is refused", |p| {
            act(&p, async |own| {
                let sql = own.ctx.storage().sql();
                assert!(sql.exec("INSERT INTO made VALUES (1)", ()).is_err());
                assert!(
                    sql.exec(
                        "INSERT INTO made VALUES (3); INSERT INTO made VALUES (1)",
                        ()
                    )
                    .is_err()
                );
                Ok(())
            })
        }),
        ("a first write that takes too long", |p| {
            Box::pin(async move {
                let late = act(&p, async |own| {
                    let long = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                                INSERT INTO made SELECT i + 100 FROM n";
                    Ok(own.ctx.storage().sql().exec(long, ()).map(drop)?)
                });
                assert_eq!(code(late.await), Code::LimitExceeded);
                Ok(())
            })
        }),
        ("keys that are deferred", |p| {
            act(&p, async |own| {
                let sql = own.ctx.storage().sql();
                Ok(sql.exec("PRAGMA defer_foreign_keys = ON", ()).map(drop)?)
            })
        }),
        ("a call of another object", |p| {
            act(&p, async |own| get(&own.other("q"), "k").await.map(drop))
        }),
        ("capabilities that are handed out", |p| {
            Box::pin(async move {
                let handle = obtain(&p, async |own| Ok(own.handle())).await?;
                let facet = obtain(&p, async |own| Ok(own.facet())).await?;
                get(&handle, "k").await?;
                get(&facet, "k").await.map(drop)
            })
        }),
        ("background work that reads", |p| {
            act(&p, async |own| {
                let late = own.clone();
                Ok(own.ctx.wait_until(async move {
                    late.ctx.sleep(SECOND).await;
                    late.get("k")?;
                    Ok(())
                })?)
            })
        }),
        ("a section that reads", |p| {
            act(&p, async |own| {
                let reads = async { Ok(own.get("k")?) };
                own.ctx.block_concurrency_while(reads).await.map(drop)
            })
        }),
        ("a look at alarms and sockets", |p| {
            act(&p, async |own| {
                assert!(own.ctx.alarms()?.get()?.is_none());
                assert!(own.ctx.web_sockets(None).is_empty());
                own.ctx
                    .set_web_socket_auto_response(Some(("ping", "pong")))?;
                Ok(())
            })
        }),
        ("a request", |p| {
            Box::pin(async move {
                let request = Request::new(Body::empty());
                let answer = fetch(&p, request, async |own, _| {
                    own.get("k")?;
                    Ok(Response::new(Body::from("nothing")))
                });
                answer.await.map(drop)
            })
        }),
        ("a WebSocket that is refused", |p| {
            Box::pin(async move {
                let refuse = async |_, _| Ok(Response::new(Body::empty()));
                fetch(&p, wants_socket(), refuse).await.map(drop)
            })
        }),
        ("its own end", |p| {
            act(&p, async |own| {
                own.put("k", "v")?;
                Ok(own.ctx.delete_self()?)
            })
        }),
        ("what the vat answers for it", |p| {
            Box::pin(async move {
                let stub: stub::Client = p.cast_to();
                stub.identify_request().send().promise.await.map(drop)
            })
        }),
    ]
}

#[test]
fn a_look_at_an_object_that_does_not_exist_leaves_nothing() {
    run(async {
        for (kind, look) in looks() {
            let (vat, p, log) = vat().await;
            vat.settle().await;
            let before = commits(&vat);
            look(p.clone())
                .await
                .unwrap_or_else(|error| panic!("{kind}: {error}"));
            vat.advance(2 * SECOND).await;
            assert!(!is_listed(&vat).await, "{kind}");
            assert!(!vat.delete::<Client>("p").await.unwrap(), "{kind}");
            look(p.clone())
                .await
                .unwrap_or_else(|error| panic!("{kind}: {error}"));
            vat.advance(20 * SECOND).await;
            assert_eq!(
                show::<Client>(&vat, "p").await.state,
                ObjectState::Asleep,
                "{kind}"
            );
            assert!(!is_listed(&vat).await, "{kind}");
            assert_eq!(commits(&vat), before, "{kind}");
            vat.restart().await;
            assert_eq!(files(&vat), Vec::<PathBuf>::new(), "{kind}");
            assert!(!is_listed(&vat).await, "{kind}");
            // Each time it is made anew.
            log.take();
            assert!(is_whole(&p).await, "{kind}");
            assert_eq!(log.take(), ["create"], "{kind}");
        }
    });
}

fn births() -> Vec<Kind> {
    vec![
        ("a pair", |p| {
            Box::pin(async move { put(&p, "k", "v").await })
        }),
        ("a pair that is deleted in the same turn", |p| {
            act(&p, async |own| {
                own.put("k", "v")?;
                own.ctx.storage().kv().delete("k")?;
                Ok(())
            })
        }),
        ("a table that is there", |p| {
            act(&p, async |own| {
                let sql = own.ctx.storage().sql();
                Ok(sql
                    .exec("CREATE TABLE IF NOT EXISTS made (a)", ())
                    .map(drop)?)
            })
        }),
        (
            "a pair that nobody waits for, and one that somebody does",
            |p| {
                act(&p, async |own| {
                    own.ctx
                        .storage()
                        .allow_unconfirmed(|storage| storage.kv().put("k", "v"))?;
                    own.ctx.sleep(SECOND).await;
                    Ok(own.put("l", "v")?)
                })
            },
        ),
        ("an alarm", |p| {
            act(&p, async |own| {
                Ok(own.ctx.alarms()?.set_in(60 * 60 * SECOND)?)
            })
        }),
        ("what is asked to be on disk", |p| {
            act(&p, async |own| Ok(own.ctx.sync().await?))
        }),
        ("a WebSocket that is accepted", |p| {
            Box::pin(async move {
                let socket = connect(&p, &[]).await?;
                drop(socket);
                Ok(())
            })
        }),
        ("a request that writes", |p| {
            Box::pin(async move {
                let request = Request::new(Body::empty());
                let answer = fetch(&p, request, async |own, _| {
                    own.put("k", "v")?;
                    Ok(Response::new(Body::empty()))
                });
                answer.await.map(drop)
            })
        }),
        ("a task that the class has spawned", |p| {
            act(&p, async |own| {
                let late = own.clone();
                let task = spawn_local(async move {
                    tokio::task::yield_now().await;
                    late.put("k", "v")
                });
                Ok(task.await.expect("it does not panic")?)
            })
        }),
        ("background work that writes", |p| {
            act(&p, async |own| {
                let late = own.clone();
                own.ctx.wait_until(async move {
                    late.ctx.sleep(SECOND).await;
                    Ok(late.put("k", "v")?)
                })?;
                own.ctx.sleep(2 * SECOND).await;
                own.get("k")?;
                Ok(())
            })
        }),
        ("a transaction", |p| {
            act(&p, async |own| {
                let storage = own.ctx.storage();
                Ok(storage.transaction(|_| own.put("k", "v"))?)
            })
        }),
        ("a write, then an error", |p| {
            Box::pin(async move {
                let failed = act(&p, async |own| {
                    own.put("k", "v")?;
                    Err::<(), _>(capnp::Error::failed("told to".into()))
                });
                assert!(failed.await.is_err());
                Ok(())
            })
        }),
        ("a read, a transaction that is undone, and a write", |p| {
            Box::pin(async move {
                get(&p, "k").await?;
                act(&p, async |own| {
                    let undone = own.ctx.storage().transaction(|_| {
                        own.put("k", "no")?;
                        Err::<(), _>(vatwerk_server::Error::Closed("told to"))
                    });
                    assert!(undone.is_err());
                    Ok(())
                })
                .await?;
                put(&p, "k", "v").await
            })
        }),
    ]
}

#[test]
fn the_first_write_makes_an_object_with_what_its_class_has_written_before() {
    run(async {
        for (kind, write) in births() {
            let (vat, p, log) = vat().await;
            write(p.clone())
                .await
                .unwrap_or_else(|error| panic!("{kind}: {error}"));
            // What was answered is on disk.
            vat.lose_power(Survival::Nothing).await;
            assert!(is_listed(&vat).await, "{kind}");
            assert!(is_whole(&p).await, "{kind}");
            assert_eq!(log.take(), ["create"], "{kind}");
            vat.advance(20 * SECOND).await;
            vat.restart().await;
            assert_eq!(files(&vat).len(), 1, "{kind}");
            assert!(is_whole(&p).await, "{kind}");
            assert_eq!(log.take(), [""; 0], "{kind}");
            let shown = show::<Client>(&vat, "p").await;
            assert!(shown.exists && shown.info.bytes.is_some(), "{kind}");
            assert!(vat.delete::<Client>("p").await.unwrap(), "{kind}");
            assert!(!is_listed(&vat).await, "{kind}");
        }
    });
}

#[test]
fn an_object_that_never_writes_needs_no_disk_while_it_is_awake() {
    run(async {
        let (vat, p, log) = vat().await;
        for n in 0..3 {
            let counted = act(&p, async |own| Ok(own.memory.replace(own.memory.get() + 1)));
            assert_eq!(counted.await.unwrap(), n);
            vat.advance(5 * SECOND).await;
        }
        assert_eq!(vat.status::<Client>("p").state, State::Awake);
        assert!(!is_listed(&vat).await);
        assert!(
            !vat.metrics()
                .contains("vatwerk_objects{class=\"Puppet\"} 1")
        );
        assert_eq!(log.take(), ["create"]);
        // An operator who deletes it ends the instance.
        assert!(!vat.delete::<Client>("p").await.unwrap());
        assert_eq!(act(&p, async |own| Ok(own.memory.get())).await.unwrap(), 0);
        assert_eq!(log.take(), ["create"]);
    });
}

#[test]
fn a_saved_reference_of_an_object_that_does_not_exist_leads_to_it_after_a_restart() {
    run(async {
        let (vat, p, _) = vat().await;
        let stub: stub::Client = p.clone().cast_to();
        let saved = stub.persist_request().send().promise.await.unwrap();
        let saved = saved.get().unwrap().get_sturdy_ref().unwrap().to_vec();
        vat.restart().await;
        assert!(!is_listed(&vat).await);
        let mut restore = vat.session().restore_request();
        restore.get().set_sturdy_ref(&saved);
        let restored = restore.send().promise.await.unwrap();
        let restored: Client = restored
            .get()
            .unwrap()
            .get_cap()
            .get_as_capability()
            .unwrap();
        put(&restored, "k", "v").await.unwrap();
        assert!(is_listed(&vat).await);
        assert_eq!(
            show::<Client>(&vat, "p").await.info.name.as_deref(),
            Some("p")
        );
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "v");
    });
}

#[test]
fn an_object_that_was_made_by_its_id_learns_its_name_before_its_first_write() {
    run(async {
        let (vat, p, _) = vat().await;
        let id = show::<Client>(&vat, "p").await.info.id;
        let by_id: Client = vat.object_by_id(id);
        get(&by_id, "k").await.unwrap();
        get(&p, "k").await.unwrap();
        put(&by_id, "k", "v").await.unwrap();
        let shown = show::<Client>(&vat, "p").await;
        assert_eq!(
            (shown.exists, shown.info.name.as_deref()),
            (true, Some("p"))
        );
        vat.restart().await;
        let named = act(&by_id, async |own| Ok(own.ctx.name()));
        assert_eq!(named.await.unwrap().as_deref(), Some("p"));
    });
}

/// A transaction that its caller holds, of an object that does not exist.
#[test]
fn a_transaction_that_is_held_makes_an_object_only_when_it_is_committed_with_a_write() {
    run(async {
        let (vat, ..) = vat().await;
        let cell = ops(vat.object("c"));
        let exists = async || show::<cell::Client>(&vat, "c").await.exists;
        for ends in 0..4 {
            let held = cell.begun().await.unwrap();
            let ops = held.ops.clone();
            if ends > 0 {
                ops.put("k", b"v").await.unwrap();
            }
            if ends > 2 {
                let nested = ops.begun().await.unwrap();
                nested.ops.put("l", b"v").await.unwrap();
                nested.commit().await.unwrap();
            }
            match ends {
                0 => held.commit().await.unwrap(),
                1 => held.rollback().await.unwrap(),
                _ => drop((held, ops)),
            }
            assert_eq!(cell.get("k").await.unwrap(), None, "{ends}");
            assert_eq!(cell.get("l").await.unwrap(), None, "{ends}");
            assert!(!exists().await, "{ends}");
        }
        let held = cell.begun().await.unwrap();
        held.ops.put("k", b"v").await.unwrap();
        held.commit().await.unwrap();
        assert!(exists().await);
        vat.lose_power(Survival::Nothing).await;
        assert!(exists().await);
        assert_eq!(cell.get("k").await.unwrap().unwrap(), b"v");
        assert_eq!(cell.get("l").await.unwrap(), None);
    });
}

/// Has noticed others, or has been noticed, in `create`.
struct Loud;

impl Program for Loud {
    async fn create(ctx: &Context) -> capnp::Result<()> {
        let name = ctx.name().expect("it has one");
        if &*name == "other" {
            return Ok(());
        }
        ctx.storage().kv().put("made", &1)?;
        match &*name {
            "calls" => {
                let other: Client = ctx.namespace()?.get("other")?;
                put(&other, "k", "v").await
            }
            "rings" => Ok(ctx.alarms()?.set_in(60 * SECOND)?),
            "syncs" => Ok(ctx.sync().await?),
            "waits" => {
                ctx.sleep(SECOND).await;
                Ok(ctx.storage().kv().put("late", &1)?)
            }
            "lets go" => {
                let other: Client = ctx.namespace()?.get("other")?;
                drop(other);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn activate(ctx: &Context) -> capnp::Result<()> {
        let other: Client = ctx.namespace()?.get("other")?;
        match &*ctx.name().expect("it has one") {
            "calls when it wakes" => get(&other, "k").await.map(drop),
            "writes and calls when it wakes" => {
                ctx.storage().kv().put("woken", &1)?;
                get(&other, "k").await.map(drop)
            }
            "calls and writes when it wakes" => {
                get(&other, "k").await?;
                Ok(ctx.storage().kv().put("woken", &1)?)
            }
            "rings when it wakes" => Ok(ctx.alarms()?.set_in(60 * SECOND)?),
            "fails when it wakes" => {
                ctx.storage().kv().put("woken", &1)?;
                Err(capnp::Error::failed("told to".into()))
            }
            _ => Ok(()),
        }
    }
}

#[test]
fn an_object_that_others_know_of_by_its_create_exists_when_that_has_ended() {
    run(async {
        for (name, exists) in [
            ("calls", true),
            ("rings", true),
            ("syncs", true),
            ("waits", false),
            ("lets go", false),
            ("calls when it wakes", false),
            ("writes and calls when it wakes", true),
            ("calls and writes when it wakes", true),
            ("rings when it wakes", true),
            ("fails when it wakes", false),
        ] {
            let vat = TestVat::start(|server| server.class::<Puppet<Loud>>()).await;
            let object: Client = vat.object(name);
            let found = act(&object, async |own| {
                Ok(own.ctx.storage().kv().get::<i64>("made")?)
            })
            .await;
            match name {
                "fails when it wakes" => assert_eq!(code(found), Code::ActivationFailed),
                _ => assert_eq!(found.unwrap(), Some(1), "{name}"),
            }
            assert_eq!(show::<Client>(&vat, name).await.exists, exists, "{name}");
            vat.lose_power(Survival::Nothing).await;
            assert_eq!(show::<Client>(&vat, name).await.exists, exists, "{name}");
            let alarm = vat.next_alarm::<Client>(name);
            assert_eq!(alarm.is_some(), name.starts_with("rings"), "{name}");
        }
    });
}

/// Keys that a turn leaves violated.
struct Orphan;

impl Program for Orphan {
    const MIGRATIONS: &'static [&'static str] = &["CREATE TABLE parent (id INTEGER PRIMARY KEY); \
        CREATE TABLE child (p REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED); \
        CREATE TABLE strict_child (p REFERENCES parent (id))"];

    async fn create(ctx: &Context) -> capnp::Result<()> {
        if ctx.name().as_deref() == Some("bad") {
            ctx.storage()
                .sql()
                .exec("INSERT INTO child VALUES (7)", ())?;
        }
        Ok(())
    }
}

#[test]
fn keys_that_are_violated_keep_an_object_from_coming_into_being_and_from_nothing_else() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<Orphan>>()).await;
        let bad: Client = vat.object("bad");
        assert!(get(&bad, "k").await.is_err());
        assert!(!show::<Client>(&vat, "bad").await.exists);
        let p: Client = vat.object("p");
        let write = |sql: &'static str| {
            act(&p, async move |own| {
                Ok(own.ctx.storage().sql().exec(sql, ()).map(drop)?)
            })
        };
        // It ends with its turn.
        write("PRAGMA defer_foreign_keys = ON").await.unwrap();
        assert_eq!(
            code(write("INSERT INTO strict_child VALUES (7)").await),
            Code::ApplicationFailed
        );
        get(&p, "k").await.unwrap();
        assert_eq!(
            code(write("INSERT INTO child VALUES (7)").await),
            Code::ObjectReset
        );
        assert!(!show::<Client>(&vat, "p").await.exists);
        write("INSERT INTO parent VALUES (7)").await.unwrap();
        assert!(show::<Client>(&vat, "p").await.exists);
        write("INSERT INTO child VALUES (7)").await.unwrap();
        vat.restart().await;
        assert!(!show::<Client>(&vat, "bad").await.exists);
        assert_eq!(files(&vat).len(), 1);
    });
}

/// Checks that a crash at each disk operation of a birth leaves no object, or a whole one. The error tells of the
/// first crash that does not.
async fn crash_at_birth(sabotage: Option<Sabotage>) -> Result<(), String> {
    for operation in 1.. {
        let vat = TestVat::start(move |server| {
            let server = server.class::<Puppet<Made>>();
            match sabotage {
                Some(sabotage) => server.sabotage(sabotage),
                None => server,
            }
        })
        .await;
        let p: Client = vat.object("p");
        get(&p, "k").await.unwrap();
        let disk = vat.disk();
        disk.crash_at(disk.operations() + operation);
        let born = put(&p, "k", "v").await;
        vat.settle().await;
        let has_crashed = disk.has_crashed();
        vat.lose_power(operation).await;
        let is_listed = is_listed(&vat).await;
        let found = get(&p, "k").await.unwrap();
        let whole = is_whole(&p).await;
        if !whole || found.is_none() && born.is_ok() || found.is_some() && !is_listed {
            return Err(format!(
                "{operation}: {born:?}, {is_listed}, {found:?}, {whole}"
            ));
        }
        if found.is_none() {
            // A row that a crash has left goes with the next look.
            vat.advance(20 * SECOND).await;
            if self::is_listed(&vat).await {
                return Err(format!("{operation}: it is listed and was never written"));
            }
        }
        if !has_crashed {
            assert!(operation > 2, "{operation}");
            break;
        }
    }
    Ok(())
}

#[test]
fn wherever_a_crash_comes_an_object_that_comes_into_being_is_there_whole_or_not_at_all() {
    run(async {
        assert_eq!(crash_at_birth(None).await, Ok(()));
    });
}

#[test]
fn an_object_that_is_listed_after_it_has_come_into_being_is_found_out() {
    run(async {
        let found = crash_at_birth(Some(Sabotage::ListAfterBirth)).await;
        println!("{}", found.expect_err("nobody noticed"));
    });
}

#[test]
fn a_first_write_that_the_journal_refuses_leaves_nothing() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<Plain>>()).await;
        let p: Client = vat.object("p");
        get(&p, "k").await.unwrap();
        vat.fail_next_commit();
        assert!(put(&p, "k", "v").await.is_err());
        vat.settle().await;
        assert_eq!(get(&p, "k").await.unwrap(), None);
        vat.advance(20 * SECOND).await;
        assert!(!is_listed(&vat).await);
        put(&p, "k", "v").await.unwrap();
        assert!(is_listed(&vat).await);
    });
}
