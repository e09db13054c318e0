//! What an operator's reset does to an object that is stuck.

use std::{cell::Cell, rc::Rc, time::Duration};

use capnp::traits::HasTypeId;
use futures::future::join_all;
use tokio::task::spawn_local;
use vatwerk::{Code, object_capnp::namespace};
use vatwerk_client::ObjectKey;
use vatwerk_server::{
    Context,
    fetch::Frame,
    testing::{TestVat, run},
};

use crate::support::{
    code,
    puppet::{Client, Own, Program, Puppet, act, connect, get, obtain, put},
};

const SECOND: Duration = Duration::from_secs(1);

/// The objects of a class, as an operator has them.
fn space(vat: &TestVat) -> namespace::Client {
    let mut request = vat.session().namespace_request();
    request.get().init_key().set_interface_id(Client::TYPE_ID);
    request.send().pipeline.get_namespace()
}

async fn reset(space: &namespace::Client, key: impl Into<ObjectKey>) -> capnp::Result<bool> {
    let mut request = space.reset_request();
    key.into().write(request.get().init_key());
    Ok(request.send().promise.await?.get()?.get_was_awake())
}

/// Takes one call at a time.
struct Serial;

impl Program for Serial {
    const SERIAL: bool = true;
}

#[test]
fn a_call_that_waits_for_ever_is_reset_and_those_behind_it_go_to_the_next_instance() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<Serial>>()).await;
        let (p, space) = (vat.object::<Client>("p"), space(&vat));
        let handle = obtain(&p, async |own| Ok(own.handle())).await.unwrap();
        let stuck = spawn_local(act(&p, async |own| {
            own.memory.set(1);
            own.put("k", "of the first turn")?;
            std::future::pending::<capnp::Result<()>>().await
        }));
        let queued: Vec<_> = (0..3)
            .map(|_| spawn_local(act(&p, async |own| Ok((own.memory.get(), own.get("k")?)))))
            .collect();
        vat.advance(Duration::from_secs(60)).await;
        let status = vat.status::<Client>("p");
        assert_eq!((status.in_flight, status.queued), (4, 3));
        assert!(reset(&space, "p").await.unwrap());
        let error = stuck.await.unwrap().unwrap_err();
        assert!(error.extra.contains("an operator"), "{error}");
        assert!(!error.extra.contains("not-delivered"), "{error}");
        assert_eq!(code::<()>(Err(error)), Code::ObjectReset);
        for outcome in join_all(queued).await {
            let (memory, stored) = outcome.unwrap().unwrap();
            assert_eq!((memory, stored.as_deref()), (0, Some("of the first turn")));
        }
        assert_eq!(
            code(act(&handle, async |_| Ok(())).await),
            Code::ObjectReset
        );
        assert_eq!(vat.status::<Client>("p").resets, 1);
    });
}

#[test]
fn one_that_sleeps_or_is_not_there_is_left_alone_and_a_narrowed_namespace_keeps_its_reach() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet>()).await;
        let (p, space) = (vat.object::<Client>("p"), space(&vat));
        assert!(!reset(&space, "never").await.unwrap());
        let mut show = space.show_request();
        ObjectKey::from("never").write(show.get().init_key());
        let shown = show.send().promise.await.unwrap();
        let shown = shown.get().unwrap().get_status().unwrap();
        assert!(!shown.get_exists());

        put(&p, "k", "v").await.unwrap();
        let id = act(&p, async |own| Ok(own.ctx.id())).await.unwrap();
        assert!(reset(&space, id).await.unwrap());
        assert!(!reset(&space, id).await.unwrap());
        assert!(!vat.is_awake::<Client>("p"));
        assert_eq!(get(&p, "k").await.unwrap().unwrap(), "v");

        let mut narrowed = space.restrict_request();
        narrowed.get().set_prefix("user-");
        let narrowed = narrowed.send().pipeline.get_namespace();
        assert_eq!(code(reset(&narrowed, "p").await), Code::PermissionDenied);
        assert_eq!(code(reset(&narrowed, id).await), Code::PermissionDenied);
        assert!(!reset(&narrowed, "user-1").await.unwrap());
        assert_eq!(code(reset(&space, "").await), Code::InvalidArgument);
        assert!(vat.is_awake::<Client>("p"));
    });
}

thread_local! {
    static STUCK: Cell<bool> = const { Cell::new(true) };
}

/// The first instance does not wake.
struct Sleepyhead;

impl Program for Sleepyhead {
    async fn activate(_: &Context) -> capnp::Result<()> {
        match STUCK.replace(false) {
            true => std::future::pending().await,
            false => Ok(()),
        }
    }
}

#[test]
fn one_that_does_not_wake_is_reset_too_and_what_waits_for_it_wakes_the_next() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<Sleepyhead>>()).await;
        let waiting = spawn_local({
            let p = vat.object::<Client>("p");
            async move { put(&p, "k", "v").await }
        });
        vat.settle().await;
        assert!(!waiting.is_finished());
        assert!(reset(&space(&vat), "p").await.unwrap());
        waiting.await.unwrap().unwrap();
    });
}

#[test]
fn web_sockets_of_an_object_that_is_reset_close() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet>()).await;
        let p = vat.object::<Client>("p");
        let _socket = connect(&p, &[]).await.unwrap();
        let open = async |own: Rc<Own>| Ok(own.ctx.web_sockets(None).len());
        assert_eq!(act(&p, open).await.unwrap(), 1);
        assert!(reset(&space(&vat), "p").await.unwrap());
        assert_eq!(act(&p, open).await.unwrap(), 0);
    });
}

/// Takes 20 s to wake.
struct Sleepy;

impl Program for Sleepy {
    async fn activate(ctx: &Context) -> capnp::Result<()> {
        ctx.sleep(20 * SECOND).await;
        Ok(())
    }
}

#[test]
fn a_reset_of_an_object_that_wakes_is_a_reset_like_others() {
    run(async {
        let vat = TestVat::start(|server| server.class::<Puppet<Sleepy>>()).await;
        let p = vat.object::<Client>("p");
        let mut socket = connect(&p, &[]).await.unwrap();
        vat.evict::<Client>("p").await;
        let call = spawn_local(act(&p, async |_| Ok(())));
        vat.settle().await;
        assert!(reset(&space(&vat), "p").await.unwrap());
        assert_eq!(vat.status::<Client>("p").resets, 1);
        let closed = socket.next().await.unwrap().into_frame();
        assert!(
            matches!(closed, Frame::Close { code: 1012, .. }),
            "{closed:?}"
        );
        call.await.unwrap().unwrap();
    });
}
