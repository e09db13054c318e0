//! The client against a vat of the tests' own.

mod fake;
mod reconnect;
mod use_it;

use vatwerk::counter_capnp::counter;
use vatwerk_client::{Call, Stub};

/// Adds to a counter, and returns the sum.
fn increment(stub: &Stub<counter::Client>, amount: i64) -> Call<i64> {
    stub.call(async move |counter| {
        let mut request = counter.increment_request();
        request.get().set_amount(amount);
        Ok(request.send().promise.await?.get()?.get_count())
    })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}
