//! Objects' own pages.

use bytes::Bytes;
use futures::{SinkExt, StreamExt, channel::mpsc};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;
use vatwerk_server::http::{Request, Response};

use super::{
    client::{Client, connect, raw, rest, web_socket},
    vat,
};
use crate::support::{log::Log, run, run_paused, settle};

#[test]
fn an_object_sees_the_request_and_its_answer_arrives() {
    run(async {
        let vat = vat().await;
        for mut client in Client::each(&vat).await {
            let request = Request::put("/Page/a%20b/echo?q=%2F")
                .header("x-mine", "1")
                .header("te", "trailers")
                .body("the body")
                .unwrap();
            let answer = client.send(request).await;
            assert_eq!(answer.status, 200);
            assert!(answer.headers.contains_key("x-keep"));
            assert!(!answer.headers.contains_key("x-drop"));
            let (head, body) = answer.text.rsplit_once('\n').unwrap();
            assert_eq!(body, "the body");
            let mut lines: Vec<_> = head.lines().collect();
            assert_eq!(lines.remove(0), "PUT /echo?q=%2F");
            lines.sort_unstable();
            let expected = [
                "host: localhost",
                "x-forwarded-for: 127.0.0.1",
                "x-forwarded-host: localhost",
                "x-forwarded-prefix: /Page/a%20b",
                "x-forwarded-proto: http",
                "x-mine: 1",
            ];
            assert_eq!(lines, expected);
        }
    });
}

async fn piece(response: &mut Response<Incoming>) -> Option<Bytes> {
    loop {
        let frame = response.body_mut().frame().await?;
        let data = frame.ok()?.into_data().ok()?;
        // HTTP/2 may end with an empty one.
        if !data.is_empty() {
            return Some(data);
        }
    }
}

#[test]
fn bodies_are_streams_in_both_directions() {
    run(async {
        let vat = vat().await;
        for mut client in Client::each(&vat).await {
            let (mut say, said) = mpsc::channel(1);
            let request = Request::post("/Page/n/echo").body(()).unwrap();
            let mut response = client.stream(request, said).await.unwrap();
            let head = piece(&mut response).await.unwrap();
            assert!(head.starts_with(b"POST /echo\n"));
            for word in ["one", "two"] {
                say.send(Bytes::from_static(word.as_bytes())).await.unwrap();
                assert_eq!(piece(&mut response).await.unwrap(), word);
            }
            drop(say);
            assert!(piece(&mut response).await.is_none());
        }
    });
}

#[test]
fn heads_redirections_and_what_is_not_there() {
    run(async {
        let vat = vat().await;
        for mut client in Client::each(&vat).await {
            let head = Request::head("/Page/n/whole").body("").unwrap();
            let answer = client.send(head).await;
            assert_eq!((answer.status, answer.text.as_str()), (200, ""));
            assert_eq!(answer.headers["content-length"], "5");
            let head = Request::head("/Nobody/n/").body("").unwrap();
            let answer = client.send(head).await;
            assert_eq!((answer.status, answer.text.as_str()), (404, ""));
            assert_eq!(answer.headers["vatwerk-error"], "not-found");
            let answer = client.get("/Page/a%20b?q=1").await;
            assert_eq!(answer.status, 308);
            assert_eq!(answer.headers["location"], "./a%20b/?q=1");
            assert_eq!(client.get("/Page/n/").await.text, "no such page");
            for (path, status) in [
                ("/Page/%/", 400),
                ("/Page/100%/call/get", 400),
                ("/Page/n/call/%zz", 400),
                ("/", 404),
                ("/Page", 404),
                ("/Cell/n/", 404),
                ("/Cell/n", 404),
                ("/Page/%ff/", 400),
            ] {
                assert_eq!(client.get(path).await.error().0, status, "{path}");
            }
        }
    });
}

#[test]
fn a_204_has_no_length_whoever_asks() {
    run(async {
        let vat = vat().await;
        for mut client in Client::each(&vat).await {
            for method in ["GET", "HEAD"] {
                let request = Request::builder().method(method).uri("/Page/n/nothing");
                let answer = client.send(request.body("").unwrap()).await;
                assert_eq!((answer.status, answer.text.as_str()), (204, ""));
                assert!(!answer.headers.contains_key("content-length"), "{method}");
                assert!(
                    !answer.headers.contains_key("transfer-encoding"),
                    "{method}"
                );
            }
        }
    });
}

#[test]
fn who_has_asked_may_close_its_half_and_hears_the_answer() {
    run_paused(async {
        let vat = vat().await;
        let head = "GET /Page/n/sleeps?4 HTTP/1.1\r\nhost: localhost\r\n\r\n";
        let body = r#"{"amount":3}"#;
        let call = format!(
            "POST /Page/n/call/increment HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        for (said, ends) in [(head, "slept"), (&call, r#"{"count":3}"#)] {
            let mut stream = connect(&vat).await;
            stream.write_all(said.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let answer = rest(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
            assert!(answer.ends_with(ends), "{answer}");
        }
        // But one that says nothing for long may as well be gone.
        let mut stream = connect(&vat).await;
        let wait = b"GET /Page/n/wait HTTP/1.1\r\nhost: localhost\r\n\r\n";
        stream.write_all(wait).await.unwrap();
        stream.shutdown().await.unwrap();
        vat.controls.reached("wait dropped").await;
        assert_eq!(rest(&mut stream).await, "");
    });
}

#[test]
fn an_upgrade_may_be_one_of_several() {
    run(async {
        let vat = vat().await;
        let ask = |upgrade: &str, version: u8| {
            format!(
                "GET /Page/n/socket HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\n{upgrade}\
                 sec-websocket-version: {version}\r\n\
                 sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
        };
        for upgrade in [
            "upgrade: h2c, WebSocket\r\n",
            "upgrade: h2c\r\nupgrade: websocket\r\n",
        ] {
            let mut stream = connect(&vat).await;
            stream.write_all(ask(upgrade, 13).as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let answer = rest(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        }
        let mut stream = connect(&vat).await;
        let old = ask("upgrade: websocket\r\n", 8);
        stream.write_all(old.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
        for field in [
            "sec-websocket-version: 13",
            "upgrade: websocket",
            "connection: upgrade",
        ] {
            assert!(answer.contains(field), "{answer}");
        }
    });
}

#[test]
fn nobody_makes_a_tunnel_of_a_connection() {
    run(async {
        let vat = vat().await;
        for target in [
            "/Page/n/whole",
            "localhost:80",
            "http://localhost/Page/n/whole",
        ] {
            let ask = format!(
                "CONNECT {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            );
            let answer = raw(&vat, ask.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        }
    });
}

#[test]
fn who_expects_to_go_on_is_told_to() {
    run(async {
        let vat = vat().await;
        let mut stream = connect(&vat).await;
        let head = "POST /Page/n/swallow HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\
                    expect: 100-continue\r\nconnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut told = [0; 25];
        stream.read_exact(&mut told).await.unwrap();
        assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"abc").await.unwrap();
        let answer = super::client::rest(&mut stream).await;
        assert!(answer.ends_with("\r\n\r\n3"), "{answer}");
    });
}

#[test]
fn what_an_object_fails_with_stays_inside() {
    run(async {
        let vat = vat().await;
        for mut client in Client::each(&vat).await {
            let failed = client.get("/Page/n/fails").await.error();
            let told = (500, "application-failed".into(), "the object failed".into());
            assert_eq!(failed, told);
            let raised = client.get("/Page/n/raises").await.error();
            assert_eq!(raised, (422, "out-of-tea".into(), "none left".into()));
            let answer = client.get("/Page/n/panics").await;
            assert_eq!(answer.error().1, "object-reset");
            assert_eq!(
                (answer.status, &answer.headers["retry-after"]),
                (503, &"1".parse().unwrap())
            );
            // And the vat goes on.
            assert_eq!(client.get("/Page/n/whole").await.text, "whole");
        }
    });
}

#[test]
fn an_answer_that_fails_when_half_of_it_is_out_is_not_taken_for_whole() {
    run(async {
        let vat = vat().await;
        for mut client in Client::each(&vat).await {
            let request = Request::get("/Page/n/half").body(()).unwrap();
            let nothing = futures::stream::empty();
            match client.stream(request, nothing).await {
                Ok(response) => drop(response.into_body().collect().await.unwrap_err()),
                // It may have ended before anybody looked.
                Err(error) => drop(error),
            }
        }
        let get = b"GET /Page/n/half HTTP/1.1\r\nhost: localhost\r\n\r\n";
        let answer = raw(&vat, get).await;
        assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
    });
}

#[test]
fn a_client_that_goes_away_ends_the_work() {
    run_paused(async {
        let vat = vat().await;
        for (i, mut client) in Client::each(&vat).await.into_iter().enumerate() {
            let done = i as u32 + 1;
            let request = Request::get("/Page/n/wait").body(()).unwrap();
            {
                let asked = client.stream(request, futures::stream::empty());
                let reached = vat.controls.reached("wait");
                futures::pin_mut!(asked, reached);
                futures::future::select(asked, reached).await;
                while vat.controls.arrivals("wait") < done {
                    settle().await;
                }
            }
            let request = Request::get("/Page/n/flood").body(()).unwrap();
            if matches!(client, Client::Two(_)) {
                let flood = client.stream(request, futures::stream::empty()).await;
                drop(flood.unwrap());
                settle().await;
                assert_eq!(vat.controls.arrivals("flood dropped"), 1);
            }
            drop(client);
            // Over HTTP/1 it may for a while be one that has closed only its half.
            tokio::time::sleep(std::time::Duration::from_secs(6)).await;
            settle().await;
            assert_eq!(vat.controls.arrivals("wait dropped"), done);
        }
    });
}

#[test]
fn a_reader_that_stalls_stalls_the_writer() {
    run_paused(async {
        let vat = vat().await;
        for mut client in Client::each(&vat).await {
            let before = vat.controls.arrivals("written");
            let request = Request::get("/Page/n/flood").body(()).unwrap();
            let nothing = futures::stream::empty();
            let mut flood = client.stream(request, nothing).await.unwrap();
            settle().await;
            let written = vat.controls.arrivals("written") - before;
            assert!(written < 400, "{written} pieces");
            settle().await;
            assert_eq!(vat.controls.arrivals("written") - before, written);
            for _ in 0..1000 {
                flood.body_mut().frame().await.unwrap().unwrap();
            }
            settle().await;
            assert!(vat.controls.arrivals("written") - before > written);
        }
    });
}

#[test]
fn a_browser_converses_with_an_object() {
    run(async {
        let vat = vat().await;
        let mut socket = web_socket(&vat).await;
        for message in [Message::text("hello"), Message::binary(vec![0; 100_000])] {
            socket.send(message.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), message);
        }
        socket.close(None).await.unwrap();
        // An answer that is no WebSocket is an answer.
        let mut client = Client::one(&vat).await;
        let request = Request::get("/Page/n/whole")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let answer = client.send(request.body("").unwrap()).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, "whole"));
    });
}

#[test]
fn what_comes_with_the_handshake_is_part_of_the_conversation() {
    run(async {
        let vat = vat().await;
        let mut stream = connect(&vat).await;
        let head = "GET /Page/n/socket HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\n\
                    upgrade: websocket\r\nsec-websocket-version: 13\r\n\
                    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        // "hi" under a mask of zeros.
        let said = [head.as_bytes(), b"\x81\x82\0\0\0\0hi"].concat();
        stream.write_all(&said).await.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\n\x81\x02hi") {
            let more = stream.read_buf(&mut heard).await.unwrap();
            assert_ne!(more, 0, "{heard:?}");
        }
    });
}

#[test]
fn the_sql_of_a_class_is_nothing_that_a_client_hears_of() {
    run_paused(async {
        let vat = vat().await;
        let log = Log::keep();
        for mut client in Client::each(&vat).await {
            let answer = client.get("/Page/n/sql").await;
            assert_eq!(answer.status, 500);
            assert!(
                answer.text.contains("application-failed"),
                "{}",
                answer.text
            );
            assert!(answer.text.contains("the object failed"), "{}", answer.text);
            assert!(!answer.text.contains("hidden"), "{}", answer.text);
        }
        assert_eq!(log.count("no such table: hidden"), 1);
        assert_eq!(log.count("failed"), 1);
    });
}
