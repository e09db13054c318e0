//! Clients that begin something and do not go on with it, or hardly.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt, stream};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, sleep},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};
use vatwerk_server::{Config, http::Request};

use super::{
    client::{Client, connect, frames, web_socket},
    listen, vat_with,
};
use crate::support::{TestVat, run_paused, settle};

/// The pause of a client that hardly goes on, below every limit for one that does not go on.
const PAUSE: Duration = Duration::from_secs(2);

/// The paths that read a body.
const READERS: [&str; 2] = ["/Page/n/swallow", "/Page/n/call/increment"];

/// Settings that show numbers.
fn shown(config: &mut Config) {
    config.http.listen = listen();
    config.http.stall_ms = 3_000;
    config.metrics = Some("tcp:127.0.0.1:0".parse().unwrap());
}

/// Whether the numbers of a vat have this line.
async fn shows(vat: &TestVat, line: &str) -> bool {
    settle().await;
    let numbers = vat.metrics().await;
    numbers.lines().any(|shown| shown == line)
}

/// A body of pieces of `bytes` spaces, one every [`PAUSE`], that ends after `pieces` of them.
fn body(bytes: usize, pieces: usize) -> impl futures::Stream<Item = Bytes> + Send + 'static {
    stream::iter(0..pieces).then(move |_| async move {
        sleep(PAUSE).await;
        Bytes::from(" ".repeat(bytes))
    })
}

/// The status of the answer to such a body.
async fn status(client: &mut Client, path: &str, bytes: usize, pieces: usize) -> u16 {
    let request = Request::post(path).body(()).unwrap();
    let answer = client.stream(request, body(bytes, pieces)).await;
    answer.unwrap().status().as_u16()
}

#[test]
fn a_body_that_trickles_is_given_up_and_its_place_is_free() {
    run_paused(async {
        let vat = vat_with(shown).await;
        for path in READERS {
            for mut client in Client::each(&vat).await {
                let began = Instant::now();
                assert_eq!(status(&mut client, path, 1, 10_000).await, 408, "{path}");
                assert_eq!(began.elapsed().as_secs(), 3);
            }
        }
        assert!(shows(&vat, "vatwerk_http_slow_total{reason=\"body\"} 4").await);
        assert!(shows(&vat, "vatwerk_http_requests_in_flight 0").await);
        // One that is slow, and goes on, is waited for.
        for mut client in Client::each(&vat).await {
            assert_eq!(status(&mut client, READERS[0], 600, 8).await, 200);
        }
    });
}

#[test]
fn a_body_has_as_long_as_the_settings_say_however_it_comes() {
    run_paused(async {
        let vat = vat_with(|config| {
            shown(config);
            config.http.body_ms = 10_000;
        })
        .await;
        for mut client in Client::each(&vat).await {
            assert_eq!(status(&mut client, READERS[0], 6_000, 4).await, 200);
            let began = Instant::now();
            assert_eq!(status(&mut client, READERS[0], 6_000, 10_000).await, 408);
            assert_eq!(began.elapsed().as_secs(), 10);
        }
    });
}

#[test]
fn an_answer_of_which_little_is_taken_is_given_up() {
    run_paused(async {
        let vat = vat_with(|config| {
            shown(config);
            config.http.stall_ms = 5_000;
            config.http.least_bytes_per_s = 100_000;
        })
        .await;
        let (mut send, _driver) = frames(&vat).await;
        let get = Request::get("http://localhost/Page/n/flood");
        let answer = send.send_request(get.body(()).unwrap(), true).unwrap().0;
        let mut some = answer.await.unwrap().into_body();
        // A little more now and then, before anybody would think that nothing is taken at all.
        while let Some(Ok(_)) = some.data().await {
            let _ = some.flow_control().release_capacity(33_000);
            sleep(Duration::from_secs(4)).await;
        }
        vat.controls.reached("flood dropped").await;
        assert!(shows(&vat, "vatwerk_http_slow_total{reason=\"answer\"} 1").await);
    });
}

/// The beginning of a masked frame of bytes: what it is, whether it is the last of its message, and how long.
fn begun(opcode: u8, is_final: bool, length: u32) -> Vec<u8> {
    let mut frame = vec![opcode | if is_final { 0x80 } else { 0 }, 0x80 | 127];
    frame.extend(u64::from(length).to_be_bytes());
    frame.extend([0; 4]);
    frame
}

async fn write(socket: &mut WebSocketStream<TcpStream>, bytes: &[u8]) {
    // It may have been closed.
    let _ = socket.get_mut().write_all(bytes).await;
}

/// The code with which the vat closes a socket, pings aside.
async fn close_code(socket: &mut WebSocketStream<TcpStream>) -> u16 {
    loop {
        match socket.next().await.expect("a close").unwrap() {
            Message::Close(close) => return close.expect("a code").code.into(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("no close: {other}"),
        }
    }
}

#[test]
fn a_message_that_trickles_closes_its_socket() {
    run_paused(async {
        let vat = vat_with(|config| {
            shown(config);
            config.http.ping_ms = 0;
        })
        .await;
        let ping = [0x89, 0x80, 0, 0, 0, 0];
        let part = [&begun(2, false, 1)[..], b"x"].concat();
        let more = [&begun(0, false, 1)[..], b"x"].concat();
        let cases: [(&[u8], &[u8]); 3] = [
            // One byte of a long frame; frames of one byte; nothing but pings between two frames.
            (&begun(2, true, 1 << 20), b"x"),
            (&part, &more),
            (&part, &ping),
        ];
        for (first, next) in cases {
            let mut socket = web_socket(&vat).await;
            let began = Instant::now();
            write(&mut socket, first).await;
            for _ in 0..3 {
                sleep(Duration::from_millis(900)).await;
                write(&mut socket, next).await;
            }
            assert_eq!(close_code(&mut socket).await, 1008);
            assert_eq!(began.elapsed().as_secs(), 3);
        }
        assert!(shows(&vat, "vatwerk_http_slow_total{reason=\"message\"} 3").await);
        // One that comes slowly, and comes, is heard.
        let mut socket = web_socket(&vat).await;
        write(&mut socket, &begun(2, true, 60_000)).await;
        for _ in 0..10 {
            sleep(PAUSE).await;
            write(&mut socket, &[b'x'; 6_000]).await;
        }
        assert_eq!(socket.next().await.unwrap().unwrap().len(), 60_000);
    });
}

#[test]
fn messages_that_are_not_finished_have_only_so_much_room_together() {
    run_paused(async {
        let vat = vat_with(|config| {
            shown(config);
            config.http.unfinished_bytes = 3 << 20;
        })
        .await;
        let long = begun(2, true, 1 << 20);
        let mut sockets = Vec::new();
        for _ in 0..3 {
            let mut socket = web_socket(&vat).await;
            write(&mut socket, &long).await;
            sockets.push(socket);
        }
        settle().await;
        let mut over = web_socket(&vat).await;
        write(&mut over, &long).await;
        assert_eq!(close_code(&mut over).await, 1013);
        drop(over);
        assert!(
            shows(
                &vat,
                "vatwerk_overloaded_total{reason=\"socket_messages\"} 1"
            )
            .await
        );
        // A short message needs no room of others, and those who were there have theirs.
        let mut short = web_socket(&vat).await;
        short.send("short".into()).await.unwrap();
        assert_eq!(short.next().await.unwrap().unwrap(), "short".into());
        for socket in &mut sockets {
            write(socket, &vec![b'x'; 1 << 20]).await;
            assert_eq!(socket.next().await.unwrap().unwrap().len(), 1 << 20);
        }
        settle().await;
        write(&mut short, &long).await;
        write(&mut short, &vec![b'x'; 1 << 20]).await;
        assert_eq!(short.next().await.unwrap().unwrap().len(), 1 << 20);
    });
}

#[test]
fn a_header_that_is_not_finished_ends_its_connection() {
    /// The preface of HTTP/2 with empty settings, and a header block of one byte that goes on.
    const BLOCK: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
        \x00\x00\x00\x04\x00\x00\x00\x00\x00\
        \x00\x00\x01\x01\x01\x00\x00\x00\x01\x82";
    run_paused(async {
        let vat = vat_with(|config| {
            config.http.listen = listen();
            config.http.idle_ms = 6_000;
        })
        .await;
        let heads: [&[u8]; 2] = [b"GET /Page/n/whole HTTP/1.1\r\nhost: local", BLOCK];
        for head in heads {
            let mut stream = connect(&vat).await;
            let began = Instant::now();
            stream.write_all(head).await.unwrap();
            let (mut read, mut write) = stream.into_split();
            let ended = tokio::task::spawn_local(async move {
                let mut heard = Vec::new();
                let _ = tokio::io::AsyncReadExt::read_to_end(&mut read, &mut heard).await;
            });
            // It trickles: another byte of a header, or one more CONTINUATION.
            let more: &[u8] = match head {
                BLOCK => b"\x00\x00\x01\x09\x00\x00\x00\x00\x01\x84",
                _ => b"h",
            };
            while !ended.is_finished() {
                let _ = write.write_all(more).await;
                sleep(PAUSE).await;
            }
            let took = began.elapsed();
            assert!(took <= Duration::from_secs(15), "{took:?}");
        }
        let mut fresh = Client::one(&vat).await;
        assert_eq!(fresh.get("/Page/n/whole").await.text, "whole");
    });
}
