//! Whether an interface may take the place of an earlier one of the same id: whether callers that
//! were compiled against the earlier schema are still understood, and understand the answers.
//!
//! ```
//! use vatwerk::{CODE_GENERATOR_REQUEST, compat, counter_capnp::counter};
//! use capnp::traits::HasTypeId;
//!
//! let (old, new) = (CODE_GENERATOR_REQUEST, CODE_GENERATOR_REQUEST);
//! compat::check_replaceable(old, new, counter::Client::TYPE_ID)?;
//! # Ok::<(), compat::Incompatible>(())
//! ```
//!
//! # The rules
//!
//! They are [Cap'n Proto's own][evolving], for everything that a caller can come upon: the
//! interface, the interfaces it extends, the types of their parameters and results, and so on,
//! interfaces among them.
//!
//! - Of everything that there was, each member is still there under its number: methods, parameters,
//!   results, fields, enumerants. There may be more.
//! - An interface still extends what it extended, if only indirectly. It may extend more.
//! - Parameters, results and fields have the type, the default and the place in the message that
//!   they had. A field may become the first of a new group. A list of anything but `Bool`, structs
//!   and capabilities may become a list of structs of which that is the first field.
//! - A member of a union stays in it, under its number there; a field outside stays outside.
//! - A method that streams goes on to, and no other begins to.
//! - Names of all kinds may change, and a list of parameters may become a struct and back.
//!
//! Some of what Cap'n Proto lets pass, or leaves to its user, is refused here, because a caller may
//! well notice:
//!
//! - A field does not enter even a new union: a caller that does not know of the union would take
//!   what another member left there for the field.
//! - `Text` does not become `Data`, nor any type `AnyPointer`: a caller would get what it cannot
//!   read.
//! - Defaults of lists and structs count too. They are the same if their values are.
//! - A type under another id is another type, however alike: the id of a type whose declaration
//!   does not say it changes with its name.
//! - Type parameters and arguments stay what and where they are.
//! - A name that goes to the number of another that there was is a mistake in numbering, and not two
//!   renamings.
//!
//! # Requests from others
//!
//! The requests need not be trusted: nothing here panics or recurses without bound on one that is
//! malformed or malicious.
//!
//! [evolving]: https://capnproto.org/language.html#evolving-your-protocol

mod check;
mod error;
mod schema;

#[cfg(test)]
mod tests;

use check::Check;
use schema::Schema;

pub use error::{Change, Incompatible, Member, Version};

/// Whether callers of the interface as `old` declares it can go on with objects whose interface
/// `new` declares. Both are bytes of a `CodeGeneratorRequest`, as `Vat.describe` returns them.
///
/// # Errors
///
/// The first thing that is in the way; or what is wrong with a request that cannot be read or lacks
/// something.
pub fn check_replaceable(old: &[u8], new: &[u8], interface_id: u64) -> Result<(), Incompatible> {
    let old = Schema::load(Version::Old, old)?;
    let new = Schema::load(Version::New, new)?;
    Check::new(&old, &new).run(interface_id)
}
