//! HTTP: requests that do nothing, and long bodies.

use std::{net::SocketAddr, time::Instant};

use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    Options,
    rounds::{Rounds, median, print_header},
    server::{Role, Server},
};

const GET: &str = "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n";
const CALL: &str = "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                    Content-Length: 2\r\n\r\n{}";

pub async fn measure(options: &Options) {
    let hyper = Server::bare(Role::Hyper);
    let vat = Server::vat("");
    requests(options, &hyper, &vat).await;
    bodies(options, &hyper, &vat).await;
}

async fn requests(options: &Options, hyper: &Server, vat: &Server) {
    let rows = [
        ("bare `hyper`", hyper, GET, "/"),
        ("**an object's `fetch`**", vat, GET, "/Echo/bench/"),
        ("a call as JSON", vat, CALL, "/Echo/bench/call/get"),
    ];
    print_header(&[
        "who answers",
        "connections",
        "requests/s",
        "median us",
        "p99 us",
        "server us/request",
        "ratio",
    ]);
    for connections in [1, 64] {
        let mut measured: Vec<Rounds> = rows.iter().map(|_| Rounds::default()).collect();
        for _ in 0..options.rounds {
            for ((_, server, request, path), rounds) in rows.iter().zip(&mut measured) {
                let request = request.replace("{path}", path);
                let mut clients = Vec::new();
                for _ in 0..connections {
                    clients.push(Client::connect(server.http).await);
                }
                let ask = async |client: &mut Client| client.ask(request.as_bytes()).await;
                rounds
                    .round(server, options.round, &mut clients, 1, ask)
                    .await;
            }
        }
        let floor = measured[0].per_second();
        for ((name, ..), rounds) in rows.iter().zip(&measured) {
            let ratio = rounds.per_second() / floor;
            println!(
                "| {name} | {connections} | {} | {ratio:.2} |",
                rounds.cells()
            );
        }
    }
}

async fn bodies(options: &Options, hyper: &Server, vat: &Server) {
    let bytes = options.body_bytes;
    let down = |path: &str| format!("GET {path}/bytes/{bytes} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let up = |path: &str| {
        format!("POST {path}/length HTTP/1.1\r\nHost: localhost\r\nContent-Length: {bytes}\r\n\r\n")
    };
    let object = "/Echo/bench";
    let rows = [
        ("received from bare `hyper`", hyper, down(""), 0),
        ("**received from an object**", vat, down(object), 0),
        ("sent to bare `hyper`", hyper, up(""), bytes),
        ("**sent to an object**", vat, up(object), bytes),
    ];
    let mut measured = rows.each_ref().map(|_| (Vec::new(), 0));
    for _ in 0..options.rounds {
        for ((_, server, request, sent), (speeds, grown)) in rows.iter().zip(&mut measured) {
            server.forget_peak();
            let before = server.resident();
            let mut client = Client::connect(server.http).await;
            let started = Instant::now();
            client
                .stream
                .write_all(request.as_bytes())
                .await
                .expect("it is sent");
            client.send(*sent).await;
            client.answer().await;
            let seconds = started.elapsed().as_secs_f64();
            speeds.push((bytes >> 20) as f64 / seconds);
            *grown = (*grown).max(server.peak().saturating_sub(before));
        }
    }
    let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    let body = format!("a body of {} MiB", bytes >> 20);
    print_header(&[&body, "MiB/s", "ratio", "most memory for it, MiB"]);
    let speeds = measured.map(|(speeds, grown)| (median(speeds), grown));
    for (n, ((name, ..), (speed, grown))) in rows.iter().zip(&speeds).enumerate() {
        let ratio = speed / speeds[n / 2 * 2].0;
        println!("| {name} | {speed:.0} | {ratio:.2} | {:.1} |", mib(*grown));
    }
}

/// A connection that knows just enough of HTTP/1.1: what a client costs is in every row.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    async fn connect(to: SocketAddr) -> Client {
        let stream = TcpStream::connect(to).await.expect("a server");
        stream.set_nodelay(true).expect("a connection");
        let buffer = vec![0; 256 << 10];
        Client { stream, buffer }
    }

    async fn ask(&mut self, request: &[u8]) {
        self.stream.write_all(request).await.expect("it is sent");
        self.answer().await;
    }

    /// Sends so many bytes.
    async fn send(&mut self, bytes: u64) {
        let mut left = bytes;
        while left > 0 {
            let piece = left.min(self.buffer.len() as u64);
            let sent = self.stream.write_all(&self.buffer[..piece as usize]).await;
            sent.expect("it is sent");
            left -= piece;
        }
    }

    /// Reads one answer, and forgets its body.
    async fn answer(&mut self) {
        let mut read = 0;
        let (head, body) = loop {
            let more = self.stream.read(&mut self.buffer[read..]).await;
            let more = more.expect("a connection");
            assert!(more > 0, "the server hung up");
            read += more;
            let end = memmem::find(&self.buffer[..read], b"\r\n\r\n");
            if let Some(end) = end {
                break (&self.buffer[..end], read - end - 4);
            }
        };
        let head = str::from_utf8(head).expect("text").to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        let mut lines = head.lines();
        let length = lines.find_map(|line| line.strip_prefix("content-length: "));
        let length: u64 = length.expect("a length").parse().expect("a number");
        let mut left = length - body as u64;
        while left > 0 {
            let more = self.stream.read(&mut self.buffer).await;
            let more = more.expect("a connection");
            assert!(more > 0, "the server hung up");
            left -= more as u64;
        }
    }
}
