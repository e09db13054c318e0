//! How much a client may use.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use tokio::{io::AsyncWriteExt, time::Instant};
use vatwerk_server::http::Request;

use super::{
    client::{Client, connect, frames, raw, rest},
    listen, vat, vat_with,
};
use crate::support::{TestVat, run, run_paused, settle};

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
fn a_stream_that_nobody_reads_is_reset_in_time_and_the_others_go_on() {
    run_paused(async {
        let vat = vat_with(|config| {
            config.http.listen = listen();
            config.http.stall_ms = 5_000;
        })
        .await;
        let (mut send, _driver) = frames(&vat).await;
        let mut get = |path: &str| {
            let get = Request::get(format!("http://localhost/Page/n/{path}"));
            send.send_request(get.body(()).unwrap(), true).unwrap().0
        };
        assert_eq!(get("whole").await.unwrap().status(), 200);
        // The connection has been quiet for a while when they begin.
        tokio::time::sleep(Duration::from_secs(17)).await;
        let slow = get("flood").await.unwrap();
        let started = Instant::now();
        let sleeps = get("sleeps?20");
        vat.controls.reached("flood dropped").await;
        let took = started.elapsed();
        assert!((5..6).contains(&took.as_secs()), "{took:?}");
        let mut slow = slow.into_body();
        let end = loop {
            match slow.data().await.expect("it does not end well") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(end.reason(), Some(h2::Reason::CANCEL));
        let slept = sleeps.await.unwrap();
        assert_eq!(slept.into_body().data().await.unwrap().unwrap(), "slept");
        // One of whom a little is taken now and then goes on, though no piece of it is taken whole.
        let mut some = get("flood").await.unwrap().into_body();
        for _ in 0..10 {
            some.data().await.unwrap().unwrap();
            some.flow_control().release_capacity(33_000).unwrap();
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
        assert_eq!(vat.controls.arrivals("flood dropped"), 1);
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

/// How many bytes the vat holds of calls and answers over HTTP.
async fn held(vat: &TestVat) -> usize {
    let text = vat.metrics().await;
    let line = text
        .lines()
        .find(|line| line.starts_with("vatwerk_http_held_bytes "));
    line.unwrap().split(' ').nth(1).unwrap().parse().unwrap()
}

/// A vat that holds few bytes of calls and answers over HTTP.
async fn with_little_room() -> TestVat {
    vat_with(|config| {
        config.http.listen = listen();
        config.metrics = Some("tcp:127.0.0.1:0".parse().unwrap());
        config.http.held_bytes = 1_000_000;
        config.http.answer_bytes = 250_000;
    })
    .await
}

/// What is held of one answer beside its text: a piece and what `hyper` has of it.
const ON_THE_WAY: usize = 192 << 10;

#[test]
fn answers_that_nobody_reads_have_only_so_much_room_together() {
    run_paused(async {
        let vat = with_little_room().await;
        let mut client = Client::one(&vat).await;
        // The room's history has 240,000 bytes and some.
        let text = "A".repeat(2000);
        let params = format!(r#"{{"author":"a","text":"{text}"}}"#);
        for _ in 0..118 {
            let say = Request::post("/ChatRoom/n/call/say").body(()).unwrap();
            let say = client.stream(say, stream::iter([Bytes::from(params.clone())]));
            let said = say.await.unwrap();
            assert_eq!(said.status(), 200);
            said.into_body().collect().await.unwrap();
        }
        let all = r#"{"last":118}"#;

        let (mut send, _driver) = frames(&vat).await;
        let mut kept = Vec::new();
        let mut refused = Vec::new();
        for _ in 0..20 {
            let get = Request::post("http://localhost/ChatRoom/n/call/history");
            let (answer, mut params) = send.send_request(get.body(()).unwrap(), false).unwrap();
            params.send_data(all.into(), true).unwrap();
            let answer = answer.await.unwrap();
            if answer.status() == 200 {
                kept.push(answer);
            } else {
                refused.push(answer);
            }
            settle().await;
            assert!(held(&vat).await <= 1_000_000 + kept.len() * ON_THE_WAY);
        }
        assert!((2..=4).contains(&kept.len()), "{}", kept.len());
        assert!(held(&vat).await > 480_000);
        assert!(refused.iter().all(|answer| answer.status() == 503));
        // One that is read is whole, and what it had is free again.
        let (_, mut body) = kept.remove(0).into_parts();
        drop((kept, refused));
        let mut length = 0;
        while let Some(piece) = body.data().await {
            length += piece.as_ref().unwrap().len();
            let taken = body.flow_control();
            taken.release_capacity(piece.unwrap().len()).unwrap();
        }
        assert!(length > 240_000);
        settle().await;
        assert_eq!(held(&vat).await, 0);
        assert_eq!(
            client.post("/ChatRoom/n/call/history", all).await.status,
            200
        );
    });
}

#[test]
fn pages_that_nobody_reads_keep_others_out_when_there_is_no_room() {
    run_paused(async {
        let vat = with_little_room().await;
        let (mut send, driver) = frames(&vat).await;
        let mut kept = Vec::new();
        let status = loop {
            let get = Request::get("http://localhost/Page/n/flood").body(());
            let (answer, _) = send.send_request(get.unwrap(), true).unwrap();
            let answer = answer.await.unwrap();
            settle().await;
            match answer.status().as_u16() {
                200 => kept.push(answer),
                status => break status,
            }
        };
        assert_eq!(status, 503);
        assert!(
            held(&vat).await <= 1_000_000 + (512 << 10),
            "{}",
            held(&vat).await
        );
        let mut client = Client::one(&vat).await;
        let refused = client.get("/Page/n/whole").await;
        assert_eq!(refused.error().1, "overloaded");
        assert!(refused.text.contains("held_bytes"), "{}", refused.text);
        assert!(refused.text.contains("not-delivered"), "{}", refused.text);
        driver.abort();
        settle().await;
        assert_eq!(client.get("/Page/n/whole").await.text, "whole");
        assert_eq!(held(&vat).await, 0);
    });
}

#[test]
fn the_results_of_a_call_are_only_so_long() {
    run(async {
        let vat = vat_with(|config| {
            config.http.listen = listen();
            config.http.answer_bytes = 11;
        })
        .await;
        let mut client = Client::one(&vat).await;
        let call = "/Page/n/call/increment";
        assert_eq!(
            client.post(call, r#"{"amount":8}"#).await.text,
            r#"{"count":8}"#
        );
        let refused = client.post(call, r#"{"amount":2}"#).await;
        let (status, code, said) = refused.error();
        assert_eq!((status, code.as_str()), (422, "limit-exceeded"));
        assert!(said.contains("11 bytes of JSON: `answer_bytes`"), "{said}");
        // The call has run.
        assert!(refused.text.contains(r#""delivery":"delivered""#));
        let less = client.post(call, r#"{"amount":-9}"#).await;
        assert_eq!(less.text, r#"{"count":1}"#);
    });
}
