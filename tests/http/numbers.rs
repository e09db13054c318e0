//! The numbers that requests and WebSockets leave behind, by class and kind.

use futures::{SinkExt, StreamExt};
use vatwerk::chatroom_capnp::chat_room;

use super::{
    client::{Client, web_socket},
    listen, vat_with,
};
use crate::support::{TestVat, run};

async fn counted() -> TestVat {
    vat_with(|config| {
        config.http.listen = listen();
        config.metrics = Some("127.0.0.1:0".parse().expect("an address"));
    })
    .await
}

/// A number of a vat, by its name and labels as they are shown.
pub async fn number(vat: &TestVat, name: &str) -> f64 {
    let text = vat.metrics().await;
    let line = text.lines().find_map(|line| {
        line.strip_prefix("vatwerk_")?
            .strip_prefix(name)?
            .strip_prefix(' ')
    });
    line.and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("{name}\n{text}"))
}

/// A number, once it is so large: the vat may still be at it when its client goes on.
async fn reaches(vat: &TestVat, name: &str, value: f64) {
    while number(vat, name).await != value {
        tokio::task::yield_now().await;
    }
}

#[test]
fn requests_are_counted_and_timed_by_class_kind_and_status() {
    run(async {
        let vat = counted().await;
        for mut client in Client::each(&vat).await {
            client.get("/Page/n/whole").await;
            client.get("/Page/n/nowhere").await;
            client.get("/Page/n").await;
            client.get("/Page/n/panics").await;
            client.post("/Page/n/call/increment", "{}").await;
            client.post("/Page/n/call/increment", "{").await;
            client.get("/Nobody/n/").await;
            client.get("/").await;
        }
        for (labels, statuses) in [
            (r#"class="Page",kind="page""#, [0, 1, 1, 1, 1]),
            (r#"class="Page",kind="call""#, [0, 1, 0, 1, 0]),
            (r#"class="",kind="vat""#, [0, 0, 0, 2, 0]),
            (r#"class="ChatRoom",kind="page""#, [0; 5]),
        ] {
            for (digit, count) in (1..).zip(statuses) {
                let name = format!("http_requests_total{{{labels},status=\"{digit}xx\"}}");
                // Once over each version of HTTP.
                assert_eq!(number(&vat, &name).await, f64::from(2 * count), "{name}");
            }
            let timed = format!("http_request_seconds_count{{{labels}}}");
            let all: i32 = statuses.iter().sum();
            assert_eq!(number(&vat, &timed).await, f64::from(2 * all), "{timed}");
        }
        let took = r#"http_request_seconds_sum{class="Page",kind="call"}"#;
        assert!(number(&vat, took).await > 0.0);
    });
}

#[test]
fn web_sockets_and_what_is_heard_on_them_are_counted_by_class() {
    run(async {
        let vat = counted().await;
        let open = r#"web_sockets{class="Page"}"#;
        let messages = r#"web_socket_event_seconds_count{class="Page",kind="message"}"#;
        let ends = r#"web_socket_event_seconds_count{class="Page",kind="end"}"#;
        assert_eq!(number(&vat, open).await, 0.0);
        let mut sockets = [web_socket(&vat).await, web_socket(&vat).await];
        assert_eq!(number(&vat, open).await, 2.0);
        for socket in &mut sockets {
            socket.send("hear".into()).await.unwrap();
            socket.next().await.unwrap().unwrap();
        }
        assert_eq!(number(&vat, messages).await, 2.0);
        assert_eq!(number(&vat, ends).await, 0.0);
        let [mut closed, lost] = sockets;
        closed.close(None).await.unwrap();
        while closed.next().await.is_some() {}
        drop(lost);
        reaches(&vat, ends, 2.0).await;
        reaches(&vat, open, 0.0).await;
        let begun = r#"http_requests_total{class="Page",kind="page",status="1xx"}"#;
        assert_eq!(number(&vat, begun).await, 2.0);
        assert_eq!(number(&vat, r#"web_sockets{class="ChatRoom"}"#).await, 0.0);
    });
}

#[test]
fn objects_are_counted_when_they_come_into_being_and_when_they_end() {
    run(async {
        let vat = counted().await;
        let counts = async |created, deleted, there| {
            for (name, count) in [
                ("objects_created_total", created),
                ("objects_deleted_total", deleted),
                ("objects", there),
            ] {
                let name = format!("{name}{{class=\"ChatRoom\"}}");
                assert_eq!(number(&vat, &name).await, f64::from(count), "{name}");
            }
        };
        counts(0, 0, 0).await;
        let mut client = Client::one(&vat).await;
        for (room, created) in [("one", 1), ("one", 1), ("two", 2)] {
            let path = format!("/ChatRoom/{room}/call/say");
            let said = client
                .post(&path, r#"{"author":"ann","text":"hello"}"#)
                .await;
            assert_eq!(said.status, 200, "{}", said.text);
            counts(created, 0, created).await;
        }
        let wire = vat.wire().await;
        let rooms = wire.namespace::<chat_room::Client>();
        for existed in [true, false] {
            let mut delete = rooms.delete_request();
            delete.get().init_key().set_object_name("one");
            let deleted = delete.send().promise.await.unwrap();
            assert_eq!(deleted.get().unwrap().get_existed(), existed);
            counts(2, 1, 1).await;
        }
    });
}
