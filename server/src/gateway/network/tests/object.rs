//! An object with what a peer needs to tie knots: it gives back, keeps, waits and calls.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;

use capnp::Error;
use capnp::any_pointer;
use capnp::capability::{Client, DispatchCallResult, FromServer, Params, Promise, Results};
use tokio::sync::{Notify, oneshot};

pub const NOTHING: u16 = 0;
/// Returns the capability it is given.
pub const ECHO: u16 = 1;
pub const NEVER: u16 = 2;
/// Keeps the capability it is given, or that it was given none.
pub const PUT: u16 = 3;
/// Waits for the next `PUT` and returns that capability.
pub const TAKE: u16 = 4;
/// Calls the capability it is given and returns its result before it is there.
pub const PIPELINE: u16 = 5;
/// Calls the capability it is given, waits, and returns its result.
pub const FORWARD: u16 = 6;
/// Returns `BIG_BYTES` bytes.
pub const BIG: u16 = 7;
/// Returns `ECHO`'s result after the next `PUT`.
pub const LATE_ECHO: u16 = 8;
/// Calls the capability it is given with two of its own, one of them a promise, and does not wait.
pub const PASS: u16 = 9;
/// Returns `BIG_BYTES` bytes after the next `PUT`.
pub const LATE_BIG: u16 = 10;
pub const METHODS: u16 = 11;
/// Panics; not among the methods that are called at random.
pub const PANIC: u16 = 11;
/// Calls the capability it is given with `BIG_BYTES` bytes; not among the methods called at random.
pub const SEND_BIG: u16 = 12;

/// Calls the capability it is given, and keeps the promise of its result; none of these are called at random.
pub const KEEP_RESULT: u16 = 13;
/// Returns the capability that it keeps.
pub const KEPT: u16 = 14;
/// Returns the capability that it keeps, and `BIG_BYTES` bytes.
pub const KEPT_BIG: u16 = 15;
/// Returns the capability it is given, and a promise of its own.
pub const WITH_PROMISE: u16 = 16;

pub const BIG_BYTES: u32 = 100_000;
pub const INTERFACE: u64 = 0xf00d_f00d_f00d_f00d;

thread_local! {
    /// How many of the objects that `PASS` passes exist.
    static PASSED: Cell<usize> = const { Cell::new(0) };
}

/// How many of the objects that `PASS` passes exist in this thread.
pub fn passed() -> usize {
    PASSED.get()
}

/// Counts the object that holds it among those that `PASS` passes.
struct Passed;

impl Passed {
    fn new() -> Self {
        PASSED.set(PASSED.get() + 1);
        Passed
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        PASSED.set(PASSED.get() - 1);
    }
}

#[derive(Default)]
pub struct Knot {
    kept: RefCell<Option<Client>>,
    put: Notify,
    _passed: Option<Passed>,
}

impl Knot {
    fn passed() -> Client {
        capnp_rpc::new_client(Knot {
            _passed: Some(Passed::new()),
            ..Knot::default()
        })
    }
}

#[derive(Clone)]
pub struct Dispatch(Rc<Knot>);

impl Deref for Dispatch {
    type Target = Knot;
    fn deref(&self) -> &Knot {
        &self.0
    }
}

impl FromServer<Knot> for Client {
    type Dispatch = Dispatch;
    fn from_server(knot: Rc<Knot>) -> Dispatch {
        Dispatch(knot)
    }
}

impl capnp::capability::Server for Dispatch {
    fn dispatch_call(
        self,
        _interface: u64,
        method: u16,
        params: Params<any_pointer::Owned>,
        results: Results<any_pointer::Owned>,
    ) -> DispatchCallResult {
        let run = async move { self.0.run(method, params, results).await };
        DispatchCallResult::new(Promise::from_future(run), false)
    }

    fn as_ptr(&self) -> usize {
        Rc::as_ptr(&self.0) as usize
    }
}

impl Knot {
    fn kept(&self) -> Result<Client, Error> {
        let kept = self.kept.borrow();
        let kept = kept
            .as_ref()
            .ok_or_else(|| Error::failed("nothing is kept".into()));
        Ok(Client::new(kept?.hook.add_ref()))
    }

    async fn run(
        &self,
        method: u16,
        params: Params<any_pointer::Owned>,
        mut results: Results<any_pointer::Owned>,
    ) -> Result<(), Error> {
        let given = || params.get()?.get_as_capability::<Client>();
        let gives = |mut results: Results<any_pointer::Owned>, client: Client| {
            results.get().set_as_capability(client.hook);
        };
        match method {
            NOTHING => (),
            ECHO => gives(results, given()?),
            NEVER => std::future::pending().await,
            PUT => {
                *self.kept.borrow_mut() = given().ok();
                self.put.notify_waiters();
            }
            TAKE => {
                self.put.notified().await;
                let kept = self.kept.borrow().as_ref().map(|c| c.hook.add_ref());
                let nothing = || Error::failed("nothing was put".into());
                gives(results, Client::new(kept.ok_or_else(nothing)?));
            }
            PIPELINE => {
                let request = given()?
                    .new_call::<any_pointer::Owned, any_pointer::Owned>(INTERFACE, NOTHING, None);
                let sent = request.send();
                let result = sent.pipeline.as_cap();
                gives(results, Client::new(result));
            }
            FORWARD => {
                let request = given()?
                    .new_call::<any_pointer::Owned, any_pointer::Owned>(INTERFACE, NOTHING, None);
                let response = request.send().promise.await?;
                gives(results, response.get()?.get_as_capability()?);
            }
            BIG => {
                let data: capnp::data::Builder<'_> = results.get().initn_as(BIG_BYTES);
                data.fill(7);
            }
            LATE_ECHO => {
                let given = given()?;
                self.put.notified().await;
                gives(results, given);
            }
            LATE_BIG => {
                self.put.notified().await;
                let data: capnp::data::Builder<'_> = results.get().initn_as(BIG_BYTES);
                data.fill(7);
            }
            PASS => {
                let mut request = given()?
                    .new_call::<any_pointer::Owned, any_pointer::Owned>(INTERFACE, NOTHING, None);
                let mut two: capnp::any_pointer_list::Builder<'_> = request.get().initn_as(2);
                let settled = Knot::passed();
                let promise = capnp_rpc::new_future_client(async { Ok(Knot::passed()) });
                for (place, client) in [settled, promise].into_iter().enumerate() {
                    two.reborrow()
                        .get(place as u32)
                        .set_as_capability(client.hook);
                }
                drop(request.send());
            }
            SEND_BIG => {
                let mut request = given()?
                    .new_call::<any_pointer::Owned, any_pointer::Owned>(INTERFACE, NOTHING, None);
                let _: capnp::data::Builder<'_> = request.get().initn_as(BIG_BYTES);
                request.send().promise.await?;
            }
            KEEP_RESULT => {
                let request = given()?
                    .new_call::<any_pointer::Owned, any_pointer::Owned>(INTERFACE, NOTHING, None);
                let sent = request.send().promise;
                let (tell, told) = oneshot::channel();
                tokio::task::spawn_local(async move {
                    let result = async { sent.await?.get()?.get_as_capability() };
                    let _: Result<(), Result<Client, Error>> = tell.send(result.await);
                });
                let gone = || Error::failed("the test is over".into());
                let promise = async move { told.await.map_err(|_| gone())? };
                *self.kept.borrow_mut() = Some(capnp_rpc::new_future_client(promise));
            }
            KEPT => gives(results, self.kept()?),
            KEPT_BIG => {
                let mut two: capnp::any_pointer_list::Builder<'_> = results.get().initn_as(2);
                two.reborrow().get(0).set_as_capability(self.kept()?.hook);
                let data: capnp::data::Builder<'_> = two.get(1).initn_as(BIG_BYTES);
                data.fill(7);
            }
            WITH_PROMISE => {
                let promise: Client = capnp_rpc::new_future_client(std::future::pending());
                *self.kept.borrow_mut() = Some(Client::new(promise.hook.add_ref()));
                let mut two: capnp::any_pointer_list::Builder<'_> = results.get().initn_as(2);
                for (place, client) in [given()?, promise].into_iter().enumerate() {
                    two.reborrow()
                        .get(place as u32)
                        .set_as_capability(client.hook);
                }
            }
            PANIC => panic!("on demand"),
            _ => return Err(Error::unimplemented("no such method".into())),
        }
        Ok(())
    }
}
