//! Calls whose JSON is too long for the vat's thread.

use std::{rc::Rc, sync::mpsc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, stream};
use http_body_util::BodyExt;
use tokio::{
    runtime::Builder,
    task::{LocalSet, spawn_blocking, yield_now},
    time::timeout,
};
use vatwerk_server::{Class, Context, http::Request};

use super::{client::Client, listen, numbers::number};
use crate::{
    door_capnp::porter,
    support::{Controls, TestVat, run},
};

/// A class that takes many things at once.
struct Porter(Rc<Controls>);

/// A box of this label is carried only when the test lets it go.
const HEAVY: &str = r#"{"label":"heavy"}"#;

impl Class for Porter {
    const NAME: &'static str = "Porter";
    const SCHEMA: &'static [u8] = include_bytes!("../support/door.cgr");
    type Client = porter::Client;

    async fn activate(ctx: Context) -> capnp::Result<Porter> {
        let controls = ctx.binding().expect("every vat under test has them");
        Ok(Porter(controls))
    }
}

impl porter::Server for Porter {
    async fn carry(
        self: Rc<Self>,
        params: porter::CarryParams,
        mut results: porter::CarryResults,
    ) -> capnp::Result<()> {
        let boxes = params.get()?.get_boxes()?;
        if boxes.get(boxes.len() - 1).get_label()? == "heavy" {
            self.0.wait("heavy").await;
        }
        let weight = boxes.iter().map(|it| it.get_weight()).sum();
        results.get().set_weight(weight);
        Ok(())
    }
}

/// A vat whose calls may have 4 MiB of JSON, and may hold little more than that.
async fn vat() -> TestVat {
    let mut vat = TestVat::unstarted(|config| {
        config.http.listen = listen();
        config.http.call_bytes = 4 << 20;
        config.http.answer_bytes = 64;
        config.http.held_bytes = 4 << 20;
        config.metrics = Some("127.0.0.1:0".parse().expect("an address"));
    });
    let started = vat.start_serving(|server| server.class::<Porter>());
    started.await.expect("the vat starts");
    vat
}

/// A call that carries so many boxes, with `last` behind them.
fn boxes(count: usize, last: &str) -> String {
    format!("{{\"boxes\":[{}{last}]}}", "{},".repeat(count))
}

/// The status and the text of the answer to a call.
async fn carry(client: &mut Client, json: String) -> (u16, String) {
    let request = Request::post("/Porter/n/call/carry")
        .header("content-length", json.len())
        .body(())
        .unwrap();
    let body = stream::iter([Bytes::from(json)]);
    let answer = client.stream(request, body).await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(text.into()).unwrap())
}

#[test]
fn a_long_call_is_like_a_short_one() {
    run(async {
        let vat = vat().await;
        // In the message, each box has 16 bytes.
        for mut client in Client::each(&vat).await {
            for count in [3, 200_000] {
                let answer = carry(&mut client, boxes(count, r#"{"weight":2}"#)).await;
                let expected = format!("{{\"weight\":{}}}", count + 2);
                assert_eq!(answer, (200, expected));
                for (last, said) in [
                    ("7", format!("boxes[{count}]: ")),
                    (r#"{"weight":1,"weight":1}"#, "it is there twice".to_owned()),
                    (r#"{"colour":1}"#, "carry(boxes :List(Box))".to_owned()),
                    ("", "not JSON".to_owned()),
                ] {
                    let (status, text) = carry(&mut client, boxes(count, last)).await;
                    assert_eq!(status, 400, "{last}: {text}");
                    assert!(text.contains("invalid-argument"), "{last}: {text}");
                    assert!(text.contains(&said), "{last}: {text}");
                }
            }
            let (status, text) = carry(&mut client, boxes(2_000_000, "{}")).await;
            assert_eq!(status, 413, "{text}");
        }
    });
}

#[test]
fn the_message_of_a_call_is_counted_until_the_call_is_over() {
    run(async {
        let vat = vat().await;
        let held = "http_held_bytes";
        let mut client = Client::one(&vat).await;
        let mut heavy = Box::pin(carry(&mut client, boxes(200_000, HEAVY)));
        tokio::select! {
            answer = &mut heavy => panic!("{answer:?}"),
            () = vat.controls.reached("heavy") => {}
        }
        // 16 bytes a box, where the JSON had 3.
        let message = 200_001.0 * 16.0;
        assert!((message..message + 100.0).contains(&number(&vat, held).await));
        let mut other = Client::one(&vat).await;
        let (status, text) = carry(&mut other, boxes(200_000, "{}")).await;
        assert_eq!(status, 503, "{text}");
        assert!(
            text.contains("overloaded") && text.contains("not-delivered"),
            "{text}"
        );
        assert_eq!(carry(&mut other, boxes(3, "{}")).await.0, 200);
        vat.controls.release("heavy");
        assert_eq!(heavy.await.0, 200);
        assert_eq!(number(&vat, held).await, 0.0);
        // One that needs more than all the room goes alone.
        assert_eq!(carry(&mut other, boxes(1_000_000, "{}")).await.0, 200);
        assert_eq!(number(&vat, held).await, 0.0);
    });
}

#[test]
fn while_a_long_call_is_read_the_vat_serves_others() {
    // Of one other thread, so that the test can keep it from the vat.
    let runtime = Builder::new_current_thread()
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let test = async {
        let vat = vat().await;
        let (release, released) = mpsc::channel::<()>();
        let kept = spawn_blocking(move || released.recv());
        let mut client = Client::one(&vat).await;
        let mut long = Box::pin(carry(&mut client, boxes(200_000, "{}")));
        // All that the client has to say is said, and with the vat.
        while number(&vat, "http_held_bytes").await < 600_000.0 {
            assert!((&mut long).now_or_never().is_none());
            yield_now().await;
        }
        let mut other = Client::one(&vat).await;
        for count in 1..20 {
            let answer = carry(&mut other, boxes(count, "{}")).await;
            assert_eq!(answer.0, 200, "{}", answer.1);
            assert!((&mut long).now_or_never().is_none());
        }
        release.send(()).unwrap();
        kept.await.unwrap().unwrap();
        assert_eq!(long.await.0, 200);
    };
    LocalSet::new().block_on(&runtime, async {
        let within = timeout(Duration::from_secs(120), test).await;
        within.expect("the test hangs");
    });
}
