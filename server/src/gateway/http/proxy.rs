//! Proxies in front of the vat: which of them are believed, and what objects see of that.
//!
//! Anybody may send `X-Forwarded-*`. Only a proxy that `trusted_proxies` names, or one that comes by a unix
//! socket, which its mode guards, has them passed on; those of others are dropped, and `Forwarded` and
//! `X-Real-IP` with them.

use std::{net::IpAddr, str::FromStr};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::Ends;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Addresses of IP: one, or all with the same first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    bits: u8,
}

/// A text is no address of IP, and no network such as `10.0.0.0/8`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address of IP and no network such as 10.0.0.0/8")]
pub struct NoNetwork(String);

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Network, NoNetwork> {
        let refused = || NoNetwork(text.to_owned());
        let (first, bits) = match text.split_once('/') {
            Some((first, bits)) => (first, Some(bits)),
            None => (text, None),
        };
        let first: IpAddr = first.parse().map_err(|_| refused())?;
        let all = if first.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().map_err(|_| refused())?,
            None => all,
        };
        if bits > all {
            return Err(refused());
        }
        Ok(Network { first, bits })
    }
}

impl Network {
    /// Whether an address is one of the network.
    pub fn contains(&self, ip: IpAddr) -> bool {
        // Shifted by all of its bits, a number is 0.
        match (self.first, ip) {
            (IpAddr::V4(first), IpAddr::V4(ip)) => {
                let differ = first.to_bits() ^ ip.to_bits();
                differ.checked_shr(32 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            (IpAddr::V6(first), IpAddr::V6(ip)) => {
                let differ = first.to_bits() ^ ip.to_bits();
                differ.checked_shr(128 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Tells an object below `prefix` where it is, and who asks. An object that is below nothing is told no prefix.
pub(super) fn tell_where(headers: &mut HeaderMap, prefix: &str, ends: Ends) {
    let outside = headers.get(FORWARDED_PREFIX).and_then(outer_prefix);
    let prefix = format!("{}{prefix}", outside.unwrap_or_default());
    headers.remove(FORWARDED_PREFIX);
    // A path has no letters that a header cannot have.
    if !prefix.is_empty()
        && let Ok(prefix) = HeaderValue::from_str(&prefix)
    {
        headers.insert(FORWARDED_PREFIX, prefix);
    }
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !headers.contains_key(FORWARDED_HOST)
        && let Some(host) = headers.get(header::HOST).cloned()
    {
        headers.insert(FORWARDED_HOST, host);
    }
    if let Some(peer) = ends.peer {
        let before = headers.get_all(FORWARDED_FOR).iter();
        let before = before.filter_map(|value| value.to_str().ok());
        let chain: Vec<_> = before
            .map(str::to_owned)
            .chain([peer.to_string()])
            .collect();
        if let Ok(chain) = HeaderValue::from_str(&chain.join(", ")) {
            headers.insert(FORWARDED_FOR, chain);
        }
    }
}

/// Drops the fields that the client may not send: what a proxy says, unless it is one that is trusted, and what
/// only the gateway of the vat's own program says, which begins with `vatwerk-`.
pub(super) fn drop_claims(headers: &mut HeaderMap, ends: Ends) {
    let says = |name: &&HeaderName| {
        let name = name.as_str();
        let is_proxys =
            name.starts_with("x-forwarded-") || matches!(name, "forwarded" | "x-real-ip");
        name.starts_with("vatwerk-") || is_proxys && !ends.is_trusted
    };
    let names: Vec<_> = headers.keys().filter(says).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// The prefix that a proxy has cut off the path: without the slash at its end. What is no path is ignored, and
/// so is one that begins with two slashes: in a link it would be another host.
fn outer_prefix(value: &HeaderValue) -> Option<&str> {
    let prefix = value.to_str().ok()?.trim().trim_end_matches('/');
    let is_path = prefix.starts_with('/') && !prefix.starts_with("//");
    let is_one = !prefix.contains([',', ' ', '\\', '?', '#']);
    (is_path && is_one).then_some(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_the_addresses_with_its_first_bits() {
        let has = |network: &str, ip: &str| {
            let network: Network = network.parse().unwrap();
            network.contains(ip.parse().unwrap())
        };
        for (network, ip, is) in [
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.2", false),
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.128/25", "10.0.0.127", false),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("::1", "::1", true),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe80::1", false),
            ("::/0", "ffff::", true),
        ] {
            assert_eq!(has(network, ip), is, "{network} {ip}");
        }
        for text in [
            "",
            "localhost",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10/8",
            "1.2.3.4/-1",
        ] {
            let refused = text.parse::<Network>().unwrap_err().to_string();
            assert!(refused.contains(&format!("`{text}`")), "{refused}");
        }
    }

    /// The fields of a proxy that an object sees, of those that were sent.
    fn seen(is_trusted: bool, peer: Option<[u8; 4]>, sent: &[(&'static str, &str)]) -> Vec<String> {
        let ends = Ends {
            peer: peer.map(IpAddr::from),
            is_tcp: true,
            is_trusted,
        };
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("here"));
        for (name, value) in sent {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        drop_claims(&mut headers, ends);
        tell_where(&mut headers, "/C/n", ends);
        headers.remove("host");
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}", value.to_str().unwrap())
        };
        let mut lines: Vec<_> = headers.iter().map(line).collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn only_proxies_that_are_trusted_are_believed() {
        let sent = [
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-for", "5.6.7.8"),
            ("x-forwarded-host", "app.example"),
            ("x-forwarded-port", "443"),
            ("x-forwarded-prefix", "/app/"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "1.2.3.4"),
            ("vatwerk-user", "admin"),
        ];
        let peer = Some([10, 0, 0, 2]);
        let believed = seen(true, peer, &sent);
        let expected = [
            "forwarded: for=1.2.3.4",
            "x-forwarded-for: 1.2.3.4, 5.6.7.8, 10.0.0.2",
            "x-forwarded-host: app.example",
            "x-forwarded-port: 443",
            "x-forwarded-prefix: /app/C/n",
            "x-forwarded-proto: https",
            "x-real-ip: 1.2.3.4",
        ];
        assert_eq!(believed, expected);
        let ignored = seen(false, peer, &sent);
        let expected = [
            "x-forwarded-for: 10.0.0.2",
            "x-forwarded-host: here",
            "x-forwarded-prefix: /C/n",
            "x-forwarded-proto: http",
        ];
        assert_eq!(ignored, expected);
        assert_eq!(seen(false, peer, &[]), expected);
    }

    #[test]
    fn a_prefix_is_joined_to_the_one_of_the_proxy_if_that_is_a_path() {
        let joined = |prefix: &str| {
            let seen = seen(true, None, &[("x-forwarded-prefix", prefix)]);
            let line = seen
                .iter()
                .find_map(|it| it.strip_prefix("x-forwarded-prefix: "));
            line.unwrap().to_owned()
        };
        assert_eq!(joined("/a"), "/a/C/n");
        assert_eq!(joined("/a/b//"), "/a/b/C/n");
        for none in [
            "/",
            "",
            "a",
            "//evil.example",
            "/a, /b",
            "/a?b",
            "https://evil.example",
        ] {
            assert_eq!(joined(none), "/C/n", "{none}");
        }
    }
}
