//! What an object hears on a WebSocket, as an event of its own.

use std::{future::poll_fn, rc::Rc};

use tokio::time::{Instant, timeout};
use vatwerk::Delivery;

use super::{
    RESTARTED,
    handle::{SocketClose, SocketMessage, WebSocket},
    socket::Socket,
};
use crate::{
    Error,
    call::Reply,
    fault,
    fetch::Frame,
    metrics::{Reset, SocketEventKind},
    object::{
        class::Dispatch,
        event::Ticket,
        flow::Flow,
        gate::{Output, Way},
        instance::Instance,
        slot::shielded,
    },
};

/// The code with which a socket is closed whose handler failed: "internal error".
pub(super) const HANDLER_FAILED: u16 = 1011;

/// What is heard on a socket.
pub(in crate::object) enum Heard {
    /// The peer says this.
    Frame(Frame),
    /// The peer is gone without a word: the code that says so, and why.
    Gone(u16, &'static str),
}

impl Heard {
    pub fn len(&self) -> usize {
        match self {
            Heard::Frame(frame) => frame.len(),
            Heard::Gone(..) => 0,
        }
    }

    /// Whether nothing comes after it.
    pub fn is_last(&self) -> bool {
        match self {
            Heard::Frame(frame) => frame.is_last(),
            Heard::Gone(..) => true,
        }
    }
}

/// Something heard, on its way to the object, and then, until what the handler has written is on disk,
/// on its way back to the peer. However it ends, the socket goes on, or is over.
pub(in crate::object) struct SocketEvent {
    socket: Rc<Socket>,
    heard: Option<Heard>,
    reply: Option<Reply>,
    is_last: bool,
    is_handled: bool,
    has_failed: bool,
}

impl SocketEvent {
    pub(super) fn new(socket: Rc<Socket>, heard: Heard, reply: Option<Reply>) -> SocketEvent {
        SocketEvent {
            is_last: heard.is_last(),
            socket,
            heard: Some(heard),
            reply,
            is_handled: false,
            has_failed: false,
        }
    }

    /// Whether it has to reach the object, however much waits there: there is at most one of each
    /// socket.
    pub fn is_last(&self) -> bool {
        self.is_last
    }

    /// The handler has ended. The socket's next event need not wait for the disk, unless this one has
    /// failed: what waits for the object then is refused, and that tells of the failure.
    fn handled(&mut self, has_failed: bool) {
        self.is_handled = true;
        self.has_failed = has_failed;
        if !self.is_last && !has_failed {
            self.socket.heard();
        }
    }

    /// Refuses the event: it does not reach the object, or its outcome is not known.
    pub fn refuse(mut self, error: Error) {
        if self.is_handled {
            // What the handler has written is lost, and the object is reset for it.
            self.socket.end(RESTARTED, "the object was reset");
        } else if !self.is_last {
            self.socket.lose(&error);
        }
        if let Some(reply) = self.reply.take() {
            let delivery = if self.is_handled {
                Delivery::Unknown
            } else {
                Delivery::NotDelivered
            };
            reply.finish(Err(fault::mark(error.into(), delivery)));
        }
    }
}

impl Drop for SocketEvent {
    fn drop(&mut self) {
        if self.is_last {
            self.socket.conclude();
        } else if !self.is_handled || self.has_failed {
            self.socket.heard();
        }
    }
}

impl Output for SocketEvent {
    const WAY: Way = Way::Heard;

    /// What the handler has written is on disk.
    fn release(mut self) {
        if self.has_failed {
            self.socket.fail();
        }
        if let Some(reply) = self.reply.take() {
            reply.finish(Ok(None));
        }
    }

    fn fail(self, error: &Error) {
        self.refuse(error.clone());
    }
}

/// Has an object deal with what it hears.
pub(in crate::object) async fn run(
    instance: &Rc<Instance>,
    object: &Rc<dyn Dispatch>,
    flow: &Rc<Flow>,
    mut event: SocketEvent,
    ticket: Ticket,
) {
    let Some(heard) = event.heard.take() else {
        return;
    };
    let socket = WebSocket::new(event.socket.clone(), instance.clone());
    let closing = match &heard {
        Heard::Frame(Frame::Close { code, .. }) => Some(*code),
        _ => None,
    };
    let message = |message| object.web_socket_message(socket.clone(), message);
    let close = |code, reason: String, was_clean| {
        let close = SocketClose {
            code,
            reason,
            was_clean,
        };
        object.web_socket_close(socket.clone(), close)
    };
    let handler = async {
        let handler = match heard {
            Heard::Frame(Frame::Text(text)) => message(SocketMessage::Text(text)),
            Heard::Frame(Frame::Data(data)) => message(SocketMessage::Data(data)),
            Heard::Frame(Frame::Close { code, reason }) => close(code, reason, true),
            Heard::Frame(Frame::Failed(reason)) => object.web_socket_error(socket.clone(), reason),
            Heard::Gone(code, reason) => close(code, reason.to_owned(), false),
        };
        handler.await
    };
    let kind = if event.is_last {
        SocketEventKind::End
    } else {
        SocketEventKind::Message
    };
    let began = Instant::now();
    let limit = event.socket.sockets().event_timeout();
    let mut handled = Box::pin(async {
        let Some(limit) = limit else {
            return handler.await;
        };
        timeout(limit, handler).await.unwrap_or_else(|_| {
            let error = Error::ObjectReset(format!(
                "an event of a WebSocket took longer than {} s",
                limit.as_secs_f32()
            ));
            instance.break_off(error.clone(), Reset::Timeout);
            Err(error.into())
        })
    });
    let outcome = poll_fn(|cx| instance.poll_turn(flow, cx, |cx| handled.as_mut().poll(cx))).await;
    shielded(&instance.slot, || drop(handled));
    let metrics = &instance.slot.metrics;
    metrics.web_socket_event(kind, began.elapsed());
    if let Ok(Err(error)) = &outcome {
        let (class, id) = (instance.slot.class.name, instance.slot.id);
        tracing::warn!(class, %id, %error, "a handler of a WebSocket failed");
        metrics.socket_handler_failed();
        // What is wrong is nobody's business outside.
        let _ = socket.end(HANDLER_FAILED, "internal error");
    } else if let Some(code) = closing {
        // The other half of the handshake, if the handler did not give it.
        let _ = socket.end(code, "");
    }
    event.handled(matches!(outcome, Ok(Err(_))));
    instance.say(event);
    drop(ticket);
}
