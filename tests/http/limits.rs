//! How much a client may use.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use tokio::{io::AsyncWriteExt, time::Instant};
use vatwerk_server::http::Request;

use super::{
    client::{Client, connect, raw, rest},
    listen, vat, vat_with,
};
use crate::support::{run, run_paused, settle};

#[test]
fn heads_are_only_so_long() {
    run(async {
        let vat = vat().await;
        let start = "GET /Page/n/whole HTTP/1.1\r\nhost: localhost\r\n";
        let long = format!("{start}x: {}\r\n\r\n", "x".repeat(40_000));
        let many = format!("{start}{}\r\n", "x: y\r\n".repeat(101));
        for head in [long, many] {
            let answer = raw(&vat, head.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        }
        for mut client in Client::each(&vat).await {
            let path = format!("/Page/n/whole?{}", "x".repeat(9000));
            assert_eq!(client.get(&path).await.error().0, 414);
            let mut many = Request::get("/Page/n/whole");
            for i in 0..101 {
                many = many.header(format!("x-{i}"), "y");
            }
            assert_eq!(client.send(many.body("").unwrap()).await.status, 431);
        }
    });
}

#[test]
fn a_body_longer_than_the_settings_allow_is_refused_however_it_comes() {
    run(async {
        let vat = vat_with(|config| {
            config.http.listen = listen();
            config.http.body_bytes = Some(4);
        })
        .await;
        for mut client in Client::each(&vat).await {
            assert_eq!(client.post("/Page/n/swallow", "abcd").await.text, "4");
            let request = Request::post("/Page/n/swallow").body(()).unwrap();
            let pieces = stream::iter(["abc", "de"].map(Bytes::from));
            let answer = client.stream(request, pieces).await.unwrap();
            assert_eq!(answer.status(), 413);
        }
        let mut client = Client::two(&vat).await;
        let refused = client.post("/Page/n/swallow", "abcde").await;
        assert_eq!(refused.error().0, 413);
    });
}

#[test]
fn who_sends_too_much_hears_why_not() {
    run(async {
        let vat = vat().await;
        for kind in ["application/json", "text/plain"] {
            let mut stream = connect(&vat).await;
            let head = format!(
                "POST /Page/n/call/increment HTTP/1.1\r\nhost: localhost\r\n\
                 content-type: {kind}\r\ncontent-length: 8000000\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            // Most clients look for an answer only when they have said all.
            stream.write_all(&[b' '; 8_000_000]).await.unwrap();
            let answer = rest(&mut stream).await;
            let refused = ["HTTP/1.1 413 ", "HTTP/1.1 415 "];
            assert!(
                refused.iter().any(|it| answer.starts_with(it)),
                "{answer:?}"
            );
        }
    });
}

#[test]
fn a_limit_may_be_as_good_as_none() {
    run(async {
        let vat = vat_with(|config| {
            config.http.listen = listen();
            config.http.connections = usize::MAX;
            config.http.requests = usize::MAX;
            config.http.call_bytes = usize::MAX;
            config.limits.connections = usize::MAX;
            config.limits.alarms_at_once = usize::MAX;
        })
        .await;
        let mut client = Client::one(&vat).await;
        assert_eq!(client.get("/Page/n/whole").await.text, "whole");
    });
}

/// Settings of tests that wait.
fn short(config: &mut vatwerk_server::Config) {
    config.http.listen = listen();
    config.http.idle_ms = 2_000;
    config.http.stall_ms = 5_000;
}

#[test]
fn a_connection_without_a_whole_request_ends() {
    run_paused(async {
        let vat = vat_with(short).await;
        let request = "GET /Page/n/whole HTTP/1.1\r\nhost: localhost\r\n";
        let whole = format!("{request}\r\n");
        let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        for said in ["", "PRI * HT", request, &whole, preface] {
            let mut stream = connect(&vat).await;
            stream.write_all(said.as_bytes()).await.unwrap();
            let started = Instant::now();
            rest(&mut stream).await;
            let took = started.elapsed();
            let limit = Duration::from_secs(2)..Duration::from_secs(10);
            assert!(limit.contains(&took), "{said:?}: {took:?}");
        }
        // One whose request takes long is not idle.
        for version in [1, 2] {
            let mut client = Client::of_version(version, &vat).await;
            let request = Request::get("/Page/n/sleeps?9").body("").unwrap();
            assert_eq!(client.send(request).await.text, "slept");
            // And it is idle from the end of the answer on.
            tokio::time::sleep(Duration::from_millis(1500)).await;
            assert_eq!(client.get("/Page/n/whole").await.text, "whole");
        }
    });
}

#[test]
fn a_body_that_does_not_go_on_is_given_up() {
    run_paused(async {
        let vat = vat_with(short).await;
        for version in [1, 2] {
            for (path, delivery) in [
                ("/Page/n/swallow", "delivery-unknown"),
                ("/Page/n/call/increment", "not-delivered"),
            ] {
                let mut client = Client::of_version(version, &vat).await;
                let started = Instant::now();
                let pieces = stream::iter([Bytes::from("abc")]).chain(stream::pending());
                let request = Request::post(path).body(()).unwrap();
                let answer = client.stream(request, pieces).await.unwrap();
                assert_eq!(answer.status(), 408);
                assert!(started.elapsed() >= Duration::from_secs(5));
                let told = answer.into_body().collect().await.unwrap().to_bytes();
                let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
                assert_eq!(told["error"]["delivery"], delivery, "{path}");
            }
        }
    });
}

#[test]
fn an_answer_that_nobody_reads_is_given_up() {
    run_paused(async {
        let vat = vat_with(short).await;
        // Held, and not read.
        let mut held = Vec::new();
        for version in [1, 2] {
            let mut client = Client::of_version(version, &vat).await;
            let request = Request::get("/Page/n/flood").body(()).unwrap();
            let nothing = stream::empty();
            held.push(client.stream(request, nothing).await.unwrap());
            for _ in 0..200 {
                settle().await;
            }
            let dropped = vat.controls.arrivals("flood dropped");
            assert_eq!(dropped, u32::from(version));
        }
        // One that is read slowly is not.
        let mut client = Client::one(&vat).await;
        let request = Request::get("/Page/n/flood").body(()).unwrap();
        let mut flood = client.stream(request, stream::empty()).await.unwrap();
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(3)).await;
            for _ in 0..40 {
                flood.body_mut().frame().await.unwrap().unwrap();
            }
        }
    });
}

#[test]
fn only_so_many_requests_are_under_way_and_so_many_connections_open() {
    run_paused(async {
        let vat = vat_with(|config| {
            config.http.listen = listen();
            config.http.requests = 1;
            config.http.connections = 2;
        })
        .await;
        let mut busy = Client::two(&vat).await;
        let Client::Two(send) = &busy else {
            unreachable!()
        };
        let mut same = Client::Two(send.clone());
        let waits = tokio::task::spawn_local(async move {
            let waited = busy.get("/Page/n/wait").await;
            (busy, waited)
        });
        vat.controls.reached("wait").await;
        let refused = same.get("/Page/n/whole").await;
        assert_eq!(
            (refused.error().0, refused.error().1.as_str()),
            (503, "overloaded")
        );
        assert_eq!(refused.headers["retry-after"], "1");
        let mut other = Client::one(&vat).await;
        assert_eq!(other.get("/Page/n/whole").await.status, 503);
        vat.controls.release("wait");
        let (busy, waited) = waits.await.unwrap();
        assert_eq!(waited.text, "waited");
        assert_eq!(other.get("/Page/n/whole").await.text, "whole");
        // The third is refused at once.
        assert_eq!(rest(&mut connect(&vat).await).await, "");
        drop((busy, same));
        settle().await;
        let mut third = connect(&vat).await;
        let get = b"GET /Page/n/whole HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        third.write_all(get).await.unwrap();
        let answer = rest(&mut third).await;
        assert!(answer.ends_with("whole"), "{answer}");
    });
}
