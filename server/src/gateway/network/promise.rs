//! Promises of the peer, which are taken for settled capabilities.

use capnp::message::{Builder, HeapAllocator};
use capnp_rpc::rpc_capnp::{cap_descriptor, message, resolve, return_};
use vatwerk::Code;

use super::ledger::{Read, Verdict, invalid};
use super::{Refusal, reply};

/// Where the peer's promises stand in the capability table of a message: the addresses of their
/// tags. Promises are only ever given in calls and returns, other than in a resolve.
pub(super) fn promises(message: message::Reader<'_>) -> Read<Vec<usize>> {
    let payload = match message.which() {
        Ok(message::Call(call)) => call?.get_params()?,
        Ok(message::Return(ret)) => match ret?.which() {
            Ok(return_::Results(results)) => results?,
            _ => return Ok(Vec::new()),
        },
        _ => return Ok(Vec::new()),
    };
    let mut addresses = Vec::new();
    for one in payload.get_cap_table()? {
        if let cap_descriptor::SenderPromise(_) = one.which()? {
            let data = capnp::raw::get_struct_data_section(one);
            addresses.push(data.as_ptr() as usize);
        }
    }
    Ok(addresses)
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
                replies.push(reply::release(id));
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

/// The id of a capability that its sender hosts.
pub(super) fn imported(one: cap_descriptor::Reader<'_>) -> Option<u32> {
    match one.which() {
        Ok(cap_descriptor::SenderHosted(id) | cap_descriptor::SenderPromise(id)) => Some(id),
        _ => None,
    }
}
