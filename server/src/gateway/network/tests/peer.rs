//! A peer that speaks raw messages, good ones and others.

use capnp::any_pointer;
use capnp::message::{Builder, HeapAllocator, Reader, ReaderOptions};
use capnp::serialize::OwnedSegments;
use capnp::traits::ImbueMut;
use capnp_rpc::rpc_capnp::{cap_descriptor, exception, message, message_target, return_};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::super::{End, Handle, Limits, serve};
use super::object::{INTERFACE, Knot};
use crate::fault;

/// A capability in a message: `CapDescriptor`.
#[derive(Clone, Copy, Debug)]
pub enum Cap {
    None,
    Hosted(u32),
    Promise(u32),
    Yours(u32),
    Answer(u32),
    ThirdParty,
}

/// What a call or an embargo is for.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    Export(u32),
    Answer(u32),
}

impl Cap {
    fn write(self, mut to: cap_descriptor::Builder<'_>) {
        match self {
            Cap::None => to.set_none(()),
            Cap::Hosted(id) => to.set_sender_hosted(id),
            Cap::Promise(id) => to.set_sender_promise(id),
            Cap::Yours(id) => to.set_receiver_hosted(id),
            Cap::Answer(id) => to.init_receiver_answer().set_question_id(id),
            Cap::ThirdParty => to.init_third_party_hosted().set_vine_id(1),
        }
    }
}

impl Target {
    fn write(self, mut to: message_target::Builder<'_>) {
        match self {
            Target::Export(id) => to.set_imported_cap(id),
            Target::Answer(id) => to.init_promised_answer().set_question_id(id),
        }
    }
}

/// Makes `content` a pointer to the first capability of the message's table.
fn point_to_first(mut content: any_pointer::Builder<'_>) {
    let mut capabilities = Vec::new();
    let mut content = content.reborrow();
    content.imbue_mut(&mut capabilities);
    let any = capnp_rpc::new_broken_cap(capnp::Error::failed(String::new()));
    content.set_as_capability(any.hook);
}

pub type Outgoing = Builder<HeapAllocator>;

pub fn build(fill: impl FnOnce(message::Builder<'_>)) -> Outgoing {
    let mut builder = Builder::new_default();
    fill(builder.init_root());
    builder
}

pub fn bootstrap(question: u32) -> Outgoing {
    build(|m| m.init_bootstrap().set_question_id(question))
}

pub fn call(question: u32, target: Target, method: u16, cap: Cap) -> Outgoing {
    build(|m| {
        let mut call = m.init_call();
        call.set_question_id(question);
        call.set_interface_id(INTERFACE);
        call.set_method_id(method);
        target.write(call.reborrow().init_target());
        let mut params = call.init_params();
        cap.write(params.reborrow().init_cap_table(1).get(0));
        point_to_first(params.get_content());
    })
}

/// A call whose results are for a question of the other side.
pub fn tail(question: u32, target: Target, method: u16, cap: Cap) -> Outgoing {
    let mut message = call(question, target, method, cap);
    let root: message::Builder<'_> = message.get_root().unwrap();
    if let Ok(message::Call(Ok(call))) = root.which() {
        call.get_send_results_to().set_yourself(());
    }
    message
}

pub fn results(question: u32, cap: Cap) -> Outgoing {
    build(|m| {
        let mut ret = m.init_return();
        ret.set_answer_id(question);
        let mut results = ret.init_results();
        cap.write(results.reborrow().init_cap_table(1).get(0));
        point_to_first(results.get_content());
    })
}

pub fn return_with(question: u32, fill: impl FnOnce(return_::Builder<'_>)) -> Outgoing {
    build(|m| {
        let mut ret = m.init_return();
        ret.set_answer_id(question);
        fill(ret);
    })
}

pub fn finish(question: u32, release: bool) -> Outgoing {
    build(|m| {
        let mut finish = m.init_finish();
        finish.set_question_id(question);
        finish.set_release_result_caps(release);
    })
}

pub fn release(export: u32, references: u32) -> Outgoing {
    build(|m| {
        let mut release = m.init_release();
        release.set_id(export);
        release.set_reference_count(references);
    })
}

pub fn resolve(promise: u32, cap: Cap) -> Outgoing {
    build(|m| {
        let mut resolve = m.init_resolve();
        resolve.set_promise_id(promise);
        cap.write(resolve.init_cap());
    })
}

pub fn disembargo(target: Target, id: u32) -> Outgoing {
    build(|m| {
        let mut disembargo = m.init_disembargo();
        target.write(disembargo.reborrow().init_target());
        disembargo.get_context().set_sender_loopback(id);
    })
}

pub fn abort(reason: &str) -> Outgoing {
    build(|m| {
        let mut abort = m.init_abort();
        abort.set_reason(reason);
        abort.set_type(exception::Type::Failed);
    })
}

/// One end of a stream whose other end is served.
pub struct Peer {
    pub stream: DuplexStream,
    pub handle: Handle,
}

impl Peer {
    pub fn new(limits: Limits) -> Self {
        let (ours, theirs) = tokio::io::duplex(256 << 10);
        let (read, write) = tokio::io::split(theirs);
        let knot = capnp_rpc::new_client(Knot::default());
        Peer {
            stream: ours,
            handle: serve(read, write, limits, knot),
        }
    }

    pub async fn send(&mut self, messages: &[Outgoing]) {
        let mut bytes = Vec::new();
        for message in messages {
            capnp::serialize::write_message(&mut bytes, message).unwrap();
        }
        self.send_bytes(&bytes).await;
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        // The other side may have hung up already.
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next message, `None` at the end.
    pub async fn receive(&mut self) -> Option<Reader<OwnedSegments>> {
        let mut bytes = vec![0; 8];
        self.stream.read_exact(&mut bytes).await.ok()?;
        let segments = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize + 1;
        bytes.resize((segments / 2 + 1) * 8, 0);
        self.stream.read_exact(&mut bytes[8..]).await.ok()?;
        let words: usize = (1..=segments)
            .map(|n| u32::from_le_bytes(bytes[n * 4..n * 4 + 4].try_into().unwrap()) as usize)
            .sum();
        let table = bytes.len();
        bytes.resize(table + words * 8, 0);
        self.stream.read_exact(&mut bytes[table..]).await.ok()?;
        let options = ReaderOptions::new();
        Some(capnp::serialize::read_message(&mut &bytes[..], options).unwrap())
    }

    /// Reads until the other side calls, and says which question that is.
    pub async fn asked(&mut self) -> u32 {
        loop {
            let message = self.receive().await.expect("no call before the end");
            let root: message::Reader<'_> = message.get_root().unwrap();
            if let message::Call(call) = root.which().unwrap() {
                return call.unwrap().get_question_id();
            }
        }
    }

    /// Reads until the return for `question`; the exception's text if it is one.
    pub async fn returned(&mut self, question: u32) -> Result<(), String> {
        loop {
            let message = self.receive().await.expect("no return before the end");
            let root: message::Reader<'_> = message.get_root().unwrap();
            match root.which().unwrap() {
                message::Return(ret) => {
                    let ret = ret.unwrap();
                    if ret.get_answer_id() != question {
                        continue;
                    }
                    return match ret.which().unwrap() {
                        return_::Exception(exception) => {
                            let reason = exception.unwrap().get_reason().unwrap();
                            let reason = reason.to_string().unwrap();
                            assert!(fault::has_code(&reason), "{reason}");
                            Err(reason)
                        }
                        _ => Ok(()),
                    };
                }
                message::Abort(abort) => {
                    let reason = abort.unwrap().get_reason().unwrap();
                    panic!("aborted: {}", reason.to_string().unwrap());
                }
                _ => (),
            }
        }
    }

    /// Reads until the abort, closes, and waits for the other side's end.
    pub async fn aborted(mut self) -> (String, End) {
        let mut reason = None;
        while let Some(message) = self.receive().await {
            let root: message::Reader<'_> = message.get_root().unwrap();
            if let Ok(message::Abort(abort)) = root.which() {
                let text = abort.unwrap().get_reason().unwrap();
                reason = Some(text.to_string().unwrap());
            }
        }
        drop(self.stream);
        let end = self.handle.ended().await;
        (reason.expect("no abort before the end"), end)
    }
}

/// Asserts that an exception says that there was no room for a call, and that it has not run.
pub fn assert_overloaded(text: &str) {
    assert!(text.starts_with("overloaded: "), "{text}");
    assert!(text.ends_with(" [not-delivered]"), "{text}");
}
