//! Noise at the listener: whatever comes, there is an answer or an end, and the vat goes on.
//!
//! More of it: `VATWERK_SEEDS=5000 cargo test --release -p vatwerk --test vatwerk http::noise`. A seed that
//! fails is run again with `VATWERK_SEED`.

use tokio::io::AsyncWriteExt;

use super::{
    client::{Client, connect, rest},
    listen, vat_with,
};
use crate::support::{TestVat, run_paused};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    /// A request that is almost one.
    fn request(&mut self) -> Vec<u8> {
        let class = self.one(&["Page", "Cell", "Nobody", "", "%50age", "Page%00"]);
        let name = self.one(&["n", "", "%ff", "%", "a%2fb", "..", "%e2%82%ac", "*", "a b"]);
        let rest = self.one(&[
            "",
            "/",
            "/echo",
            "/whole?a=b",
            "/half",
            "/fails",
            "/swallow",
            "/socket",
            "/call/increment",
            "/call/identify",
            "/call/fetch",
            "/call/\u{e9}",
            "//..//",
        ]);
        let method = self.one(&[
            "GET", "POST", "HEAD", "OPTIONS", "PUT", "CONNECT", "get", "G\0T", "",
        ]);
        let version = self.one(&[
            "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/9.9", "",
        ]);
        let mut said = format!("{method} /{class}/{name}{rest} {version}\r\n");
        for _ in 0..self.below(6) {
            said += self.one(&[
                "host: localhost\r\n",
                "host: localhost\r\n",
                "host: evil.example\r\n",
                "host: n.page.objects.example\r\n",
                "sec-fetch-site: cross-site\r\n",
                "host: \u{e9}\r\n",
                "origin: null\r\n",
                "origin: http://localhost\r\n",
                "content-type: application/json\r\n",
                "content-type: text/plain; x=\"\r\n",
                "content-length: 2\r\n",
                "content-length: -2\r\n",
                "content-length: 99999999999999999999\r\n",
                "transfer-encoding: chunked\r\n",
                "transfer-encoding: gzip\r\n",
                "expect: 100-continue\r\n",
                "connection: close, host\r\n",
                "connection: upgrade\r\n",
                "upgrade: websocket\r\n",
                "upgrade: h2c\r\n",
                "sec-websocket-version: 13\r\n",
                "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
                "access-control-request-method: \u{1}\r\n",
                "x-forwarded-for: \u{fffd}\r\n",
                ": nameless\r\n",
                "no colon\r\n",
            ]);
        }
        said += self.one(&["\r\n", "\r\n", "\r\n", "\n", ""]);
        said += self.one(&[
            "",
            "{}",
            "2\r\n{}\r\n0\r\n\r\n",
            "2\r\n{}\r\n0\r\nx: y\r\n\r\n",
            "ffffffffffffffffff\r\n",
            "\u{81}\u{82}\0\0\0\0hi",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0",
        ]);
        let mut said = said.into_bytes();
        for _ in 0..self.below(3) {
            if self.below(3) == 0 {
                let at = self.below(said.len());
                said[at] = self.below(256) as u8;
            }
        }
        said
    }

    /// What one connection says.
    fn noise(&mut self) -> Vec<u8> {
        match self.below(8) {
            0 => (0..self.below(2000))
                .map(|_| self.below(256) as u8)
                .collect(),
            1 => {
                let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
                // Frames of any kind, with lengths that are mostly right.
                for _ in 0..self.below(20) {
                    let length = self.below(40);
                    said.extend([0, 0, length as u8]);
                    said.extend([self.below(11) as u8, self.below(256) as u8, 0, 0, 0]);
                    said.push(self.below(6) as u8);
                    said.extend((0..length).map(|_| self.below(256) as u8));
                }
                said
            }
            _ => (0..=self.below(3)).flat_map(|_| self.request()).collect(),
        }
    }
}

async fn make_noise(vat: &TestVat, seed: u64) {
    let mut random = Random(seed);
    let mut stream = connect(vat).await;
    let noise = random.noise();
    // In two parts, for what is in pieces is read in another way.
    let (first, second) = noise.split_at(random.below(noise.len() + 1));
    let _ = stream.write_all(first).await;
    tokio::task::yield_now().await;
    let _ = stream.write_all(second).await;
    if random.below(2) == 0 {
        let _ = stream.shutdown().await;
    }
    if random.below(4) > 0 {
        rest(&mut stream).await;
    }
}

#[test]
fn whatever_comes_there_is_an_end_and_the_vat_goes_on() {
    let setting = |name| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
    let seeds: Vec<u64> = match setting("VATWERK_SEED") {
        Some(seed) => vec![seed],
        None => (0..setting("VATWERK_SEEDS").unwrap_or(1000)).collect(),
    };
    // A vat hears so many, for a test may only take so long by its own clock.
    for seeds in seeds.chunks(1000) {
        hear(seeds.to_vec());
    }
}

fn hear(seeds: Vec<u64>) {
    run_paused(async move {
        let vat = vat_with(|config| {
            config.http.listen = listen();
            config.http.object_host = Some("objects.example".into());
            config.http.idle_ms = 50;
            config.http.stall_ms = 50;
            config.http.ping_ms = 50;
        })
        .await;
        for seed in seeds {
            let noise = make_noise(&vat, seed);
            let ended = tokio::time::timeout(std::time::Duration::from_secs(60), noise).await;
            assert!(ended.is_ok(), "VATWERK_SEED={seed} does not end");
            if seed % 16 == 0 {
                let mut client = Client::one(&vat).await;
                let answer = client.get("/Page/n/whole").await;
                assert_eq!(answer.text, "whole", "VATWERK_SEED={seed}");
            }
        }
    });
}
