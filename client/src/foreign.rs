//! Peers that speak another protocol than Cap'n Proto, recognised by the first bytes that they send.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::AsyncRead;

/// How many bytes tell a protocol.
const FIRST: usize = 4;

/// A stream of bytes that fails with words for people if the first of them are those of another protocol.
pub(crate) struct Checked<R> {
    inner: R,
    first: [u8; FIRST],
    read: usize,
}

impl<R> Checked<R> {
    pub(crate) fn new(inner: R) -> Checked<R> {
        Checked {
            inner,
            first: [0; FIRST],
            read: 0,
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Checked<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        let before = self.read;
        let more = read.min(FIRST - before);
        if more > 0 {
            self.first[before..before + more].copy_from_slice(&buffer[..more]);
            self.read += more;
            if let Some(other) = other_protocol(&self.first[..self.read]) {
                let error = format!("what answers there speaks {other}, not Cap'n Proto");
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
        }
        Poll::Ready(Ok(read))
    }
}

/// The protocol of a server whose first bytes these are, if it is a usual one and not Cap'n Proto's, of which no
/// answer has so many segments.
fn other_protocol(first: &[u8]) -> Option<&'static str> {
    match first {
        b"HTTP" => Some("HTTP (a vat says which address is which when it starts)"),
        b"SSH-" => Some("SSH"),
        [21, 3, ..] => Some("TLS"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncReadExt, FutureExt};

    use super::*;

    fn read(bytes: &[u8], at_once: usize) -> io::Result<Vec<u8>> {
        let mut checked = Checked::new(bytes);
        let (mut all, mut buffer) = (Vec::new(), vec![0; at_once]);
        loop {
            let read = checked.read(&mut buffer).now_or_never();
            match read.expect("nothing to wait for")? {
                0 => return Ok(all),
                read => all.extend_from_slice(&buffer[..read]),
            }
        }
    }

    #[test]
    fn another_protocol_is_an_error_however_its_first_bytes_come() {
        for at_once in [1, 3, 100] {
            let error = read(b"HTTP/1.1 400 Bad Request\r\n", at_once).unwrap_err();
            assert!(error.to_string().contains("HTTP"), "{error}");
            read(&[21, 3, 1, 0, 2, 2, 40], at_once).unwrap_err();
            let message = [0, 0, 0, 0, 1, 0, 0, 0, 72, 84, 84, 80];
            assert_eq!(read(&message, at_once).unwrap(), message);
        }
    }
}
