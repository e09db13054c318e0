//! From a request to a WebSocket: RFC 6455, section 4.2.

use std::rc::Rc;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Version, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use hyper_util::{rt::TokioIo, server::conn::auto::upgrade};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    Problem,
    connection::Connection,
    conversation::{self, Unfinished},
    patient::Patient,
};
use crate::{
    fetch::ClientSocket,
    metrics::{Overload, Slow},
};

/// What a request for a WebSocket says that is not for the object, and the answer to it.
pub(super) struct Handshake {
    accept: HeaderValue,
}

impl Handshake {
    /// Reads a request that asks for a WebSocket.
    pub fn read(head: &Parts) -> Result<Handshake, Problem> {
        if head.method != Method::GET || head.version != Version::HTTP_11 {
            return Err(Problem::NoHandshake(
                "a WebSocket begins with GET in HTTP/1.1",
            ));
        }
        // Where it ends, and the conversation begins, two ends might not agree about.
        let has_body = match head.headers.get(header::CONTENT_LENGTH) {
            Some(length) => length != "0",
            None => head.headers.contains_key(header::TRANSFER_ENCODING),
        };
        if has_body {
            return Err(Problem::NoHandshake(
                "a request for a WebSocket has no body",
            ));
        }
        let connection = head.headers.get_all(header::CONNECTION).iter();
        let says_upgrade = connection
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
        if !says_upgrade {
            return Err(Problem::NoHandshake("`Connection` does not say `Upgrade`"));
        }
        let version = head.headers.get(header::SEC_WEBSOCKET_VERSION);
        if version.is_none_or(|version| version != "13") {
            return Err(Problem::SocketVersion);
        }
        let key = head.headers.get(header::SEC_WEBSOCKET_KEY);
        let is_key = |key: &&HeaderValue| {
            let bytes = BASE64_STANDARD.decode(key.as_bytes());
            bytes.is_ok_and(|bytes| bytes.len() == 16)
        };
        let key = key.filter(is_key).ok_or(Problem::NoHandshake(
            "`Sec-WebSocket-Key` is not 16 bytes in base64",
        ))?;
        let accept = derive_accept_key(key.as_bytes());
        let accept = HeaderValue::from_str(&accept).expect("base64");
        Ok(Handshake { accept })
    }

    /// Writes the answer that takes it up.
    pub fn accept(self, headers: &mut HeaderMap) {
        drop_handshake(headers);
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept);
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
}

/// Takes out what is between a client and the vat. `Sec-WebSocket-Protocol` is for the object.
pub(super) fn drop_handshake(headers: &mut HeaderMap) {
    headers.remove(header::SEC_WEBSOCKET_ACCEPT);
    headers.remove(header::SEC_WEBSOCKET_EXTENSIONS);
    headers.remove(header::SEC_WEBSOCKET_KEY);
    headers.remove(header::SEC_WEBSOCKET_VERSION);
}

/// Has the client and the object converse as soon as `hyper` has let go of the connection. Nothing of
/// what `hyper` needed is kept for that.
pub(super) fn converse<S>(connection: &Rc<Connection>, on_upgrade: OnUpgrade, socket: ClientSocket)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let http = connection.http.clone();
    let room = connection.room.clone();
    let number = http.number();
    let task = tokio::task::spawn_local({
        let http = http.clone();
        async move {
            if let Some((stream, before)) = raw::<S>(on_upgrade).await {
                let limits = &http.settings.socket;
                let unfinished = conversation::converse(stream, &before, socket, limits).await;
                let metrics = http.directory.metrics();
                match unfinished {
                    None => {}
                    Some(Unfinished::Slow) => metrics.http_slow(Slow::Message),
                    Some(Unfinished::NoRoom) => metrics.overloaded(Overload::SocketMessages),
                }
            }
            http.sockets.borrow_mut().remove(&number);
            http.less.notify_waiters();
            drop(room);
        }
    });
    http.sockets
        .borrow_mut()
        .insert(number, task.abort_handle());
}

/// The connection, and what has been read of it already.
async fn raw<S>(on_upgrade: OnUpgrade) -> Option<(S, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let upgraded = on_upgrade.await.ok()?;
    let parts = upgrade::downcast::<TokioIo<Patient<S>>>(upgraded).ok()?;
    // A copy: they are few, mostly none, and the bytes as they are hold all that was read with them.
    let before = Bytes::copy_from_slice(&parts.read_buf);
    Some((parts.io.into_inner().into_inner(), before))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(change: impl FnOnce(&mut Parts)) -> Result<HeaderMap, Problem> {
        let (mut head, ()) = http::Request::builder()
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "WebSocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(())
            .unwrap()
            .into_parts();
        change(&mut head);
        let handshake = Handshake::read(&head)?;
        let mut headers = HeaderMap::new();
        headers.insert("sec-websocket-protocol", HeaderValue::from_static("chat"));
        headers.insert("sec-websocket-extensions", HeaderValue::from_static("x"));
        handshake.accept(&mut headers);
        Ok(headers)
    }

    #[test]
    fn a_handshake_is_answered_as_the_rfc_says() {
        let headers = read(|_| {}).unwrap();
        let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        assert_eq!(headers["sec-websocket-accept"], accept);
        assert_eq!(headers["upgrade"], "websocket");
        assert_eq!(headers["sec-websocket-protocol"], "chat");
        assert!(!headers.contains_key("sec-websocket-extensions"));
    }

    #[test]
    fn what_is_no_handshake_is_refused() {
        let set = |name: &'static str, value: &'static str| {
            read(move |head| {
                head.headers.insert(name, HeaderValue::from_static(value));
            })
        };
        let cases = [
            read(|head| head.method = Method::POST),
            read(|head| head.version = Version::HTTP_2),
            set("connection", "keep-alive"),
            set("content-length", "1"),
            set("transfer-encoding", "chunked"),
            set("sec-websocket-key", "c2hvcnQ="),
            set("sec-websocket-key", "not base64, not at all!!"),
        ];
        for case in cases {
            assert!(matches!(case, Err(Problem::NoHandshake(_))));
        }
        let old = set("sec-websocket-version", "8");
        assert!(matches!(old, Err(Problem::SocketVersion)));
    }
}
