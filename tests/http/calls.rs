//! Methods as JSON.

use bytes::Bytes;
use futures::stream;
use tokio::io::AsyncWriteExt;
use vatwerk_server::http::Request;

use super::{
    client::{Client, connect, raw},
    listen,
    page::FOR_EVER,
    vat, vat_with,
};
use crate::support::{TestVat, run};

#[test]
fn methods_are_called_with_json() {
    run(async {
        let vat = vat().await;
        for mut client in Client::each(&vat).await {
            let name = format!("{}", matches!(client, Client::One(_)));
            let path = format!("/Page/{name}/call/increment");
            let answer = client.post(&path, r#"{"amount": 2}"#).await;
            assert_eq!(
                (answer.status, answer.text.as_str()),
                (200, r#"{"count":2}"#)
            );
            assert_eq!(answer.headers["content-type"], "application/json");
            assert_eq!(client.post(&path, "").await.text, r#"{"count":3}"#);
        }
    });
}

#[test]
fn integers_of_64_bits_are_text_if_the_query_says_so() {
    run(async {
        let vat = vat().await;
        for mut client in Client::each(&vat).await {
            let name = format!("{}", matches!(client, Client::One(_)));
            let path = format!("/Page/{name}/call/increment");
            let large = 9_223_372_036_854_775_805;
            let answer = client
                .post(&path, r#"{"amount": 9223372036854775805}"#)
                .await;
            assert_eq!(answer.text, format!(r#"{{"count":{large}}}"#));
            let text = format!("{path}?int64=string");
            let answer = client.post(&text, r#"{"amount": "1"}"#).await;
            assert_eq!(answer.text, format!(r#"{{"count":"{}"}}"#, large + 1_i64));
            let number = format!("{path}?int64=number");
            let answer = client.post(&number, "").await;
            assert_eq!(answer.text, format!(r#"{{"count":{}}}"#, i64::MAX));
        }
    });
}

#[test]
fn a_client_that_hangs_up_ends_its_call() {
    run(async {
        let vat = vat().await;
        let mut stream = connect(&vat).await;
        let body = format!("{{\"amount\":{FOR_EVER}}}");
        let length = body.len();
        let request = format!(
            "POST /Page/n/call/increment HTTP/1.1\r\nhost: localhost\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        vat.controls.reached("call begun").await;
        assert_eq!(vat.controls.arrivals("call dropped"), 0);
        drop(stream);
        vat.controls.reached("call dropped").await;
    });
}

#[test]
fn what_is_no_call_is_refused_with_a_status_a_code_and_words() {
    run(async {
        let vat = vat().await;
        let mut client = Client::one(&vat).await;
        let long = format!("/Page/{}/call/get", "n".repeat(1025));
        let cases = [
            (
                "/Page/n/call/jump",
                "",
                404,
                "unimplemented",
                "increment, get, reset",
            ),
            (
                "/Nobody/n/call/get",
                "",
                404,
                "not-found",
                "no class `Nobody`",
            ),
            ("/Page//call/get", "", 400, "invalid-argument", "1 to 1024"),
            (&long, "", 400, "invalid-argument", "1 to 1024"),
            ("/Page/n/call/get", "{", 400, "invalid-argument", "not JSON"),
            (
                "/Page/n/call/increment?amount=5",
                "",
                400,
                "invalid-argument",
                "`amount=5` in the query of a call's URL has no meaning: there may be `int64=number`",
            ),
            (
                "/Page/n/call/increment?int64=text",
                "",
                400,
                "invalid-argument",
                "`int64=string`",
            ),
            ("/Page/n/call/get", "[]", 400, "invalid-argument", "object"),
            (
                "/Page/n/call/increment",
                r#"{"amount":18446744073709551616}"#,
                400,
                "invalid-argument",
                "does not fit",
            ),
            (
                "/Page/n/call/increment",
                r#"{"amount":1,"amount":2}"#,
                400,
                "invalid-argument",
                "amount: it is there twice",
            ),
            (
                "/Page/n/call/increment",
                r#"{"amuont":1}"#,
                400,
                "invalid-argument",
                "increment(amount :Int64 = 1)",
            ),
            (
                "/Page/n/call/get",
                "",
                500,
                "application-failed",
                "the object failed",
            ),
            ("/Page/n/call/reset", "", 422, "out-of-tea", "none left"),
        ];
        for (path, body, status, code, said) in cases {
            let told = client.post(path, body).await.error();
            assert_eq!((told.0, told.1.as_str()), (status, code), "{path}");
            assert!(told.2.contains(said), "{path}: {}", told.2);
        }
        let answer = client.get("/Page/n/call/increment").await;
        assert_eq!(answer.error().0, 405);
        assert_eq!(answer.headers["allow"], "POST");
        let form = Request::post("/Page/n/call/increment")
            .header("content-type", "application/x-www-form-urlencoded");
        let answer = client.send(form.body("amount=1").unwrap()).await;
        assert_eq!(answer.error().0, 415);
    });
}

#[test]
fn a_class_that_is_hidden_is_as_if_it_were_not_there() {
    run(async {
        let vat = vat_with(|config| {
            config.http.listen = listen();
            config.http.hidden = vec!["Cell".into()];
        })
        .await;
        let mut client = Client::one(&vat).await;
        let hidden = client.post("/Cell/n/call/get", "").await;
        let missing = client.post("/None/n/call/get", "").await;
        assert_eq!(hidden.status, 404);
        assert_eq!(hidden.text.replace("Cell", "None"), missing.text);
        let mut other = TestVat::unstarted(|config| config.http.hidden = vec!["Cel".into()]);
        let error = other.start_serving(|server| server).await.unwrap_err();
        assert!(error.to_string().contains("`Cel`"), "{error}");
    });
}

#[test]
fn a_call_has_256_kib_unless_the_settings_say_otherwise() {
    run(async {
        let vat = vat().await;
        let call = async |length: usize| {
            let mut client = Client::one(&vat).await;
            let params = r#"{"amount":1}"#;
            let text = " ".repeat(length - params.len()) + params;
            let request = Request::post("/Page/n/call/increment")
                .header("content-length", length)
                .body(())
                .unwrap();
            let body = stream::iter([Bytes::from(text)]);
            client.stream(request, body).await.unwrap().status()
        };
        assert_eq!(call(256 << 10).await, 200);
        assert_eq!(call((256 << 10) + 1).await, 413);
    });
}

#[test]
fn a_call_too_long_is_refused_and_the_connection_ends() {
    run(async {
        let vat = vat_with(|config| {
            config.http.listen = listen();
            config.http.call_bytes = 64;
        })
        .await;
        let head = "POST /Page/n/call/increment HTTP/1.1\r\nhost: localhost\r\n";
        let long = " ".repeat(65);
        let known = format!("{head}content-length: 65\r\n\r\n{long}");
        let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n41\r\n{long}\r\n0\r\n\r\n");
        // Not even asked for.
        let expects = format!("{head}expect: 100-continue\r\ncontent-length: 65\r\n\r\n");
        for said in [known, chunked, expects] {
            let answer = raw(&vat, said.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
            assert!(answer.contains("limit-exceeded"), "{answer}");
        }
    });
}
