//! Bodies of requests that end before their end.

use std::future::poll_fn;

use bytes::Bytes;
use h2::{Reason, SendStream};
use tokio::{io::AsyncWriteExt, task::JoinHandle};
use vatwerk_server::http::Request;

use super::{
    client::{Client, connect, frames},
    vat,
};
use crate::support::{TestVat, run_paused, settle};

/// The paths that read a body, each with what would be a whole one.
const READERS: [(&str, &str); 2] = [
    ("/Page/n/swallow", "whole"),
    ("/Page/n/call/increment", r#"{"amount":5}"#),
];

/// Sees to it that nobody has taken a body for whole.
async fn nothing_ran(vat: &TestVat, how: &str) {
    settle().await;
    assert_eq!(vat.controls.arrivals("swallowed"), 0, "{how}");
    let mut client = Client::one(vat).await;
    let count = client
        .post("/Page/n/call/increment", r#"{"amount":0}"#)
        .await;
    assert_eq!(count.text, r#"{"count":0}"#, "{how}");
}

/// A connection of HTTP/2 that has sent the head of a request and this of its body, without END_STREAM.
/// Aborting the task closes it without a word.
async fn begin(vat: &TestVat, path: &str, sent: &str) -> (SendStream<Bytes>, JoinHandle<()>) {
    let (mut send, driver) = frames(vat).await;
    let request = Request::post(format!("http://localhost{path}"));
    let (_, mut body) = send.send_request(request.body(()).unwrap(), false).unwrap();
    if !sent.is_empty() {
        body.reserve_capacity(sent.len());
        poll_fn(|cx| body.poll_capacity(cx)).await.unwrap().unwrap();
        let sent = Bytes::copy_from_slice(sent.as_bytes());
        body.send_data(sent, false).unwrap();
    }
    settle().await;
    (body, driver)
}

#[test]
fn an_upload_of_http_2_that_is_cancelled_is_not_whole() {
    run_paused(async {
        let vat = vat().await;
        let reasons = [
            Reason::NO_ERROR,
            Reason::CANCEL,
            Reason::INTERNAL_ERROR,
            Reason::REFUSED_STREAM,
        ];
        for (path, whole) in READERS {
            // A call without a body is one, too.
            for sent in [whole, ""] {
                for reason in reasons {
                    let (mut body, _driver) = begin(&vat, path, sent).await;
                    body.send_reset(reason);
                    nothing_ran(&vat, &format!("{path} {sent:?} {reason:?}")).await;
                }
                let (_body, driver) = begin(&vat, path, sent).await;
                driver.abort();
                nothing_ran(&vat, &format!("{path} {sent:?} and no more")).await;
            }
        }
        // And what ends as it should does run.
        for (path, whole) in READERS {
            let (mut body, _driver) = begin(&vat, path, whole).await;
            body.send_data(Bytes::new(), true).unwrap();
            settle().await;
        }
        assert_eq!(vat.controls.arrivals("swallowed"), 1);
        let mut client = Client::one(&vat).await;
        let count = client.post("/Page/n/call/increment", "").await;
        assert_eq!(count.text, r#"{"count":6}"#);
    });
}

#[test]
fn an_upload_of_http_1_that_breaks_off_is_not_whole() {
    run_paused(async {
        let vat = vat().await;
        for (path, whole) in READERS {
            let (length, hex) = (whole.len() + 1, format!("{:x}", whole.len()));
            let bodies = [
                format!("content-length: {length}\r\n\r\n{whole}"),
                format!("content-length: {length}\r\n\r\n"),
                format!("transfer-encoding: chunked\r\n\r\n{hex}\r\n{whole}\r\n"),
                format!("transfer-encoding: chunked\r\n\r\n{hex}\r\n{whole}\r\n0"),
                format!("transfer-encoding: chunked\r\n\r\n{hex}\r\n{whole}\r\n0\r\n"),
                format!("transfer-encoding: chunked\r\n\r\n{hex}\r\n{whole}\r\n0\r\nx: y\r\n"),
                format!("transfer-encoding: chunked\r\n\r\n{hex}\r\n{whole}\r\nx\r\n"),
                "transfer-encoding: chunked\r\n\r\n".into(),
            ];
            for body in bodies {
                for only_half in [true, false] {
                    let mut stream = connect(&vat).await;
                    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{body}");
                    stream.write_all(head.as_bytes()).await.unwrap();
                    settle().await;
                    stream.shutdown().await.unwrap();
                    let stream = only_half.then_some(stream);
                    nothing_ran(&vat, &head).await;
                    drop(stream);
                }
            }
        }
    });
}
