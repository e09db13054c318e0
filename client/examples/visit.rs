//! Counts a visit.

use vatwerk::counter_capnp::counter;
use vatwerk_client::Client;

#[tokio::main]
async fn main() -> vatwerk_client::Result<()> {
    let client = Client::connect("unix:./data/vat.sock").await?;
    let counters = client.namespace::<counter::Client>();
    let visits = counters.get("front-page");
    let count = visits
        .call(async |counter| {
            let mut request = counter.increment_request();
            request.get().set_amount(1);
            Ok(request.send().promise.await?.get()?.get_count())
        })
        .await?;
    println!("visit number {count}");
    Ok(())
}
