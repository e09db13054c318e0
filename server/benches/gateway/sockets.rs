//! WebSockets: echoes, broadcasts, and sockets of an object that sleeps.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures::{SinkExt, StreamExt, future::join_all};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};
use vatwerk_client::{LocalClient, ObjectState, ObjectStatus};

use crate::{
    Options,
    rounds::{Rounds, median, micros, print_header},
    server::{Role, Server},
};

const TEXT: &str = "0123456789abcdef0123456789abcdef";
/// How many sockets hear a broadcast.
const LISTENERS: usize = 1000;
/// Objects fall asleep when they have done nothing for this long.
const IDLE: Duration = Duration::from_millis(100);

pub async fn measure(options: &Options) {
    let vat = Server::vat(&settings(Duration::from_secs(3600)));
    echoes(options, &Server::bare(Role::Echo), &vat).await;
    broadcasts(options, &Server::bare(Role::Broadcast), &vat).await;
    drop(vat);
    sleepers(options).await;
    wakings(options).await;
}

fn settings(idle: Duration) -> String {
    format!(
        "[limits]\nidle_ms = {}\n[http]\nconnections = 20_000\n",
        idle.as_millis()
    )
}

async fn echoes(options: &Options, tungstenite: &Server, vat: &Server) {
    let rows = [
        ("bare `tokio-tungstenite`", tungstenite, "/socket"),
        ("**an object**", vat, "/Echo/bench/socket"),
    ];
    print_header(&[
        "who echoes 32 bytes",
        "sockets",
        "round trips/s",
        "median us",
        "p99 us",
        "server us/round trip",
        "ratio",
    ]);
    for sockets in [1, 100] {
        let mut measured = rows.each_ref().map(|_| Rounds::default());
        for _ in 0..options.rounds {
            for ((_, server, path), rounds) in rows.iter().zip(&mut measured) {
                let mut clients = connect(server.http, path, sockets).await;
                let ask = async |client: &mut Client| client.echo().await;
                rounds
                    .round(server, options.round, &mut clients, 1, ask)
                    .await;
            }
        }
        let floor = measured[0].per_second();
        for ((name, ..), rounds) in rows.iter().zip(&measured) {
            let ratio = rounds.per_second() / floor;
            println!("| {name} | {sockets} | {} | {ratio:.2} |", rounds.cells());
        }
    }
}

async fn broadcasts(options: &Options, tungstenite: &Server, vat: &Server) {
    let rows = [
        ("bare `tokio-tungstenite`", tungstenite, "/broadcast"),
        ("**an object**", vat, "/Echo/bench/broadcast"),
    ];
    let mut measured = rows.each_ref().map(|_| Rounds::default());
    let mut listening = Vec::new();
    for (_, server, path) in &rows {
        listening.push([connect(server.http, path, LISTENERS).await]);
    }
    for _ in 0..options.rounds {
        for (((_, server, _), clients), rounds) in
            rows.iter().zip(&mut listening).zip(&mut measured)
        {
            // Each says one thing to all, when all have heard the one before.
            let tell = async |all: &mut Vec<Client>| {
                all[0].say().await;
                join_all(all.iter_mut().map(Client::hear)).await;
            };
            rounds
                .round(server, options.round, clients, LISTENERS, tell)
                .await;
        }
    }
    let header = format!("who sends 32 bytes to {LISTENERS} sockets");
    print_header(&[
        &header,
        "deliveries/s",
        "until all have it, median us",
        "p99 us",
        "server us/delivery",
        "ratio",
    ]);
    let floor = measured[0].per_second();
    for ((name, ..), rounds) in rows.iter().zip(&measured) {
        let ratio = rounds.per_second() / floor;
        println!("| {name} | {} | {ratio:.2} |", rounds.cells());
    }
}

/// What sockets cost that say nothing.
async fn sleepers(options: &Options) {
    let sockets = options.sleepers;
    print_header(&["who holds idle sockets", "sockets", "memory, KiB a socket"]);
    let tungstenite = Server::bare(Role::Echo);
    let vat = Server::vat(&settings(IDLE));
    let capnp = LocalClient::connect(&vat.capnp()).await.expect("a vat");
    for (name, server, path) in [
        ("bare `tokio-tungstenite`", &tungstenite, "/socket"),
        (
            "**the vat, of an object that sleeps**",
            &vat,
            "/Echo/bench/count",
        ),
    ] {
        // So that everything is there that one socket needs.
        let mut first = connect(server.http, path, 1).await;
        first[0].echo().await;
        let before = server.resident();
        let mut clients = connect(server.http, path, sockets).await;
        // Each has been in use.
        for client in &mut clients {
            client.echo().await;
        }
        if std::ptr::eq(server, &vat) {
            wait_for_sleep(&capnp).await;
        }
        let grown = server.resident().saturating_sub(before);
        let kib = grown as f64 / 1024.0 / sockets as f64;
        println!("| {name} | {sockets} | {kib:.1} |");
        if std::ptr::eq(server, &vat) {
            let asked = Instant::now();
            clients[sockets / 2].echo().await;
            println!(
                "\nThe first answer of the object with {sockets} sockets after its sleep: {:.0} us",
                micros(asked.elapsed())
            );
        }
    }
}

/// How long a message takes that wakes the object, beside one that does not.
async fn wakings(options: &Options) {
    print_header(&["a message and its answer", "median us", "ratio"]);
    let mut floor = None;
    for (name, idle) in [
        ("the object is awake", Duration::from_secs(3600)),
        ("**the object is woken**", IDLE),
    ] {
        let vat = Server::vat(&settings(idle));
        let capnp = LocalClient::connect(&vat.capnp()).await.expect("a vat");
        let mut client = connect(vat.http, "/Echo/bench/count", 1).await;
        client[0].echo().await;
        let mut times = Vec::new();
        for _ in 0..options.wakings {
            // Both have been at rest for the same time.
            match idle == IDLE {
                true => wait_for_sleep(&capnp).await,
                false => tokio::time::sleep(IDLE).await,
            }
            tokio::time::sleep(IDLE).await;
            let asked = Instant::now();
            client[0].echo().await;
            times.push(micros(asked.elapsed()));
        }
        let time = median(times);
        let ratio = time / *floor.get_or_insert(time);
        println!("| {name} | {time:.0} | {ratio:.2} |");
    }
}

/// Until the object `bench` sleeps. To ask does not wake it.
async fn wait_for_sleep(capnp: &LocalClient) {
    let namespace = capnp.namespace_named("Echo").capability();
    loop {
        let mut show = namespace.show_request();
        show.get().init_key().set_object_name("bench");
        let shown = show.send().promise.await.expect("an answer");
        let status = shown.get().and_then(|shown| shown.get_status());
        let status = ObjectStatus::read(status.expect("a status")).expect("a status");
        if status.state == ObjectState::Asleep {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

struct Client(WebSocketStream<TcpStream>);

async fn connect(to: SocketAddr, path: &str, sockets: usize) -> Vec<Client> {
    let url = format!("ws://{to}{path}");
    let config = WebSocketConfig::default().read_buffer_size(4 << 10);
    let mut clients = Vec::with_capacity(sockets);
    for _ in 0..sockets {
        let stream = TcpStream::connect(to).await.expect("a server");
        stream.set_nodelay(true).expect("a connection");
        let connected = client_async_with_config(&url, stream, Some(config)).await;
        clients.push(Client(connected.expect("a socket").0));
    }
    clients
}

impl Client {
    async fn echo(&mut self) {
        self.say().await;
        self.hear().await;
    }

    async fn say(&mut self) {
        self.0.send(Message::text(TEXT)).await.expect("it is sent");
    }

    /// Until there is a message.
    async fn hear(&mut self) {
        loop {
            let message = self.0.next().await.expect("a message");
            if message.expect("a message").is_text() {
                return;
            }
        }
    }
}
