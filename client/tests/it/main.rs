//! The client against a vat of the tests' own.

mod fake;
mod limits;
mod reconnect;
mod use_it;

use capnp::capability::FromClientHook;
use vatwerk::{cell_capnp::cell, counter_capnp::counter, storage_capnp::operations};
use vatwerk_client::{Call, Stub};

/// Adds to a counter, and returns the sum.
fn increment(stub: &Stub<counter::Client>, amount: i64) -> Call<i64> {
    stub.call(async move |counter| {
        let mut request = counter.increment_request();
        request.get().set_amount(amount);
        Ok(request.send().promise.await?.get()?.get_count())
    })
}

/// Passes a cell to itself; whether it got itself and nothing in between.
fn is_itself(stub: &Stub<cell::Client>) -> Call<bool> {
    let me = stub.clone();
    stub.call(async move |cell| {
        let operations: operations::Client = cell.cast_to();
        let mut request = operations.list_request();
        request.get().set_sink(me.local()?.cast_to());
        Ok(request.send().promise.await?.get()?.get_count() == 1)
    })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}
