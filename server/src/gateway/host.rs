//! The names by which a vat goes: `Host`.
//!
//! The owner of a name may have it lead to the vat's address (DNS rebinding). A page that comes by that name is
//! the vat's own then, as far as a browser knows, and may ask whatever it likes. So a request at a TCP address is
//! refused if its `Host` is a name that nobody has told the vat. Addresses of IP are no names, and `localhost`
//! leads nowhere else. A unix socket is not reached by browsers: whoever stands in front of it sees to its names.

use http::{HeaderMap, HeaderValue, Uri, header};

/// The names of one listener.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    any: bool,
    known: Vec<String>,
}

/// Why the `Host` of a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHost {
    /// There are several, or it is no text.
    Malformed,
    /// The vat does not go by it.
    Unknown,
}

impl Hosts {
    /// Addresses of IP, `localhost`, and these names; `*` is every name.
    pub fn new(known: &[String]) -> Hosts {
        Hosts {
            any: known.iter().any(|name| name == "*"),
            known: known.to_vec(),
        }
    }

    /// The `Host` of a request at a TCP address, or of its URL if that has one. `None` if it says none.
    pub(super) fn check<'r>(
        &self,
        uri: &'r Uri,
        headers: &'r HeaderMap,
    ) -> Result<Option<&'r str>, BadHost> {
        let host = host(uri, headers)?;
        match host {
            Some(host) if !self.knows(name(host)) => Err(BadHost::Unknown),
            host => Ok(host),
        }
    }

    fn knows(&self, name: &str) -> bool {
        let is_known = |known: &String| known.eq_ignore_ascii_case(name);
        self.any || is_this_machine(name) || self.known.iter().any(is_known)
    }
}

/// The host that a request names, with its port. `None` if it names none.
pub(super) fn host<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> Result<Option<&'r str>, BadHost> {
    if let Some(authority) = uri.authority() {
        return Ok(Some(authority.as_str()));
    }
    let mut said = headers.get_all(header::HOST).iter();
    match (said.next().map(HeaderValue::to_str), said.next()) {
        (None, _) => Ok(None),
        (Some(Ok(host)), None) => Ok(Some(host)),
        _ => Err(BadHost::Malformed),
    }
}

/// The name of a host, without its port and without the dot that may end it.
pub(super) fn name(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// Whether it is an address, or a name that always leads to the machine of whoever asks.
fn is_this_machine(name: &str) -> bool {
    use std::net::{Ipv4Addr, Ipv6Addr};

    let v6 = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let lower = name.to_ascii_lowercase();
    v6.is_some_and(|it| it.parse::<Ipv6Addr>().is_ok())
        || name.parse::<Ipv4Addr>().is_ok()
        || lower == "localhost"
        || lower.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(hosts: &Hosts, said: &[&str]) -> Result<Option<String>, BadHost> {
        let mut headers = HeaderMap::new();
        for host in said {
            let host = HeaderValue::from_bytes(host.as_bytes()).unwrap();
            headers.append(header::HOST, host);
        }
        let path = Uri::from_static("/");
        let found = hosts.check(&path, &headers)?;
        Ok(found.map(str::to_owned))
    }

    #[test]
    fn a_vat_goes_by_addresses_localhost_and_the_names_it_was_told() {
        let hosts = Hosts::new(&["app.example".into()]);
        for host in [
            "localhost",
            "LOCALHOST:7448",
            "localhost.",
            "a.localhost:1",
            "127.0.0.1:7448",
            "127.1.2.3",
            "192.168.0.1:7448",
            "[::1]:7448",
            "[fe80::1]",
            "app.example:443",
            "APP.example.:443",
        ] {
            assert_eq!(checked(&hosts, &[host]), Ok(Some(host.into())), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:7448",
            "localhost.evil.example",
            "notlocalhost",
            "a.app.example",
            "127.0.0.1.evil.example",
            "[127.0.0.1]",
            "::1",
            "1.2.3",
            "*",
            "",
        ] {
            assert_eq!(checked(&hosts, &[host]), Err(BadHost::Unknown), "{host}");
            assert!(checked(&Hosts::new(&["*".into()]), &[host]).is_ok());
        }
        assert_eq!(checked(&hosts, &[]), Ok(None));
        let twice = ["localhost", "localhost"];
        assert_eq!(checked(&hosts, &twice), Err(BadHost::Malformed));
        assert_eq!(checked(&hosts, &["\u{e9}"]), Err(BadHost::Malformed));
        let whole = Uri::from_static("http://evil.example/C/n/");
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("localhost"));
        assert_eq!(hosts.check(&whole, &headers), Err(BadHost::Unknown));
    }
}
