//! Peers that speak another protocol: how they are recognised, and what they are told.

use vatwerk::Code;

use super::Refusal;

/// A protocol that is not Cap'n Proto's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Foreign {
    Http,
    Tls,
}

/// The first four bytes of every HTTP request that is usual, of the second version too.
const HTTP: [&[u8; 4]; 10] = [
    b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC", b"PRI ",
];

impl Foreign {
    /// The protocol of a peer whose first bytes these are. None of them begins a message that this side would take:
    /// each would have millions of segments.
    pub fn of(first: &[u8]) -> Option<Foreign> {
        if HTTP.iter().any(|method| first.starts_with(*method)) {
            Some(Foreign::Http)
        } else if first.starts_with(&[22, 3]) {
            // The record of a handshake, of any version.
            Some(Foreign::Tls)
        } else {
            None
        }
    }

    /// The bytes that the peer is told in its own protocol.
    pub fn answer(self) -> &'static [u8] {
        match self {
            Foreign::Http => {
                b"HTTP/1.1 400 Bad Request\r\n\
                  connection: close\r\n\
                  content-type: text/plain\r\n\
                  vatwerk-error: invalid-argument\r\n\
                  content-length: 105\r\n\
                  \r\n\
                  This address speaks Cap'n Proto, not HTTP. The vat prints its address for HTTP \
                  as `listening http ADDR`.\n"
            }
            // An alert: fatal, "handshake failure".
            Foreign::Tls => &[21, 3, 1, 0, 2, 2, 40],
        }
    }

    /// Why the connection ends.
    pub fn refusal(self) -> Refusal {
        let text = match self {
            Foreign::Http => {
                "the peer speaks HTTP, and this address Cap'n Proto (`listen`, not `http.listen`)"
            }
            Foreign::Tls => {
                "the peer speaks TLS, and this address plain Cap'n Proto: put a proxy for TLS before it"
            }
        };
        Refusal::new(Code::InvalidArgument, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_as_long_as_it_says() {
        let answer = str::from_utf8(Foreign::Http.answer()).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let length = head.rsplit_once("content-length: ").unwrap().1;
        assert_eq!(length.parse(), Ok(body.len()));
    }

    #[test]
    fn only_other_protocols_are_foreign() {
        assert_eq!(Foreign::of(b"GET / HTTP/1.1"), Some(Foreign::Http));
        assert_eq!(Foreign::of(b"PRI * HTTP/2.0"), Some(Foreign::Http));
        assert_eq!(Foreign::of(&[22, 3, 1, 2, 0, 1]), Some(Foreign::Tls));
        assert_eq!(Foreign::of(&[0, 0, 0, 0, 5, 0, 0, 0]), None);
        assert_eq!(Foreign::of(b"GE"), None);
    }
}
