//! Many WebSockets of one object.

use std::time::Duration;

use futures::{SinkExt, StreamExt, future::join_all};
use tokio::{
    net::TcpStream,
    task::spawn_local,
    time::{pause, resume, sleep},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use super::{
    client::web_socket,
    listen,
    page::{SHOUT_BYTES, SHOUTS},
    vat_with,
};
use crate::support::run;

/// The WebSockets of a crowd; fewer if the process may not have the files for both ends of them.
fn crowd() -> usize {
    let files = rlimit::increase_nofile_limit(8192).unwrap_or(1024) as usize;
    // The vat gives three eighths of the files to connections.
    1000.min(files / 8 * 3 - 64)
}

/// Hears all that is shouted.
async fn hear_all(socket: &mut WebSocketStream<TcpStream>) {
    let mut heard = 0;
    while heard < SHOUTS {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                assert_eq!(text.len(), SHOUT_BYTES);
                heard += 1;
            }
            Some(Ok(Message::Ping(_))) => {}
            other => panic!("instead of a shout: {other:?}"),
        }
    }
}

#[test]
fn a_turn_that_says_much_to_many_closes_none_of_those_who_read() {
    run(async {
        let vat = vat_with(|config| {
            config.http.listen = listen();
            config.metrics = Some("127.0.0.1:0".parse().expect("an address"));
        })
        .await;
        let mut crowd = join_all((0..crowd()).map(|_| web_socket(&vat))).await;
        // Twice, so that the second turn meets whatever the first has left.
        for _ in 0..2 {
            crowd[0].send("shout".into()).await.unwrap();
            let heard = crowd.into_iter().map(|mut socket| {
                spawn_local(async move {
                    hear_all(&mut socket).await;
                    socket
                })
            });
            let heard = join_all(heard.collect::<Vec<_>>()).await;
            crowd = heard.into_iter().map(Result::unwrap).collect();
        }
        let numbers = vat.metrics().await;
        assert!(numbers.contains("\nvatwerk_web_sockets_slow_total 0\n"));
    });
}

/// The shouts after which more waits for a client that does not read than the system keeps for it.
const ROUNDS: usize = 100;

#[test]
fn in_a_crowd_only_whoever_does_not_read_is_closed() {
    run(async {
        let vat = vat_with(|config| {
            config.http.listen = listen();
            config.limits.socket_bytes_per_object = 48 << 20;
            config.metrics = Some("127.0.0.1:0".parse().expect("an address"));
        })
        .await;
        let mut deaf = web_socket(&vat).await;
        let mut reader = web_socket(&vat).await;
        for _ in 0..ROUNDS {
            reader.send("shout".into()).await.unwrap();
            hear_all(&mut reader).await;
        }
        // Nothing is on its way but what nobody reads.
        pause();
        sleep(Duration::from_secs(16)).await;
        resume();
        let mut heard = 0;
        let close = loop {
            match deaf.next().await {
                Some(Ok(Message::Close(Some(close)))) => break close,
                Some(Ok(message)) => heard += message.len(),
                other => panic!("no close: {other:?}"),
            }
        };
        assert_eq!(u16::from(close.code), 1008);
        assert!(heard < ROUNDS * SHOUTS * SHOUT_BYTES, "{heard}");
        reader.send("still here".into()).await.unwrap();
        let echo = reader.next().await.unwrap().unwrap();
        assert_eq!(echo, "still here".into());
        let numbers = vat.metrics().await;
        let open = "\nvatwerk_web_sockets{class=\"Page\"} 1\n";
        assert!(numbers.contains(open), "{numbers}");
    });
}
