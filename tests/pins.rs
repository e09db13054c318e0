//! What keeps objects awake, for how long, and what happens when too much does.

use std::{rc::Rc, time::Duration};

use capnp::ErrorKind;
use futures::future::join_all;
use tokio::{sync::Notify, task::spawn_local};
use vatwerk::{Code, cell_capnp::cell, storage_capnp::sql};
use vatwerk_server::{
    Class, Config, Context,
    classes::Cell,
    testing::{TestVat, run},
};

use crate::{
    puppet_capnp::puppet,
    support::{
        cell::{Ops, V, counts, next, ops},
        code,
        puppet::{Client, Log, Puppet, act, get, give, obtain, put, vat},
    },
};

const SECOND: Duration = Duration::from_secs(1);

/// Longer than an object stays awake with nothing to do.
const IDLE: Duration = Duration::from_secs(11);

const NUMBERS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100) \
                       SELECT i FROM n";

/// A vat that keeps this many objects awake, or about twice as many where some cannot sleep.
async fn small_vat(resident_objects: usize) -> TestVat {
    TestVat::start(move |server| {
        let mut config = Config::default();
        config.limits.resident_objects = resident_objects;
        // By itself no object falls asleep.
        config.limits.idle_ms = 24 * 3_600_000;
        server.class::<Puppet>().class::<Cell>().config(config)
    })
    .await
}

async fn cell() -> (TestVat, Ops) {
    let vat = TestVat::start(|server| server.class::<Cell>()).await;
    let cell = ops(vat.object("c"));
    (vat, cell)
}

/// The SQL of a cell, when that has answered.
async fn sql_of(cell: &Ops) -> sql::Client {
    let answer = cell.0.sql_request().send().promise.await.unwrap();
    answer.get().unwrap().get_sql().unwrap()
}

async fn exec(sql: &sql::Client, query: &str) -> capnp::Result<Vec<Vec<V>>> {
    let mut request = sql.exec_request();
    request.get().set_query(query);
    let answer = request.send().promise.await?;
    Ok(next(&answer.get()?.get_cursor()?, 1000).await?.0)
}

/// Checks the code of a call that has not begun, on a capability whose instance is gone.
#[track_caller]
fn assert_gone<T>(outcome: capnp::Result<T>, expected: Code) {
    let error = outcome.err().expect("the call should have failed");
    assert!(error.extra.ends_with(" [not-delivered]"), "{error}");
    assert_eq!(code::<()>(Err(error)), expected);
}

#[test]
fn the_sql_of_a_cell_wakes_it_and_does_not_keep_it_awake() {
    run(async {
        let (vat, cell) = cell().await;
        let sql = sql_of(&cell).await;
        exec(&sql, "CREATE TABLE t (i)").await.unwrap();
        assert_eq!(vat.status::<cell::Client>("c").handed_out, 0);
        for round in 1..=3 {
            vat.advance(IDLE).await;
            assert!(!vat.is_awake::<cell::Client>("c"));
            exec(&sql, "INSERT INTO t VALUES (1)").await.unwrap();
            assert!(vat.is_awake::<cell::Client>("c"));
            let rows = exec(&sql, "SELECT count(*) FROM t").await.unwrap();
            assert_eq!(rows, [[V::Int(round)]]);
        }
        vat.delete::<cell::Client>("c").await.unwrap();
        // It names the object, whatever becomes of that.
        assert_eq!(code(exec(&sql, "SELECT * FROM t").await), Code::SqlFailed);
        assert_eq!(exec(&sql, "SELECT 1").await.unwrap(), [[V::Int(1)]]);
        assert!(vat.is_awake::<cell::Client>("c"));
    });
}

#[test]
fn calls_on_the_sql_of_a_cell_wait_for_the_transaction_that_is_open() {
    run(async {
        let (vat, cell) = cell().await;
        let sql = sql_of(&cell).await;
        let tx = cell.begun().await.unwrap();
        let waiting = spawn_local(async move { exec(&sql, "SELECT 1").await });
        vat.settle().await;
        assert!(!waiting.is_finished());
        let within = tx.ops.exec("SELECT 2", &[]).await.unwrap();
        assert_eq!(within, [[V::Int(2)]]);
        tx.commit().await.unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), [[V::Int(1)]]);
    });
}

#[test]
fn clients_that_hold_the_sql_of_many_cells_do_not_stop_the_vat() {
    run(async {
        let vat = small_vat(5).await;
        let mut held = Vec::new();
        for number in 0..40 {
            held.push(sql_of(&ops(vat.object(&format!("c{number}")))).await);
            vat.settle().await;
        }
        put(&vat.object("other"), "k", "v").await.unwrap();
        for sql in &held {
            assert_eq!(exec(sql, "SELECT 7").await.unwrap(), [[V::Int(7)]]);
            vat.settle().await;
        }
    });
}

#[test]
fn a_facet_is_served_by_whatever_instance_is_there() {
    run(async {
        let (vat, p) = vat().await;
        let facet = obtain(&p, async |own| Ok(own.facet())).await.unwrap();
        act(&facet, async |own| {
            own.memory.set(1);
            Ok(())
        })
        .await
        .unwrap();
        let memory = act(&p, async |own| Ok(own.memory.get())).await.unwrap();
        assert_eq!(memory, 1);
        assert_eq!(vat.status::<Client>("p").handed_out, 0);
        vat.advance(IDLE).await;
        assert!(!vat.is_awake::<Client>("p"));
        let memory = act(&facet, async |own| Ok(own.memory.get())).await.unwrap();
        assert_eq!(memory, 0);
        // It comes home like a stub: the object calls itself by it.
        let home = give(&p, facet.clone(), async |own, facet| {
            own.memory.set(2);
            act(&facet, async |own| Ok(own.memory.get())).await
        });
        assert_eq!(home.await.unwrap(), 2);
        // An instance that is reset takes the call that runs with it, and the next one takes those that
        // are queued, in order.
        let log = Log::default();
        let aborts = act(&p, async |own| {
            let blocked = own.ctx.block_concurrency_while(async {
                tokio::time::sleep(SECOND).await;
                Err::<(), _>(capnp::Error::failed("it fails".into()))
            });
            blocked.await
        });
        let note = |on: &Client, what| {
            let log = log.clone();
            act(on, async move |_| {
                log.note(what);
                Ok(())
            })
        };
        let queued = [
            note(&p, "stub"),
            note(&facet, "facet"),
            note(&p, "stub again"),
        ];
        assert_eq!(code(aborts.await), Code::ObjectReset);
        for outcome in join_all(queued).await {
            outcome.unwrap();
        }
        assert_eq!(log.take(), ["stub", "facet", "stub again"]);
    });
}

/// Hands out a facet that it does not serve.
struct Bare(Context);

impl Class for Bare {
    const NAME: &'static str = "Bare";
    const SCHEMA: &'static [u8] = include_bytes!("support/puppet.cgr");
    type Client = Client;

    async fn activate(ctx: Context) -> capnp::Result<Self> {
        Ok(Bare(ctx))
    }
}

impl puppet::Server for Bare {
    async fn act(
        self: Rc<Self>,
        _: puppet::ActParams,
        mut results: puppet::ActResults,
    ) -> capnp::Result<()> {
        results.get().set_cap(self.0.facet("other"));
        Ok(())
    }
}

#[test]
fn a_facet_that_a_class_does_not_serve_says_so() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Bare>()).await;
        let bare: Client = vat.object("b");
        let answer = bare.act_request().send().promise.await.unwrap();
        let facet = answer.get().unwrap().get_cap().unwrap();
        let refused = facet.act_request().send().promise.await.err().unwrap();
        assert!(
            refused.extra.contains("class Bare has no facet `other`"),
            "{refused}"
        );
        assert_eq!(code::<()>(Err(refused)), Code::Unimplemented);
    });
}

#[test]
fn a_cursor_keeps_its_object_awake_until_it_has_ended() {
    run(async {
        let (vat, cell) = cell().await;
        // Read to the end.
        let cursor = cell.cursor(NUMBERS, &[]).await.unwrap();
        assert_eq!(vat.status::<cell::Client>("c").handed_out, 1);
        vat.advance(25 * SECOND).await;
        assert!(vat.is_awake::<cell::Client>("c"));
        assert!(next(&cursor, 1000).await.unwrap().1);
        counts(&cursor).await.unwrap();
        assert_eq!(vat.status::<cell::Client>("c").handed_out, 0);
        vat.advance(IDLE).await;
        assert!(!vat.is_awake::<cell::Client>("c"));
        assert_gone(counts(&cursor).await, Code::Closed);

        // Not used for 30 s.
        let cursor = cell.cursor(NUMBERS, &[]).await.unwrap();
        vat.advance(29 * SECOND).await;
        assert!(vat.is_awake::<cell::Client>("c"));
        assert_eq!(next(&cursor, 1).await.unwrap().0, [[V::Int(1)]]);
        vat.advance(29 * SECOND).await;
        assert!(vat.is_awake::<cell::Client>("c"));
        vat.advance(2 * SECOND).await;
        assert_eq!(vat.status::<cell::Client>("c").handed_out, 0);
        assert!(!vat.is_awake::<cell::Client>("c"));
        assert_gone(next(&cursor, 1).await, Code::Closed);

        // Without any rows, and dropped.
        let none = cell.cursor("CREATE TABLE t (i)", &[]).await.unwrap();
        assert_eq!(vat.status::<cell::Client>("c").handed_out, 0);
        assert_eq!(next(&none, 1).await.unwrap(), (vec![], true));
        let cursor = cell.cursor(NUMBERS, &[]).await.unwrap();
        assert_eq!(vat.status::<cell::Client>("c").handed_out, 1);
        drop(cursor);
        vat.settle().await;
        assert_eq!(vat.status::<cell::Client>("c").handed_out, 0);
    });
}

#[test]
fn a_transaction_keeps_its_object_awake_until_it_has_ended() {
    run(async {
        let (vat, cell) = cell().await;
        // Its time is over.
        let tx = cell.begun().await.unwrap();
        let sql = sql_of(&tx.ops).await;
        let nested = tx.ops.begun().await.unwrap();
        vat.advance(29 * SECOND).await;
        assert_eq!(vat.status::<cell::Client>("c").handed_out, 1);
        assert!(vat.is_awake::<cell::Client>("c"));
        vat.advance(2 * SECOND).await;
        assert!(!vat.is_awake::<cell::Client>("c"));
        assert_gone(tx.rollback().await, Code::Closed);
        assert_gone(nested.ops.get("k").await, Code::Closed);
        assert_gone(exec(&sql, "SELECT 1").await, Code::Closed);

        // It is committed.
        let tx = cell.begun().await.unwrap();
        tx.ops.put("k", b"v").await.unwrap();
        tx.commit().await.unwrap();
        tx.rollback().await.unwrap();
        assert_eq!(vat.status::<cell::Client>("c").handed_out, 0);
        vat.advance(IDLE).await;
        assert!(!vat.is_awake::<cell::Client>("c"));
        assert_gone(tx.rollback().await, Code::Closed);
        assert_eq!(cell.get("k").await.unwrap().unwrap(), b"v");

        // Its instance has ended while it was open.
        let tx = cell.begun().await.unwrap();
        vat.delete::<cell::Client>("c").await.unwrap();
        assert_gone(tx.commit().await, Code::ObjectReset);
    });
}

#[test]
fn what_an_instance_that_is_gone_had_handed_out_does_not_keep_the_next_awake() {
    run(async {
        let (vat, p) = vat().await;
        let handle = obtain(&p, async |own| Ok(own.handle())).await.unwrap();
        vat.advance(IDLE).await;
        assert!(vat.is_awake::<Client>("p"));
        let aborts = act(&p, async |own| {
            own.ctx
                .block_concurrency_while(async {
                    tokio::time::sleep(SECOND).await;
                    own.ctx.abort("a test");
                    Ok(())
                })
                .await
        });
        // The next instance is there at once, in the same place.
        let queued = put(&p, "k", "v");
        assert_eq!(code(aborts.await), Code::ObjectReset);
        queued.await.unwrap();
        assert_eq!(vat.status::<Client>("p").handed_out, 0);
        vat.advance(IDLE).await;
        assert!(!vat.is_awake::<Client>("p"));
        assert_gone(act(&handle, async |_| Ok(())).await, Code::ObjectReset);
    });
}

#[test]
fn under_pressure_those_that_are_only_held_on_to_are_reset_the_least_recently_used_first() {
    run(async {
        let vat = small_vat(5).await;
        let hold = async |number: u32| {
            let p: Client = vat.object(&format!("p{number}"));
            put(&p, "k", "v").await.unwrap();
            let handle = obtain(&p, async |own| Ok(own.handle())).await.unwrap();
            vat.advance(SECOND).await;
            handle
        };
        let mut handles = Vec::new();
        for number in 0..10 {
            handles.push(hold(number).await);
        }
        assert!((0..10).all(|number| vat.is_awake::<Client>(&format!("p{number}"))));
        // The first three are used again.
        for handle in &handles[..3] {
            act(handle, async |_| Ok(())).await.unwrap();
            vat.advance(SECOND).await;
        }
        for number in 10..12 {
            handles.push(hold(number).await);
        }
        // Another caller is served all the same.
        let other: Client = vat.object("other");
        put(&other, "k", "v").await.unwrap();
        assert_eq!(get(&other, "k").await.unwrap().unwrap(), "v");
        vat.settle().await;
        for (number, handle) in handles.iter().enumerate() {
            let outcome = act(handle, async |own| Ok(own.get("k")?)).await;
            match number {
                3..6 => assert_gone(outcome, Code::ObjectReset),
                _ => assert_eq!(outcome.unwrap().unwrap(), "v", "of p{number}"),
            }
        }
        // The objects are there.
        let three: Client = vat.object("p3");
        assert_eq!(get(&three, "k").await.unwrap().unwrap(), "v");
    });
}

#[test]
fn as_many_are_put_to_sleep_as_wake_the_least_recently_used_first() {
    run(async {
        let vat = small_vat(160).await;
        for number in 0..160 {
            let p: Client = vat.object(&format!("o{number}"));
            act(&p, async |_| Ok(())).await.unwrap();
            vat.advance(SECOND).await;
        }
        // All at once, so that nobody is asleep before the last one comes.
        let news = (0..32).map(|number| {
            let p: Client = vat.object(&format!("n{number}"));
            act(&p, async |_| Ok(()))
        });
        for outcome in join_all(news.collect::<Vec<_>>()).await {
            outcome.unwrap();
        }
        vat.settle().await;
        let awake = |number: &u32| vat.is_awake::<Client>(&format!("o{number}"));
        let awake: Vec<_> = (0..160).filter(awake).collect();
        assert_eq!(awake, (32..160).collect::<Vec<_>>());
        assert!((0..32).all(|number| vat.is_awake::<Client>(&format!("n{number}"))));
    });
}

#[test]
fn when_all_are_busy_others_are_refused_until_one_is_idle_or_only_held_on_to() {
    run(async {
        let vat = small_vat(2).await;
        let done = Rc::new(Notify::new());
        let mut busy = Vec::new();
        for number in 0..4 {
            let p: Client = vat.object(&format!("p{number}"));
            let wait = done.clone();
            busy.push(spawn_local(obtain(&p, async move |own| {
                wait.notified().await;
                Ok(own.handle())
            })));
            vat.settle().await;
        }
        let other: Client = vat.object("other");
        for _ in 0..3 {
            let refused = put(&other, "k", "v").await.unwrap_err();
            assert_eq!(refused.kind, ErrorKind::Overloaded, "{refused}");
            assert!(
                refused.extra.contains("limits.resident_objects"),
                "{refused}"
            );
            assert!(refused.extra.ends_with("[not-delivered]"), "{refused}");
        }
        assert_eq!(vat.status::<Client>("other").in_flight, 0);

        // One is idle: it makes room, though it is still there when the next call comes.
        done.notify_one();
        let handle = busy.remove(0).await.unwrap().unwrap();
        drop(handle);
        vat.settle().await;
        put(&other, "k", "v").await.unwrap();
        vat.settle().await;
        assert!(!vat.is_awake::<Client>("p0"));
        assert_eq!(vat.status::<Client>("p0").resets, 0);

        // One is only held on to, and `other` is busy: it is reset.
        done.notify_one();
        let handle = busy.remove(0).await.unwrap().unwrap();
        let wait = done.clone();
        let another = spawn_local(act(&other, async move |_| {
            wait.notified().await;
            Ok(())
        }));
        vat.settle().await;
        let last: Client = vat.object("last");
        put(&last, "k", "v").await.unwrap();
        assert_gone(act(&handle, async |_| Ok(())).await, Code::ObjectReset);
        for _ in 0..3 {
            done.notify_one();
            vat.settle().await;
        }
        another.await.unwrap().unwrap();
    });
}
