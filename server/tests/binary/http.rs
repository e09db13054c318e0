//! A client of HTTP/1.1 that asks one thing.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

/// The whole answer to a request with a body of JSON.
pub fn ask(address: &str, request: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let patience = Some(Duration::from_secs(60));
    stream.set_read_timeout(patience).unwrap();
    let length = body.len();
    let head = format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close");
    let json = format!("Content-Type: application/json\r\nContent-Length: {length}");
    write!(stream, "{head}\r\n{json}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The whole answer to `GET path`.
pub fn get(address: &str, path: &str) -> String {
    ask(address, &format!("GET {path}"), "")
}
