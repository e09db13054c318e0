//! The names by which a vat and its objects go, and what keeps their pages apart.

use vatwerk_server::{Class, Context, http::Request};

use super::{
    client::{Client, raw},
    listen,
    page::Page,
    vat, vat_with,
};
use crate::{
    door_capnp::hall,
    support::{TestVat, run},
};

/// A class whose hosts would be those of `Page`.
struct Loud;

impl Class for Loud {
    const NAME: &'static str = "PAGE";
    const SCHEMA: &'static [u8] = include_bytes!("../support/door.cgr");
    type Client = hall::Client;

    async fn activate(_: Context) -> capnp::Result<Loud> {
        Ok(Loud)
    }
}

impl hall::Server for Loud {}

#[test]
fn an_object_has_a_host_and_an_origin_of_its_own() {
    run(async {
        let vat = vat_with(|config| {
            config.http.listen = listen();
            config.http.object_host = Some("objects.example".into());
            config.http.hidden = vec!["Cell".into()];
        })
        .await;
        let at = |host: &str, request: vatwerk_server::http::request::Builder| {
            request.header("host", host)
        };
        for mut client in Client::each(&vat).await {
            let name = match client {
                Client::One(_) => "one",
                Client::Two(_) => "two",
            };
            let host = format!("{name}.page.objects.example");
            let echo = at(&host, Request::get("/echo?q=1")).body("").unwrap();
            let seen = client.send(echo).await.text;
            assert!(seen.starts_with("GET /echo?q=1\n"), "{seen}");
            assert!(!seen.contains("x-forwarded-prefix"), "{seen}");
            assert!(
                seen.contains(&format!("x-forwarded-host: {host}\n")),
                "{seen}"
            );

            // The object is the one of the path.
            let call = |host: &str| at(host, Request::post("/call/increment"));
            let loud = format!("{}.PAGE.Objects.example:80", name.to_uppercase());
            for (host, count) in [(&host, 1), (&loud, 2)] {
                let answer = client.send(call(host).body("{}").unwrap()).await;
                assert_eq!(answer.text, format!(r#"{{"count":{count}}}"#), "{host}");
            }
            let by_path = format!("/Page/{name}/call/increment");
            assert_eq!(client.post(&by_path, "").await.text, r#"{"count":3}"#);

            // Its page is a stranger to the others.
            for (origin, status) in [
                (format!("http://{host}"), 200),
                ("http://other.page.objects.example".into(), 403),
                ("http://objects.example".into(), 403),
                ("http://localhost".into(), 403),
            ] {
                let call = call(&host).header("origin", &origin);
                let answer = client.send(call.body("{}").unwrap()).await;
                assert_eq!(answer.status, status, "{origin}");
            }
            for (host, status) in [
                ("n.nobody.objects.example", 404),
                ("n.cell.objects.example", 404),
                ("page.objects.example", 404),
                ("a.n.page.objects.example", 404),
                ("-n.page.objects.example", 404),
                ("objects.example", 421),
                ("n.page.other.example", 421),
            ] {
                for path in ["/", "/Page/n/whole", "/call/get"] {
                    let lost = at(host, Request::post(path)).body("{}").unwrap();
                    assert_eq!(client.send(lost).await.error().0, status, "{host} {path}");
                }
            }
        }
        // A class that is hidden is as if it were not there.
        let mut client = Client::one(&vat).await;
        let hidden = at("n.cell.objects.example", Request::get("/"));
        let hidden = client.send(hidden.body("").unwrap()).await.text;
        let missing = at("n.nobody.objects.example", Request::get("/"));
        let missing = client.send(missing.body("").unwrap()).await.text;
        assert_eq!(hidden.replace("cell", "nobody"), missing);
        let mut vat = TestVat::unstarted(|config| {
            config.http.object_host = Some("objects.example".into());
        });
        let both = |server: vatwerk_server::Server| server.class::<Page>().class::<Loud>();
        let refused = vat.start_serving(both).await.unwrap_err();
        assert!(refused.to_string().contains("`object_host`"), "{refused}");
    });
}

#[test]
fn an_address_for_other_machines_goes_by_its_names_only() {
    run(async {
        let vat = vat_with(|config| {
            config.http.listen = Some(vec!["0.0.0.0:0".parse().unwrap()]);
            config.http.insecure = true;
            config.http.hosts = vec!["vat.example".into()];
        })
        .await;
        for (host, status) in [
            ("vat.example", 200),
            ("10.0.0.1:7448", 200),
            ("[fd00::1]:7448", 200),
            ("localhost", 200),
            ("evil.example", 421),
            ("vat.example.evil.example", 421),
        ] {
            let ask =
                format!("GET /Page/n/whole HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            let answer = raw(&vat, ask.as_bytes()).await;
            let start = format!("HTTP/1.1 {status} ");
            assert!(answer.starts_with(&start), "{host}: {answer}");
        }
    });
}

#[test]
fn answers_are_what_their_type_says_and_for_pages_of_their_own_origin() {
    run(async {
        let vat = vat().await;
        for mut client in Client::each(&vat).await {
            for answer in [
                client.get("/Page/n/whole").await,
                client.get("/Page/n").await,
                client.get("/Page/n/nothing").await,
                client.get("/nowhere").await,
                client.post("/Page/n/call/increment", "").await,
            ] {
                assert_eq!(answer.headers["x-content-type-options"], "nosniff");
                let policy = &answer.headers["cross-origin-resource-policy"];
                assert_eq!(policy, "same-origin");
            }
            let shared = client.get("/Page/n/shared").await;
            assert_eq!(shared.headers["x-content-type-options"], "nosniff");
            let policies = shared.headers.get_all("cross-origin-resource-policy");
            assert!(policies.iter().eq(["cross-origin"]));
        }
    });
}
