//! The built-in class `ChatRoom`: what its pages and its callers see.

use std::time::Duration;

use capnp::capability::FromClientHook;
use serde_json::{Value, json};
use vatwerk::{Code, chatroom_capnp::chat_room};
use vatwerk_server::http::{Method, StatusCode, header};
use vatwerk_server::{
    classes::ChatRoom,
    fetch::{Body, ClientSocket, Frame, Request, Response, ask},
    testing::{TestVat, run},
};

use crate::support::code;

type Room = chat_room::Client;

const LOBBY: &str = "lobby";

async fn vat() -> TestVat {
    TestVat::start(|server| server.class::<ChatRoom>()).await
}

async fn request(vat: &TestVat, method: Method, url: &str, upgrade: bool) -> Response {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = method;
    *request.uri_mut() = url.parse().unwrap();
    if upgrade {
        let websocket = "websocket".parse().unwrap();
        request.headers_mut().insert(header::UPGRADE, websocket);
    }
    let room: Room = vat.object(LOBBY);
    ask(&room.cast_to(), request).await.unwrap()
}

/// A page in the lobby, and the first thing that it is told.
async fn enter(vat: &TestVat, name: &str, after: u64) -> (Page, Value) {
    let url = format!("/socket?name={name}&after={after}");
    let mut response = request(vat, Method::GET, &url, true).await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut page = Page(response.body_mut().take_socket().unwrap());
    let mut told = page.hear().await;
    (page, told["welcome"].take())
}

struct Page(ClientSocket);

impl Page {
    async fn send(&self, text: impl ToString) {
        self.0.send(&Frame::Text(text.to_string())).await.unwrap();
    }

    async fn say(&self, text: &str, key: &str) {
        self.send(json!({"say": {"text": text, "key": key}})).await;
    }

    async fn text(&mut self) -> String {
        match self.0.next().await.unwrap().into_frame() {
            Frame::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }

    async fn hear(&mut self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    async fn hears_line(&mut self, number: u64, author: &str, text: &str) {
        let told = self.hear().await;
        let line = &told["line"];
        let heard = [&line["number"], &line["author"], &line["text"]];
        assert_eq!(heard, [&json!(number), &json!(author), &json!(text)]);
    }
}

/// The texts of what a page is told of at first.
fn texts(welcome: &Value) -> Vec<&str> {
    let lines = welcome["lines"].as_array().unwrap();
    lines
        .iter()
        .map(|line| line["text"].as_str().unwrap())
        .collect()
}

async fn say(vat: &TestVat, author: &str, text: &str) -> capnp::Result<u64> {
    let mut call = vat.object::<Room>(LOBBY).say_request();
    call.get().set_author(author);
    call.get().set_text(text);
    Ok(call.send().promise.await?.get()?.get_line())
}

/// Number and text of the last lines.
async fn history(vat: &TestVat, last: u32) -> Vec<(u64, String)> {
    let mut call = vat.object::<Room>(LOBBY).history_request();
    call.get().set_last(last);
    let answer = call.send().promise.await.unwrap();
    let lines = answer.get().unwrap().get_lines().unwrap();
    lines
        .iter()
        .map(|line| {
            let text = line.get_text().unwrap().to_string().unwrap();
            (line.get_number(), text)
        })
        .collect()
}

async fn present(vat: &TestVat) -> Vec<String> {
    let call = vat.object::<Room>(LOBBY).present_request();
    let answer = call.send().promise.await.unwrap();
    let names = answer.get().unwrap().get_names().unwrap();
    names
        .iter()
        .map(|name| name.unwrap().to_string().unwrap())
        .collect()
}

#[test]
fn the_page_may_run_itself_and_nothing_else_and_there_is_no_other() {
    run(async {
        let vat = vat().await;
        let page = request(&vat, Method::GET, "/", false).await;
        assert_eq!(page.status(), StatusCode::OK);
        let header = |name| page.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), "text/html; charset=utf-8");
        assert_eq!(header("cache-control"), "no-cache");
        let policy = header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'sha256-"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        let text = page.into_body().text(1 << 20).await.unwrap();
        assert!(text.starts_with("<!doctype html>"));

        let long = format!("/socket?name={}", "x".repeat(33));
        let cases = [
            (Method::HEAD, "/", false, StatusCode::OK),
            (Method::POST, "/", false, StatusCode::METHOD_NOT_ALLOWED),
            (Method::GET, "/favicon.ico", false, StatusCode::NOT_FOUND),
            (
                Method::PUT,
                "/socket?name=x",
                false,
                StatusCode::METHOD_NOT_ALLOWED,
            ),
            (
                Method::GET,
                "/socket?name=x",
                false,
                StatusCode::UPGRADE_REQUIRED,
            ),
            (Method::GET, "/socket", true, StatusCode::BAD_REQUEST),
            (Method::GET, "/socket?name=+", true, StatusCode::BAD_REQUEST),
            (
                Method::GET,
                "/socket?name=a%0Ab",
                true,
                StatusCode::BAD_REQUEST,
            ),
            (Method::GET, &long, true, StatusCode::BAD_REQUEST),
        ];
        for (method, url, upgrade, status) in cases {
            let answer = request(&vat, method.clone(), url, upgrade).await;
            assert_eq!(answer.status(), status, "{method} {url}");
        }
    });
}

#[test]
fn what_anybody_says_reaches_everybody_and_who_comes_back_gets_the_rest() {
    run(async {
        let vat = vat().await;
        let (mut ann, welcome) = enter(&vat, "ann", 0).await;
        assert_eq!(welcome["name"], "ann");
        assert_eq!(welcome["lines"], json!([]));
        assert_eq!(welcome["present"], json!(["ann"]));
        let (mut bob, welcome) = enter(&vat, "bob%20%C3%A4", 0).await;
        assert_eq!(welcome["present"], json!(["ann", "bob ä"]));
        assert_eq!(ann.hear().await, json!({"joined": "bob ä"}));

        ann.say(" hello\nthere ", "1").await;
        assert_eq!(say(&vat, "clock", "noon").await.unwrap(), 2);
        for page in [&mut ann, &mut bob] {
            page.hears_line(1, "ann", "hello\nthere").await;
            page.hears_line(2, "clock", "noon").await;
        }
        assert_eq!(history(&vat, 1).await, [(2, "noon".to_owned())]);

        let (_, welcome) = enter(&vat, "cy", 1).await;
        assert_eq!(texts(&welcome), ["noon"]);
        // A number that has not been given out is of another room of that name.
        let (_, welcome) = enter(&vat, "cy", 3).await;
        assert_eq!(texts(&welcome), ["hello\nthere", "noon"]);
        assert_eq!(welcome["newest"], 2);
    });
}

#[test]
fn a_name_is_there_from_its_first_page_to_its_last() {
    run(async {
        let vat = vat().await;
        let (mut ann, _) = enter(&vat, "ann", 0).await;
        let (one, _) = enter(&vat, "bob", 0).await;
        let (other, _) = enter(&vat, "bob", 0).await;
        assert_eq!(present(&vat).await, ["ann", "bob"]);
        let close = Frame::Close {
            code: 1000,
            reason: String::new(),
        };
        one.0.send(&close).await.unwrap();
        vat.settle().await;
        assert_eq!(present(&vat).await, ["ann", "bob"]);
        // Without a word.
        drop(other);
        assert_eq!(ann.hear().await, json!({"joined": "bob"}));
        assert_eq!(ann.hear().await, json!({"left": "bob"}));
        assert_eq!(present(&vat).await, ["ann"]);
    });
}

#[test]
fn a_room_that_slept_knows_who_is_there_and_a_heartbeat_does_not_wake_it() {
    run(async {
        let vat = vat().await;
        let (mut ann, _) = enter(&vat, "ann", 0).await;
        let (mut bob, _) = enter(&vat, "bob", 0).await;
        assert_eq!(ann.hear().await, json!({"joined": "bob"}));
        vat.evict::<Room>(LOBBY).await;
        ann.send("ping").await;
        assert_eq!(ann.text().await, "pong");
        assert!(!vat.is_awake::<Room>(LOBBY));

        ann.say("good morning", "1").await;
        ann.hears_line(1, "ann", "good morning").await;
        bob.hears_line(1, "ann", "good morning").await;
        assert_eq!(present(&vat).await, ["ann", "bob"]);
        vat.evict::<Room>(LOBBY).await;
        drop(bob);
        assert_eq!(ann.hear().await, json!({"left": "bob"}));
    });
}

#[test]
fn what_is_said_again_after_a_crash_is_said_once() {
    run(async {
        let vat = vat().await;
        let (page, _) = enter(&vat, "ann", 0).await;
        page.say("is this on?", "1").await;
        vat.settle().await;
        vat.crash().await;
        let (mut page, welcome) = enter(&vat, "ann", 0).await;
        assert_eq!(texts(&welcome), ["is this on?"]);
        assert_eq!(welcome["lines"][0]["key"], "1");
        page.say("is this on?", "1").await;
        page.say("it is", "2").await;
        page.hears_line(2, "ann", "it is").await;
    });
}

#[test]
fn nonsense_is_refused_where_it_was_said_and_the_room_goes_on() {
    run(async {
        let vat = vat().await;
        let (mut ann, _) = enter(&vat, "ann", 0).await;
        let (mut bob, _) = enter(&vat, "bob", 0).await;
        assert_eq!(ann.hear().await, json!({"joined": "bob"}));
        let said = |text: &str, key: &str| json!({"say": {"text": text, "key": key}}).to_string();
        let cases = [
            ("{".to_owned(), Value::Null),
            (json!({"shout": {"text": "x"}}).to_string(), Value::Null),
            (
                json!({"say": {"text": 1, "key": "k"}}).to_string(),
                Value::Null,
            ),
            (said(" \n", "k"), json!("k")),
            (said(&"x".repeat(2001), "k"), json!("k")),
            (said("\u{7}", "k"), json!("k")),
            (said("x", ""), json!("")),
        ];
        for (nonsense, key) in cases {
            ann.send(&nonsense).await;
            let told = ann.hear().await;
            assert_eq!(told["refused"]["key"], key, "{nonsense}");
            assert!(told["refused"]["reason"].is_string(), "{told}");
        }
        ann.say(&"ä".repeat(2000), "k").await;
        bob.hears_line(1, "ann", &"ä".repeat(2000)).await;

        for (author, text) in [("", "x"), ("a\nb", "x"), ("x", "")] {
            assert_eq!(code(say(&vat, author, text).await), Code::InvalidArgument);
        }
    });
}

#[test]
fn an_alarm_keeps_the_last_thousand_lines_for_seven_days_and_no_number_comes_again() {
    run(async {
        let vat = vat().await;
        for number in 1..=1003 {
            assert_eq!(say(&vat, "clock", "tick").await.unwrap(), number);
        }
        vat.advance(Duration::from_secs(600)).await;
        let lines = history(&vat, u32::MAX).await;
        assert_eq!((lines.len(), lines[0].0), (1000, 4));

        assert!(vat.run_alarms().await);
        assert_eq!(history(&vat, u32::MAX).await, []);
        assert_eq!(vat.next_alarm::<Room>(LOBBY), None);
        assert_eq!(say(&vat, "clock", "tock").await.unwrap(), 1004);
    });
}
