//! Who may ask, on the wire.

use vatwerk_server::http::Request;

use super::{
    client::{Client, raw},
    listen, vat, vat_with,
};
use crate::support::run;

#[test]
fn pages_of_others_do_nothing_here_unless_the_settings_say_so() {
    run(async {
        let mut vat = vat().await;
        let foreign = |path| {
            let request = Request::post(path).header("origin", "https://app.example");
            request.body("{}").unwrap()
        };
        let mut client = Client::one(&vat).await;
        for path in ["/Page/n/call/increment", "/Page/n/echo"] {
            let answer = client.send(foreign(path)).await;
            let (status, code, _) = answer.error();
            assert_eq!((status, code.as_str()), (403, "permission-denied"));
            assert!(!answer.headers.contains_key("access-control-allow-origin"));
        }
        let socket = Request::get("/Page/n/socket")
            .header("origin", "https://app.example")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(client.send(socket.body("").unwrap()).await.status, 403);
        vat.stop().await;
        vat.change_settings(|config| {
            config.http.listen = listen();
            config.http.cors_origins = vec!["https://app.example".into()];
        });
        super::start(&mut vat).await;
        let mut client = Client::one(&vat).await;
        let asks = Request::options("/Page/n/call/increment")
            .header("origin", "https://app.example")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type");
        let answer = client.send(asks.body("").unwrap()).await;
        assert_eq!(answer.status, 204);
        assert_eq!(
            answer.headers["access-control-allow-headers"],
            "content-type"
        );
        let answer = client.send(foreign("/Page/n/call/increment")).await;
        assert_eq!(
            (answer.status, answer.text.as_str()),
            (200, r#"{"count":1}"#)
        );
        let allowed = &answer.headers["access-control-allow-origin"];
        assert_eq!(allowed, "https://app.example");
    });
}

#[test]
fn other_pages_may_link_here_and_embed_nothing() {
    run(async {
        let vat = vat_with(|config| {
            config.http.listen = listen();
            config.http.cors_origins = vec!["https://app.example".into()];
        })
        .await;
        let ask = |site: &str, mode: &str, dest: &str| {
            Request::get("/Page/n/whole")
                .header("sec-fetch-site", site)
                .header("sec-fetch-mode", mode)
                .header("sec-fetch-dest", dest)
        };
        for mut client in Client::each(&vat).await {
            for site in ["cross-site", "same-site"] {
                let link = ask(site, "navigate", "document");
                let answer = client.send(link.body("").unwrap()).await;
                assert_eq!((answer.status, answer.text.as_str()), (200, "whole"));
                for (mode, dest) in [("navigate", "iframe"), ("no-cors", "image")] {
                    let embedded = ask(site, mode, dest).body("").unwrap();
                    let (status, code, told) = client.send(embedded).await.error();
                    assert_eq!((status, code.as_str()), (403, "permission-denied"));
                    assert!(told.contains("cors_origins"), "{told}");
                }
                for (origin, status) in [("https://app.example", 200), ("https://b.example", 403)] {
                    let fetch = ask(site, "cors", "empty").header("origin", origin);
                    let answer = client.send(fetch.body("").unwrap()).await;
                    assert_eq!(answer.status, status, "{origin}");
                }
            }
            for site in ["same-origin", "none"] {
                let own = ask(site, "no-cors", "image").body("").unwrap();
                assert_eq!(client.send(own).await.status, 200);
            }
        }
    });
}

#[test]
fn a_name_that_was_made_to_lead_here_is_refused() {
    run(async {
        let mut vat = vat().await;
        let ask = |host: &str| {
            format!("GET /Page/n/whole HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
        };
        let answer = raw(&vat, ask("evil.example").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
        vat.stop().await;
        vat.change_settings(|config| {
            config.http.listen = listen();
            config.http.hosts = vec!["app.example".into()];
        });
        super::start(&mut vat).await;
        for host in ["app.example", "127.0.0.1:7448"] {
            let answer = raw(&vat, ask(host).as_bytes()).await;
            assert!(answer.ends_with("\r\n\r\nwhole"), "{answer}");
        }
    });
}

#[test]
fn a_unix_socket_goes_by_any_name() {
    run(async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let vat = vat_with(|config| {
            let path = config.data.with_file_name("http.sock");
            config.http.listen = Some(vec![vatwerk::Address::Unix(path)]);
        })
        .await;
        let vatwerk::Address::Unix(path) = vat.http() else {
            panic!("not a unix socket")
        };
        let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
        let ask = "GET /Page/n/echo HTTP/1.1\r\nhost: any\r\nconnection: close\r\n\r\n";
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("x-forwarded-host: any\n"), "{answer}");
        assert!(!answer.contains("x-forwarded-for"), "{answer}");
    });
}

#[test]
fn proxies_are_believed_if_the_settings_name_them() {
    run(async {
        let seen = async |settings: fn(&mut vatwerk_server::Config)| {
            let vat = vat_with(settings).await;
            let ask = "GET /Page/n/echo HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                       x-forwarded-for: 1.2.3.4\r\nx-forwarded-prefix: /app\r\n\
                       x-forwarded-proto: https\r\nforwarded: for=1.2.3.4\r\n\r\n";
            raw(&vat, ask.as_bytes()).await
        };
        let ignored = seen(|config| config.http.listen = listen()).await;
        assert!(!ignored.contains("1.2.3.4"), "{ignored}");
        assert!(
            ignored.contains("x-forwarded-prefix: /Page/n\n"),
            "{ignored}"
        );
        let believed = seen(|config| {
            config.http.listen = listen();
            config.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        });
        let believed = believed.await;
        for line in [
            "x-forwarded-for: 1.2.3.4, 127.0.0.1\n",
            "x-forwarded-prefix: /app/Page/n\n",
            "x-forwarded-proto: https\n",
            "forwarded: for=1.2.3.4\n",
        ] {
            assert!(believed.contains(line), "{believed}");
        }
    });
}
