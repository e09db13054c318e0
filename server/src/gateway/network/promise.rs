//! Promises of the peer, which are taken for settled capabilities, and the bounds of what names
//! capabilities.

use std::collections::BTreeMap;

use capnp::message::{Builder, HeapAllocator};
use capnp_rpc::rpc_capnp::{
    cap_descriptor, disembargo, message, message_target, payload, promised_answer, resolve, return_,
};
use vatwerk::Code;

use super::ledger::{Read, Verdict, invalid};
use super::{Refusal, reply};

/// The most capabilities in one message. A table can have any length without taking room in its
/// message, and every entry costs memory.
pub(super) const MAX_CAPABILITIES: u32 = 4096;
/// The most steps from an answer to a capability in it; their list takes no room either.
pub(super) const MAX_TRANSFORM: u32 = 64;
/// What an entry of a table of capabilities takes in a message.
const DESCRIPTOR_BYTES: usize = 16;

/// Where the peer's promises stand in the capability table of a message of `bytes`: the addresses
/// of their tags. Promises are only ever given in calls and returns, other than in a resolve.
///
/// Refuses what has lists that are longer than they may be, before anything walks them.
pub(super) fn promises(message: message::Reader<'_>, bytes: usize) -> Read<Vec<usize>> {
    match message.which() {
        Ok(message::Call(call)) => {
            let call = call?;
            check_target(call.get_target()?)?;
            promises_in(call.get_params()?, bytes)
        }
        Ok(message::Return(ret)) => match ret?.which() {
            Ok(return_::Results(results)) => promises_in(results?, bytes),
            _ => Ok(Vec::new()),
        },
        Ok(message::Disembargo(disembargo)) => {
            let disembargo: disembargo::Reader<'_> = disembargo?;
            check_target(disembargo.get_target()?)?;
            Ok(Vec::new())
        }
        _ => Ok(Vec::new()),
    }
}

fn promises_in(payload: payload::Reader<'_>, bytes: usize) -> Read<Vec<usize>> {
    let table = payload.get_cap_table()?;
    if table.len() > MAX_CAPABILITIES || table.len() as usize * DESCRIPTOR_BYTES > bytes {
        return Err(Refusal::new(
            Code::LimitExceeded,
            format!(
                "a message of {bytes} bytes with a table of {} capabilities; the table has at most \
                 {MAX_CAPABILITIES}, of {DESCRIPTOR_BYTES} bytes each",
                table.len()
            ),
        ));
    }
    let mut addresses = Vec::new();
    for one in table {
        match one.which()? {
            cap_descriptor::SenderPromise(_) => {
                let data = capnp::raw::get_struct_data_section(one);
                addresses.push(data.as_ptr() as usize);
            }
            cap_descriptor::ReceiverAnswer(answer) => check_transform(answer?)?,
            _ => (),
        }
    }
    Ok(addresses)
}

fn check_target(target: message_target::Reader<'_>) -> Read<()> {
    match target.which()? {
        message_target::PromisedAnswer(answer) => check_transform(answer?),
        message_target::ImportedCap(_) => Ok(()),
    }
}

fn check_transform(answer: promised_answer::Reader<'_>) -> Read<()> {
    match answer.get_transform()?.len() {
        0..=MAX_TRANSFORM => Ok(()),
        steps => Err(Refusal::new(
            Code::LimitExceeded,
            format!(
                "a capability in an answer is at most {MAX_TRANSFORM} steps away, and not {steps}"
            ),
        )),
    }
}

/// What a promise turned into does not matter here (see the module's text), but the reference that
/// came with it has to be given back.
pub(super) fn incoming_resolve(
    resolve: resolve::Reader<'_>,
    replies: &mut Vec<Builder<HeapAllocator>>,
) -> Read<Verdict> {
    if let resolve::Cap(capability) = resolve.which()? {
        let capability = capability?;
        match capability.which()? {
            cap_descriptor::SenderHosted(id) | cap_descriptor::SenderPromise(id) => {
                replies.push(reply::release(id, 1));
            }
            cap_descriptor::ReceiverHosted(_) | cap_descriptor::ReceiverAnswer(_) => (),
            cap_descriptor::None(()) => return Err(invalid("a promise resolved to nothing")),
            cap_descriptor::ThirdPartyHosted(_) => {
                return Err(Refusal::new(
                    Code::Unimplemented,
                    "a promise resolved to a capability of a third party",
                ));
            }
        }
    }
    Ok(Verdict::Swallow)
}

/// Gives back what came in a message that capnp-rpc does not get to see.
pub(super) fn release_imports(
    capabilities: capnp::struct_list::Reader<'_, cap_descriptor::Owned>,
    replies: &mut Vec<Builder<HeapAllocator>>,
) {
    let mut references = BTreeMap::new();
    for import in capabilities.into_iter().filter_map(imported) {
        *references.entry(import).or_default() += 1;
    }
    let releases = references.into_iter();
    replies.extend(releases.map(|(import, references)| reply::release(import, references)));
}

/// The id of a capability that its sender hosts.
pub(super) fn imported(one: cap_descriptor::Reader<'_>) -> Option<u32> {
    match one.which() {
        Ok(cap_descriptor::SenderHosted(id) | cap_descriptor::SenderPromise(id)) => Some(id),
        _ => None,
    }
}
