//! Peers that mean well: capnp-rpc's own network on the other side.

use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};
use vatwerk::counter_capnp::counter;

use super::object::*;
use super::peer::*;
use super::{LIMIT, watched};
use crate::gateway::network::{End, Handle, Limits, Network};

use std::rc::Rc;

struct Count(std::cell::Cell<i64>);

impl counter::Server for Count {
    async fn increment(
        self: Rc<Self>,
        params: counter::IncrementParams,
        mut results: counter::IncrementResults,
    ) -> Result<(), capnp::Error> {
        self.0.set(self.0.get() + params.get()?.get_amount());
        results.get().set_count(self.0.get());
        Ok(())
    }
}

/// A served counter, and a stock client of it.
fn connected(limits: Limits) -> (counter::Client, Handle, tokio::task::JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (read, write) = theirs.into_split();
    let (network, handle) = Network::new(read, write, limits);
    let served: counter::Client = capnp_rpc::new_client(Count(Default::default()));
    let system = RpcSystem::new(Box::new(network), Some(served.client));
    tokio::task::spawn_local(system);
    let (read, write) = ours.into_split();
    let network = twoparty::VatNetwork::new(
        read.compat(),
        write.compat_write(),
        Side::Client,
        Default::default(),
    );
    let mut system = RpcSystem::new(Box::new(network), None);
    let client = system.bootstrap(Side::Server);
    let client_side = tokio::task::spawn_local(async move {
        let _ = system.await;
    });
    (client, handle, client_side)
}

#[test]
fn both_sides_of_a_connection_may_be_this_network() {
    watched(LIMIT, || async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (read, write) = theirs.into_split();
        let (network, _serving) = Network::new(read, write, Limits::default());
        let served: counter::Client = capnp_rpc::new_client(Count(Default::default()));
        let system = RpcSystem::new(Box::new(network), Some(served.client));
        tokio::task::spawn_local(system);
        let (read, write) = ours.into_split();
        let (network, _calling) = Network::new(read, write, Limits::default());
        let mut system = RpcSystem::new(Box::new(network), None);
        // It names the other side so, whichever that is.
        let client: counter::Client = system.bootstrap(Side::Client);
        tokio::task::spawn_local(system);
        for n in 1..=100 {
            let mut request = client.increment_request();
            request.get().set_amount(1);
            let response = request.send().promise.await.unwrap();
            assert_eq!(response.get().unwrap().get_count(), n);
        }
    });
}

#[test]
fn calls_are_answered_in_order() {
    watched(LIMIT, || async {
        let (client, handle, system) = connected(Limits::default());
        let sent: Vec<_> = (0..1000)
            .map(|_| client.increment_request().send().promise)
            .collect();
        for (n, sent) in sent.into_iter().enumerate() {
            let response = sent.await.unwrap();
            assert_eq!(response.get().unwrap().get_count(), n as i64 + 1);
        }
        let counters = handle.counters();
        assert_eq!(counters.calls, 1000);
        assert_eq!(counters.calls_in_flight, 0);
        drop(client);
        system.abort();
        assert_eq!(handle.ended().await, End::PeerClosed);
    });
}

#[test]
fn a_closing_connection_says_why() {
    watched(LIMIT, || async {
        let (client, handle, system) = connected(Limits::default());
        client.increment_request().send().promise.await.unwrap();
        handle.refuse_calls();
        let refused = client
            .increment_request()
            .send()
            .promise
            .await
            .err()
            .unwrap();
        let (code, _) = vatwerk::Code::split(&refused.extra);
        assert_eq!(code, Some(vatwerk::Code::ShuttingDown), "{refused}");
        handle.idle().await;
        handle.close();
        assert_eq!(handle.ended().await, End::Stopped);
        system.await.unwrap();
        assert!(client.increment_request().send().promise.await.is_err());
    });
}

#[test]
fn what_is_queued_is_written_before_the_end() {
    watched(LIMIT, || async {
        let mut peer = Peer::new(Limits::default());
        let mut messages = vec![bootstrap(0)];
        messages.extend((1..=20).map(|n| call(n, Target::Export(0), BIG, Cap::None)));
        peer.send(&messages).await;
        while peer.handle.counters().calls < 20 || peer.handle.counters().calls_in_flight > 0 {
            tokio::task::yield_now().await;
        }
        peer.handle.close();
        for question in 1..=20 {
            peer.returned(question).await.unwrap();
        }
        let (text, end) = peer.aborted().await;
        assert!(text.starts_with("shutting-down: "), "{text}");
        assert_eq!(end, End::Stopped);
    });
}

#[test]
fn a_peer_that_takes_nothing_does_not_hold_up_the_end() {
    watched(LIMIT, || async {
        let limits = Limits {
            linger: std::time::Duration::from_millis(20),
            ..Limits::default()
        };
        let mut peer = Peer::new(limits);
        let mut messages = vec![bootstrap(0)];
        messages.extend((1..=20).map(|n| call(n, Target::Export(0), BIG, Cap::None)));
        peer.send(&messages).await;
        peer.handle.close();
        assert_eq!(peer.handle.ended().await, End::Stopped);
    });
}

#[test]
fn a_dropped_system_ends_its_connection() {
    watched(LIMIT, || async {
        let (mut ours, theirs) = tokio::io::duplex(1024);
        let (read, write) = tokio::io::split(theirs);
        let (network, handle) = Network::new(read, write, Limits::default());
        let system = RpcSystem::new(Box::new(network), None);
        let system = tokio::task::spawn_local(system);
        tokio::task::yield_now().await;
        system.abort();
        assert_eq!(handle.ended().await, End::Dropped);
        assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
    });
}

#[test]
fn a_panic_ends_its_connection_only() {
    watched(LIMIT, || async {
        let mut other = Peer::new(Limits::default());
        let mut peer = Peer::new(Limits::default());
        peer.send(&[bootstrap(0), call(1, Target::Answer(0), PANIC, Cap::None)])
            .await;
        let end = peer.handle.ended().await;
        assert_eq!(end, End::Panicked("on demand".into()));
        while peer.receive().await.is_some() {}
        other.send(&[bootstrap(0)]).await;
        other.returned(0).await.unwrap();
    });
}

#[test]
fn messages_of_every_size_and_cut_arrive() {
    watched(LIMIT, || async {
        let mut peer = Peer::new(Limits::default());
        peer.send(&[bootstrap(0)]).await;
        peer.returned(0).await.unwrap();
        for (n, size) in [0, 100, 4 << 10, 31 << 10, 33 << 10, 70 << 10, 3 << 20]
            .into_iter()
            .enumerate()
        {
            let question = n as u32 + 1;
            let message = build(|m| {
                let mut call = m.init_call();
                call.set_question_id(question);
                call.set_interface_id(INTERFACE);
                call.reborrow().init_target().set_imported_cap(0);
                let content = call.init_params().get_content();
                let _: capnp::data::Builder<'_> = content.initn_as(size);
            });
            let mut bytes = Vec::new();
            capnp::serialize::write_message(&mut bytes, &message).unwrap();
            for piece in bytes.chunks(1 + bytes.len() / 5) {
                peer.send_bytes(piece).await;
                tokio::task::yield_now().await;
            }
            peer.returned(question).await.unwrap();
        }
    });
}
