//! Messages that the network makes on its own account.

use capnp::ErrorKind;
use capnp::message::{Builder, HeapAllocator};
use capnp_rpc::rpc_capnp::{exception, message};
use vatwerk::{Code, Delivery};

fn small() -> Builder<HeapAllocator> {
    Builder::new(HeapAllocator::new().first_segment_words(32))
}

/// An exception that answers a call which has not begun, and says so.
pub(super) fn refusal(question: u32, code: Code, why: &str) -> Builder<HeapAllocator> {
    exception(question, code, &not_delivered(why))
}

/// The text of an exception, marked with the fact that its call has not begun.
pub(super) fn not_delivered(why: &str) -> String {
    format!("{why} [{}]", Delivery::NotDelivered)
}

/// An exception that answers a question. Without a mark in `why` it says that the call has run.
pub(super) fn exception(question: u32, code: Code, why: &str) -> Builder<HeapAllocator> {
    let mut builder = small();
    let mut ret = builder.init_root::<message::Builder<'_>>().init_return();
    ret.set_answer_id(question);
    // Capabilities in the parameters are given back one by one: not every peer reads this flag.
    ret.set_release_param_caps(false);
    let mut exception = ret.init_exception();
    exception.set_reason(format!("{code}: {why}"));
    exception.set_type(match code.kind() {
        ErrorKind::Overloaded => exception::Type::Overloaded,
        ErrorKind::Disconnected => exception::Type::Disconnected,
        ErrorKind::Unimplemented => exception::Type::Unimplemented,
        _ => exception::Type::Failed,
    });
    builder
}

/// Says whether the answer ends the question by itself.
pub(super) fn set_no_finish_needed(
    answer: &mut Builder<HeapAllocator>,
    no_finish_needed: bool,
) -> capnp::Result<()> {
    let root: message::Builder<'_> = answer.get_root()?;
    if let Ok(message::Return(ret)) = root.which() {
        ret?.set_no_finish_needed(no_finish_needed);
    }
    Ok(())
}

/// Answers a tail call, whose results are not for the peer.
pub(super) fn results_sent_elsewhere(question: u32) -> Builder<HeapAllocator> {
    let mut builder = small();
    let mut ret = builder.init_root::<message::Builder<'_>>().init_return();
    ret.set_answer_id(question);
    ret.set_release_param_caps(false);
    ret.set_results_sent_elsewhere(());
    builder
}

/// Gives back references to a capability of the peer.
pub(super) fn release(import: u32, references: u32) -> Builder<HeapAllocator> {
    let mut builder = small();
    let mut release = builder.init_root::<message::Builder<'_>>().init_release();
    release.set_id(import);
    release.set_reference_count(references);
    builder
}

/// The end of a question, as the peer would say it.
pub(super) fn finish(question: u32, release: bool) -> Builder<HeapAllocator> {
    let mut builder = small();
    let mut finish = builder.init_root::<message::Builder<'_>>().init_finish();
    finish.set_question_id(question);
    finish.set_release_result_caps(release);
    builder
}

/// Results that hold nothing: what pipelined calls see where the real ones must not be followed.
pub(super) fn empty_results() -> Builder<HeapAllocator> {
    let mut builder = small();
    builder
        .init_root::<message::Builder<'_>>()
        .init_return()
        .init_results();
    builder
}
