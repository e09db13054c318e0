//! Calls on one stub begin in the order in which they were sent.

use std::{fs, path::Path};

use futures::future::join_all;
use tempfile::tempdir;

use super::{PATIENCE, block_on};
use crate::{
    promises_capnp::herald,
    vat::{Vat, example},
};

const CALLS: usize = 2500;

/// How many of many writing calls that are in flight at once on one stub, over a unix socket, begin after
/// one that was sent later.
fn overtaken(folder: &Path, settings: &str, bytes: usize) -> usize {
    fs::write(folder.join("vat.toml"), settings).unwrap();
    let args = ["--config", "vat.toml", "--listen", "unix:vat.sock"];
    let _vat = Vat::spawn_program(&example("promises"), folder, args).ready(1);
    let address = format!("unix:{}", folder.join("vat.sock").display());
    // A commit of such bytes is as long as they are.
    let mut noise = vec![0; CALLS + bytes];
    fastrand::Rng::with_seed(1).fill(&mut noise);
    block_on(async {
        let builder = vatwerk_client::Client::builder().call_timeout(2 * PATIENCE);
        let client = builder.connect_local(&address).await.unwrap();
        let object: herald::Client = client.namespace().get("x");
        let calls = (0..CALLS).map(|number| {
            let mut request = object.count_request();
            request.get().set_note(&noise[number..][..bytes]);
            request.send().promise
        });
        let answers = join_all(calls.collect::<Vec<_>>()).await;
        let begun = answers
            .into_iter()
            .map(|answer| answer.unwrap().get().unwrap().get_number() as usize);
        begun
            .enumerate()
            .filter(|(sent, begun)| *begun != sent + 1)
            .count()
    })
}

#[test]
fn writing_calls_on_one_stub_begin_in_the_order_in_which_they_were_sent() {
    for (settings, bytes) in [
        ("[limits]\njournal_bytes = 8_388_608\n", 16 << 10),
        ("", 16 << 10),
        ("", 100),
    ] {
        let folder = tempdir().unwrap();
        let overtaken = overtaken(folder.path(), settings, bytes);
        assert_eq!(overtaken, 0, "of {CALLS}, {bytes} bytes each: {settings}");
    }
}
