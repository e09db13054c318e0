//! An object that is deleted is gone, whatever happens meanwhile, and does not come back by itself.

use std::{cell::Cell, rc::Rc, time::Duration};

use tokio::{task::spawn_local, time::sleep};
use vatwerk::Code;
use vatwerk_server::{
    AlarmInfo, Context,
    testing::{State, Survival, TestVat, run},
};

use crate::support::{
    code, on_this_thread,
    puppet::{Client, Own, Program, Puppet, act, get, put, vat},
};

const SECOND: Duration = Duration::from_secs(1);

async fn listed(vat: &TestVat) -> u32 {
    let mut request = vat.session().namespace_request();
    request.get().init_key().set_class_name("Puppet");
    let mut request = request.send().pipeline.get_namespace().list_request();
    request.get().set_limit(100);
    let answer = request.send().promise.await.unwrap();
    answer.get().unwrap().get_objects().unwrap().len()
}

#[test]
fn what_is_deleted_is_gone_with_its_alarm_and_its_listing_also_after_a_crash() {
    run(async {
        for crashes in [false, true] {
            for sleeps in [false, true] {
                let (vat, p) = vat().await;
                put(&p, "k", "v").await.unwrap();
                let set = act(&p, async |own| {
                    own.memory.set(7);
                    Ok(own.ctx.alarms()?.set_in(60 * SECOND)?)
                });
                set.await.unwrap();
                assert!(vat.next_alarm::<Client>("p").is_some());
                assert_eq!(listed(&vat).await, 1);
                if sleeps {
                    vat.evict::<Client>("p").await;
                }
                assert_eq!(vat.delete::<Client>("p").await, Ok(true));
                if crashes {
                    vat.lose_power(Survival::Nothing).await;
                }
                assert_eq!(listed(&vat).await, 0);
                assert_eq!(vat.next_alarm::<Client>("p"), None);
                assert!(!vat.run_alarms().await);
                assert_eq!(vat.delete::<Client>("p").await, Ok(false));
                // The stub names the object that comes into being now.
                let found = act(&p, async |own| {
                    let alarm = own.ctx.alarms()?.get()?;
                    Ok((own.memory.get(), own.get("k")?, alarm))
                });
                assert_eq!(found.await.unwrap(), (0, None, None));
                assert_eq!(listed(&vat).await, 0);
                put(&p, "k", "anew").await.unwrap();
                assert_eq!(listed(&vat).await, 1);
                vat.restart().await;
                assert_eq!(get(&p, "k").await.unwrap().unwrap(), "anew");
            }
        }
    });
}

#[test]
fn a_call_in_flight_on_what_is_deleted_fails_and_those_behind_make_the_object_anew() {
    run(async {
        let (vat, p) = vat().await;
        put(&p, "k", "v").await.unwrap();
        let running = act(&p, async |own| {
            own.put("k", "newer")?;
            sleep(60 * SECOND).await;
            Ok(own.put("k", "newest")?)
        });
        let running = spawn_local(running);
        vat.settle().await;
        let (deleted, found) = tokio::join!(vat.delete::<Client>("p"), async {
            // While the end is on its way to the disk.
            vat.hold_commits();
            let found = spawn_local({
                let p = p.clone();
                async move { get(&p, "k").await }
            });
            vat.settle().await;
            vat.release_commits();
            found.await.unwrap()
        });
        assert_eq!(deleted, Ok(true));
        assert_eq!(code(running.await.unwrap()), Code::ObjectReset);
        assert_eq!(found.unwrap(), None);
    });
}

/// Counts how often an object is made.
struct Made;

impl Program for Made {
    async fn create(ctx: &Context) -> capnp::Result<()> {
        let made = ctx.binding::<Rc<Cell<u32>>>().expect("the test binds it");
        made.set(made.get() + 1);
        Ok(())
    }

    async fn alarm(own: Rc<Own>, _: AlarmInfo) -> capnp::Result<()> {
        Ok(own.put("rung", "yes")?)
    }
}

#[test]
fn wherever_a_crash_comes_an_object_that_is_being_deleted_is_there_whole_or_not_at_all() {
    run(async {
        for operation in 1.. {
            let made = Rc::new(Cell::new(0_u32));
            let bound = on_this_thread(made.clone());
            let vat = TestVat::start(move |server| {
                let server = server.class::<Puppet<Made>>();
                server.binding_with(bound.clone())
            })
            .await;
            let p: Client = vat.object("p");
            put(&p, "k", "v").await.unwrap();
            let set = act(&p, async |own| Ok(own.ctx.alarms()?.set_in(60 * SECOND)?));
            set.await.unwrap();
            vat.evict::<Client>("p").await;
            let disk = vat.disk();
            disk.crash_at(disk.operations() + operation);
            let deleted = vat.delete::<Client>("p").await;
            let has_crashed = disk.has_crashed();
            vat.lose_power(operation).await;
            if deleted.is_ok() {
                assert_eq!(listed(&vat).await, 0);
                assert_eq!(vat.next_alarm::<Client>("p"), None);
            }
            vat.advance(100 * SECOND).await;
            assert_eq!(made.get(), 1, "its alarm does not make it anew");
            let found = act(&p, async |own| Ok((own.get("k")?, own.get("rung")?)));
            let whole = (Some("v".into()), Some("yes".into()));
            match found.await.unwrap() {
                found if found == whole => assert!(deleted.is_err()),
                found => assert_eq!(found, (None, None), "{operation}"),
            }
            if !has_crashed {
                return assert!(operation > 3, "{operation}");
            }
        }
    });
}

/// Fails to be made, and has set an alarm by then.
struct Unborn;

impl Program for Unborn {
    async fn create(ctx: &Context) -> capnp::Result<()> {
        let tries = ctx.binding::<Rc<Cell<u32>>>().expect("the test binds it");
        tries.set(tries.get() + 1);
        ctx.alarms()?.set_in(SECOND)?;
        tokio::task::yield_now().await;
        Err(capnp::Error::failed("told to".into()))
    }
}

#[test]
fn the_alarm_of_an_object_that_failed_to_be_made_does_not_make_it() {
    run(async {
        let tries = Rc::new(Cell::new(0_u32));
        let bound = on_this_thread(tries.clone());
        let vat = TestVat::start(move |server| {
            let server = server.class::<Puppet<Unborn>>();
            server.binding_with(bound.clone())
        })
        .await;
        let p: Client = vat.object("p");
        assert_eq!(code(get(&p, "k").await), Code::ActivationFailed);
        vat.advance(100 * SECOND).await;
        assert_eq!(tries.get(), 1);
        assert_eq!(vat.next_alarm::<Client>("p"), None);
    });
}

/// Its alarms take a minute.
struct Slow;

impl Program for Slow {
    async fn alarm(own: Rc<Own>, _: AlarmInfo) -> capnp::Result<()> {
        own.ctx.sleep(60 * SECOND).await;
        Ok(own.put("k", "of the alarm")?)
    }
}

#[test]
fn an_object_that_is_deleted_while_its_alarm_runs_does_not_come_back() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<Slow>>()).await;
        let p: Client = vat.object("p");
        let set = act(&p, async |own| Ok(own.ctx.alarms()?.set_in(SECOND)?));
        set.await.unwrap();
        vat.advance(5 * SECOND).await;
        assert_eq!(vat.status::<Client>("p").in_flight, 1);
        assert_eq!(vat.delete::<Client>("p").await, Ok(true));
        vat.advance(200 * SECOND).await;
        assert_eq!(listed(&vat).await, 0);
        assert_eq!(vat.status::<Client>("p").state, State::Asleep);
        assert_eq!(vat.next_alarm::<Client>("p"), None);
    });
}

/// Panics when it is dropped.
struct Mine;

impl Drop for Mine {
    fn drop(&mut self) {
        panic!("a destructor was told to panic");
    }
}

#[test]
fn whatever_destructors_do_a_deletion_leaves_no_caller_without_an_answer() {
    run(async {
        let (vat, p) = vat().await;
        put(&p, "k", "v").await.unwrap();
        let calls = [(); 3].map(|()| {
            spawn_local(act(&p, async |_| {
                let _mine = Mine;
                std::future::pending::<capnp::Result<()>>().await
            }))
        });
        vat.settle().await;
        assert_eq!(vat.delete::<Client>("p").await, Ok(true));
        for call in calls {
            let error = call.await.unwrap().unwrap_err();
            assert!(error.extra.contains("deleted"), "{error}");
            assert_eq!(code::<()>(Err(error)), Code::ObjectReset);
        }
    });
}
