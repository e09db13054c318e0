//! A vat that stops.

use futures::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;
use vatwerk::counter_capnp::counter;
use vatwerk_server::http::Request;

use super::{
    client::{Client, connect, rest, web_socket},
    page::FOR_EVER,
    vat,
};
use crate::support::{run_paused, settle};

#[test]
fn requests_under_way_finish_and_further_ones_are_refused() {
    run_paused(async {
        let mut vat = vat().await;
        let mut waiting = Vec::new();
        for mut client in Client::each(&vat).await {
            let waits = async move { client.get("/Page/n/wait").await };
            waiting.push(tokio::task::spawn_local(waits));
        }
        while vat.controls.arrivals("wait") < 2 {
            settle().await;
        }
        let mut idle = Client::one(&vat).await;
        assert_eq!(idle.get("/Page/n/whole").await.text, "whole");
        let mut fresh = connect(&vat).await;
        settle().await;
        let stopped = vat.begin_stop();
        settle().await;
        assert!(!stopped.is_finished());
        // Nobody waits for the next request of a connection that is idle.
        let request = Request::get("/Page/n/whole").body(()).unwrap();
        idle.stream(request, futures::stream::empty())
            .await
            .unwrap_err();
        // It may have ended.
        let _ = fresh
            .write_all(b"GET /Page/n/whole HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await;
        let answer = rest(&mut fresh).await;
        let is_refused = answer.is_empty() || answer.contains("shutting-down");
        assert!(is_refused, "{answer}");
        vat.controls.release("wait");
        for answer in waiting {
            assert_eq!(answer.await.unwrap().text, "waited");
        }
        stopped.await.unwrap();
    });
}

#[test]
fn web_sockets_are_told_that_the_vat_goes_away() {
    run_paused(async {
        let mut vat = vat().await;
        let mut socket = web_socket(&vat).await;
        let stopped = vat.begin_stop();
        let Message::Close(Some(close)) = socket.next().await.unwrap().unwrap() else {
            panic!("not a close")
        };
        assert_eq!(u16::from(close.code), 1001);
        // The answer to it is sent when it is looked for.
        assert!(socket.next().await.is_none_or(|next| next.is_err()));
        stopped.await.unwrap();
    });
}

#[test]
fn a_stop_with_streams_of_all_kinds_takes_no_more_than_seven_seconds() {
    run_paused(async {
        let mut vat = vat().await;
        let wire = vat.wire().await;
        let page: counter::Client = wire.object("called");
        let mut call = page.increment_request();
        call.get().set_amount(FOR_EVER);
        let call = tokio::task::spawn_local(call.send().promise);
        vat.controls.reached("call begun").await;
        let mut held = Vec::new();
        for path in ["/Page/n/flood", "/Page/n/sleeps?3600"] {
            for mut client in Client::each(&vat).await {
                let request = Request::get(path).body(()).unwrap();
                let nothing = futures::stream::empty();
                held.push(tokio::task::spawn_local(async move {
                    // Whoever has an answer does not read it.
                    let answer = client.stream(request, nothing).await;
                    std::future::pending::<()>().await;
                    drop((answer, client));
                }));
            }
        }
        // It does not answer the end of its socket.
        let socket = web_socket(&vat).await;
        settle().await;
        let started = tokio::time::Instant::now();
        vat.stop().await;
        let took = started.elapsed();
        assert!(took <= std::time::Duration::from_secs(7), "{took:?}");
        assert!(call.await.unwrap().is_err());
        drop((held, socket));
    });
}

#[test]
fn a_request_that_never_ends_is_given_up_after_the_time_for_draining() {
    run_paused(async {
        let mut vat = vat().await;
        let mut client = Client::one(&vat).await;
        let asked = tokio::task::spawn_local(async move {
            let request = Request::get("/Page/n/sleeps?3600").body(()).unwrap();
            client.stream(request, futures::stream::empty()).await
        });
        settle().await;
        let started = tokio::time::Instant::now();
        vat.stop().await;
        assert!(started.elapsed().as_secs() < 60);
        match asked.await.unwrap() {
            Ok(answer) => assert!(answer.status().is_server_error()),
            Err(broken) => drop(broken),
        }
    });
}
