//! Where a vat listens.

use std::{fmt, path::PathBuf, str::FromStr};

/// Where a vat listens. Written `tcp:HOST:PORT`, `unix:PATH`, or `HOST:PORT` for short.
///
/// ```
/// use vatwerk::Address;
/// let address: Address = "tcp:[::1]:7447".parse()?;
/// assert_eq!(address, Address::Tcp { host: "::1".to_owned(), port: 7447 });
/// assert_eq!(address.to_string(), "tcp:[::1]:7447");
/// # Ok::<_, vatwerk::InvalidAddress>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP port.
    Tcp {
        /// A host name, or an IP address without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// Text that is no [`Address`], and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidAddress {
    text: String,
    why: &'static str,
}

impl fmt::Display for InvalidAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InvalidAddress { text, why } = self;
        write!(
            f,
            "`{text}` is not an address: {why} (write tcp:HOST:PORT or unix:PATH)"
        )
    }
}

impl std::error::Error for InvalidAddress {}

impl Address {
    /// The TCP port that a vat listens at unless it is told otherwise.
    pub const DEFAULT_PORT: u16 = 7447;

    /// The TCP port at which a vat's objects are reached over HTTP unless it is told otherwise.
    pub const DEFAULT_HTTP_PORT: u16 = 7448;
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        parse(text).map_err(|why| InvalidAddress {
            text: text.to_owned(),
            why,
        })
    }
}

fn parse(text: &str) -> Result<Address, &'static str> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path {
            "" => Err("the path is missing"),
            path => Ok(Address::Unix(PathBuf::from(path))),
        };
    }
    let (host, port) = text
        .strip_prefix("tcp:")
        .unwrap_or(text)
        .rsplit_once(':')
        .ok_or("the port is missing")?;
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    if bracketed.is_none() && host.contains(':') {
        return Err("an IPv6 address needs brackets");
    }
    let host = bracketed.unwrap_or(host);
    if host.is_empty() {
        return Err("the host is missing");
    }
    Ok(Address::Tcp {
        host: host.to_owned(),
        port: port.parse().map_err(|_| "the port is not a number")?,
    })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for text in ["tcp:localhost:7447", "tcp:[::1]:1", "unix:./data/vat.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!(
            "127.0.0.1:7447".parse::<Address>().unwrap().to_string(),
            "tcp:127.0.0.1:7447"
        );
    }

    #[test]
    fn errors_say_what_is_missing() {
        for (text, why) in [
            ("", "the port is missing"),
            ("unix:", "the path is missing"),
            ("localhost", "the port is missing"),
            ("tcp::7447", "the host is missing"),
            ("tcp:localhost:http", "the port is not a number"),
            ("localhost:70000", "the port is not a number"),
            ("::1:7447", "an IPv6 address needs brackets"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert_eq!(error.why, why, "{text}");
        }
    }
}
