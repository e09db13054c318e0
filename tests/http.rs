//! Objects over HTTP: real sockets, and a vat in the test's own thread.

mod annotated;
mod births;
mod broken;
mod calls;
mod client;
mod crowd;
mod gateway;
mod hosts;
mod large;
mod limits;
mod noise;
mod numbers;
mod open;
mod page;
mod pages;
mod stop;
mod trickle;
mod who;

use vatwerk_server::{Config, classes::ChatRoom};

use crate::support::TestVat;
use page::Page;

/// A vat that serves `Page` and `ChatRoom`, at any port of this machine.
async fn vat() -> TestVat {
    vat_with(|config| config.http.listen = listen()).await
}

/// Likewise, with other settings, which say where it listens.
async fn vat_with(settings: fn(&mut Config)) -> TestVat {
    let mut vat = TestVat::unstarted(settings);
    start(&mut vat).await;
    vat
}

async fn start(vat: &mut TestVat) {
    let serving = |server: vatwerk_server::Server| server.class::<Page>().class::<ChatRoom>();
    vat.start_serving(serving).await.expect("the vat starts");
}

fn listen() -> Option<Vec<vatwerk::Address>> {
    Some(vec!["127.0.0.1:0".parse().expect("an address")])
}
