//! One connection, on which several requests are under way at a time and answered in order.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use crate::measure::Round;

/// What requests and answers look like.
pub trait Protocol {
    /// Appends the next request.
    fn push_request(&mut self, requests: &mut Vec<u8>);

    /// How long the first answer among these bytes is, if all of it is there.
    fn answer_bytes(&self, received: &[u8]) -> Option<usize>;
}

pub struct Pipeline<P> {
    stream: UnixStream,
    protocol: P,
}

impl<P: Protocol> Pipeline<P> {
    pub fn new(stream: UnixStream, protocol: P) -> Self {
        Pipeline { stream, protocol }
    }

    /// Keeps `in_flight` requests under way for this long.
    pub fn run(&mut self, in_flight: usize, time: Duration) -> Round {
        let mut latencies = Vec::new();
        let mut under_way = VecDeque::new();
        let (mut requests, mut received) = (Vec::new(), Vec::new());
        let mut buffer = vec![0; 1 << 16];
        let started = Instant::now();
        loop {
            let now = Instant::now();
            if latencies.is_empty() || now - started < time {
                while under_way.len() < in_flight {
                    self.protocol.push_request(&mut requests);
                    under_way.push_back(now);
                }
                self.stream.write_all(&requests).expect("a server");
                requests.clear();
            } else if under_way.is_empty() {
                return Round::new(started.elapsed(), latencies);
            }
            let length = self.stream.read(&mut buffer).expect("a server");
            assert_ne!(length, 0, "the server has hung up");
            received.extend_from_slice(&buffer[..length]);
            let now = Instant::now();
            let mut read = 0;
            while let Some(bytes) = self.protocol.answer_bytes(&received[read..]) {
                read += bytes;
                let sent = under_way.pop_front().expect("an answer to a request");
                latencies.push(now - sent);
            }
            received.drain(..read);
        }
    }
}
