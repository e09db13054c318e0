//! The gateway of the program that runs the vat, on the wire.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use vatwerk::counter_capnp::counter;
use vatwerk_server::{
    Body, GatewayRequest, Response,
    http::{Request, StatusCode},
};

use super::{
    client::{Client, connect, rest},
    listen,
    page::Page,
};
use crate::{
    door_capnp::hall,
    support::{TestVat, run, run_paused},
};

/// Does what the path says, and notes that it was asked.
async fn gateway(
    mut request: GatewayRequest,
    asked: Arc<AtomicUsize>,
) -> Result<GatewayRequest, Box<Response>> {
    asked.fetch_add(1, Ordering::Relaxed);
    let about = format!(
        "{} {:?} {:?} {} {:?}",
        request.method(),
        request.object(),
        request.called(),
        request.is_web_socket(),
        request.peer(),
    );
    let headers = request.headers_mut();
    headers.insert("vatwerk-about", about.parse().unwrap());
    match request.uri().path() {
        "/echo" => request.set_object("Page", "home"),
        "/panic" => panic!("no such user"),
        "/later" => {
            tokio::task::yield_now().await;
            panic!("no such user either");
        }
        "/never" => pending().await,
        "/switch" => {
            let mut answer = Response::new(Body::empty());
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            return Err(answer.into());
        }
        "/hidden" => request.set_object("Cell", "x"),
        "/nameless" => request.set_object("Page", ""),
        _ => {}
    }
    match request.object() {
        Some((_, "secret")) if !request.headers().contains_key("authorization") => {
            let mut refusal = Response::new(Body::from("who are you?"));
            *refusal.status_mut() = StatusCode::UNAUTHORIZED;
            let headers = refusal.headers_mut();
            headers.insert("www-authenticate", "Bearer".parse().unwrap());
            headers.insert("connection", "x-drop".parse().unwrap());
            headers.insert("x-drop", "1".parse().unwrap());
            Err(refusal.into())
        }
        // Three requests each.
        Some((_, name)) if name.starts_with("metered") => {
            let quota = request.stub::<counter::Client>("quota").unwrap();
            let counted = quota.increment_request().send().promise.await.unwrap();
            if counted.get().unwrap().get_count() > 3 {
                let mut refusal = Response::new(Body::empty());
                *refusal.status_mut() = StatusCode::TOO_MANY_REQUESTS;
                return Err(refusal.into());
            }
            let nobody = request.stub::<hall::Client>("n").map(drop);
            assert!(nobody.unwrap_err().to_string().contains("class"));
            Ok(request)
        }
        Some(("Me", name)) => {
            let name = format!("{name} of mine");
            request.set_object("Page", name);
            Ok(request)
        }
        _ => Ok(request),
    }
}

async fn vat() -> (TestVat, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::default());
    let mut vat = TestVat::unstarted(|config| {
        config.http.listen = listen();
        config.http.hidden = vec!["Cell".into()];
        config.metrics = Some("127.0.0.1:0".parse().unwrap());
    });
    let counted = asked.clone();
    let serving = |server: vatwerk_server::Server| {
        let gateway = move |request| gateway(request, counted.clone());
        server.class::<Page>().gateway(gateway)
    };
    vat.start_serving(serving).await.expect("the vat starts");
    (vat, asked)
}

#[test]
fn a_gateway_sees_each_request_and_says_where_it_goes() {
    run(async {
        let (vat, asked) = vat().await;
        for mut client in Client::each(&vat).await {
            let forged = Request::get("/Page/n/echo?q=1").header("vatwerk-user", "forged");
            let seen = client.send(forged.body("").unwrap()).await.text;
            let about = "GET Some((\"Page\", \"n\")) None false Some(127.0.0.1)";
            assert!(
                seen.contains(&format!("vatwerk-about: {about}\n")),
                "{seen}"
            );
            assert!(!seen.contains("forged"), "{seen}");

            // Another object, by the same path; and one for a path that is of none.
            let seen = client.get("/Me/page/echo").await.text;
            assert!(seen.starts_with("GET /echo\n"), "{seen}");
            assert!(seen.contains("x-forwarded-prefix: /Me/page\n"), "{seen}");
            let seen = client.get("/echo?q=1").await.text;
            assert!(seen.starts_with("GET /echo?q=1\n"), "{seen}");
            assert!(!seen.contains("x-forwarded-prefix"), "{seen}");

            // What is nowhere stays there, and what is hidden too.
            for (path, status) in [
                ("/", 404),
                ("/hidden", 404),
                ("/nameless", 400),
                ("/Nobody/n/", 404),
                ("/Page/n/call/pick", 405),
            ] {
                assert_eq!(client.get(path).await.error().0, status, "{path}");
            }
        }
        let mut client = Client::one(&vat).await;
        assert_eq!(
            client.post("/Me/x/call/increment", "").await.text,
            r#"{"count":1}"#
        );
        let path = "/Page/x%20of%20mine/call/increment";
        assert_eq!(client.post(path, "").await.text, r#"{"count":2}"#);
        let mut socket = super::client::web_socket(&vat).await;
        futures::SinkExt::close(&mut socket).await.unwrap();

        // What pages of others may not do never gets so far.
        let before = asked.load(Ordering::Relaxed);
        for (field, value) in [
            ("origin", "https://evil.example"),
            ("sec-fetch-site", "cross-site"),
        ] {
            let foreign = Request::post("/Page/n/call/increment").header(field, value);
            assert_eq!(client.send(foreign.body("").unwrap()).await.status, 403);
        }
        assert_eq!(asked.load(Ordering::Relaxed), before);
    });
}

#[test]
fn a_gateway_answers_by_itself() {
    run(async {
        let (vat, _) = vat().await;
        let mut statuses = Vec::new();
        for mut client in Client::each(&vat).await {
            let socket = Request::get("/Page/secret/socket")
                .header("connection", "upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
            let mut refused = vec![
                client.get("/Page/secret/whole").await,
                client.post("/Page/secret/call/increment", "{}").await,
            ];
            if let Client::One(_) = client {
                refused.push(client.send(socket.body("").unwrap()).await);
            }
            for refused in refused {
                let told = (refused.status, refused.text.as_str());
                assert_eq!(told, (401, "who are you?"));
                assert_eq!(refused.headers["www-authenticate"], "Bearer");
                assert!(!refused.headers.contains_key("x-drop"));
            }
            let metered = ["/Page/metered/whole"; 5];
            for path in metered {
                statuses.push(client.get(path).await.status);
            }
            let known = Request::post("/Page/secret/call/increment").header("authorization", "x");
            let answer = client.send(known.body("{\"amount\":0}").unwrap()).await;
            assert_eq!(answer.text, r#"{"count":0}"#);
        }
        // What an object counts holds for all connections.
        assert_eq!(statuses, [&[200; 3][..], &[429; 7]].concat());
    });
}

#[test]
fn a_gateway_that_fails_ends_one_request_and_nothing_else() {
    run_paused(async {
        let (vat, _) = vat().await;
        for mut client in Client::each(&vat).await {
            for (path, status, code) in [
                ("/panic", 500, "internal"),
                ("/later", 500, "internal"),
                ("/switch", 500, "internal"),
                ("/never", 504, "limit-exceeded"),
            ] {
                let answer = client.get(path).await;
                let (told, said, message) = answer.error();
                assert_eq!((told, said.as_str()), (status, code), "{path}");
                assert!(!message.contains("user"), "{message}");
                assert_eq!(client.get("/Page/n/whole").await.text, "whole");
            }
        }
        let numbers = vat.metrics().await;
        for (code, count) in [("internal", 6), ("limit-exceeded", 2)] {
            let line = format!(r#"vatwerk_http_failures_total{{class="",code="{code}"}} {count}"#);
            assert!(numbers.contains(&line), "{line}: {numbers}");
        }
        // A client that leaves takes its request with it.
        let mut stream = connect(&vat).await;
        let ask = b"GET /never HTTP/1.1\r\nhost: localhost\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, ask)
            .await
            .unwrap();
        drop(stream);
        let mut stream = connect(&vat).await;
        let ask = b"GET /Page/n/whole HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, ask)
            .await
            .unwrap();
        assert!(rest(&mut stream).await.ends_with("whole"));
    });
}
