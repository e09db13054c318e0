//! Calls by reflection, as JSON: any method of any interface that a [`CodeGeneratorRequest`] knows,
//! without generated code and without I/O.
//!
//! ```
//! use vatwerk::json::Schemas;
//!
//! let schemas = Schemas::load(vatwerk::CODE_GENERATOR_REQUEST)?;
//! let counter = schemas.interface_named("Counter").expect("it is built in");
//! let increment = schemas.method(counter.id(), "increment").expect("it is there");
//! assert_eq!(
//!     schemas.signature(&increment),
//!     "increment(amount :Int64 = 1) -> (count :Int64)"
//! );
//! # Ok::<(), vatwerk::json::SchemaError>(())
//! ```
//!
//! # The JSON form
//!
//! | Cap'n Proto | JSON |
//! |---|---|
//! | struct, group | object, members in the order of their declaration |
//! | union | the one member that is set; of a call's parameters, none means the first |
//! | `Void` | `null` |
//! | `Int64`, `UInt64` | number, exactly; a decimal string is accepted too |
//! | other integers, `Bool`, `Text` | number, boolean, string |
//! | `Float32`, `Float64` | number, or `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | `Data` | string in standard base64, with padding |
//! | enum | the name of the enumerant; one that the schema does not know: its number. Both are accepted |
//! | `List` | array |
//! | interface, `Capability` | `null` or `{"$capability": "Stub"}`; only `null` is accepted |
//! | `AnyPointer`, type parameters | `null` or `{"$anyPointer": true}`; only `null` is accepted |
//!
//! A member that is missing has its default, and so has one that is `null`, except that `null`
//! selects a member of a union. A struct that was never set is shown with the defaults of its
//! members, but as `null` inside of itself (the end of a linked list) and inside of a struct which
//! was itself never set. A union member that the schema does not know is shown as
//! `"$unknownMember"` with its number.
//!
//! # Requests from others
//!
//! The request may come from a vat that nobody trusts. Nothing here panics, hangs or allocates
//! without bound on one that is malformed or malicious: see [`MAX_DEPTH`] and its neighbours.
//!
//! [`CodeGeneratorRequest`]: capnp::schema_capnp::code_generator_request

mod call;
mod error;
mod int64;
mod load;
mod merge;
mod method;
mod node;
mod parse;
pub(crate) mod raw;
mod read;
mod scalar;
mod schemas;
mod write;

#[cfg(test)]
mod tests;

pub use call::{CallError, Params};
pub use error::{JsonError, Problem, SchemaError};
pub use int64::{Int64, UnknownInt64};
pub use merge::merge;
pub use method::{Interface, Method};
pub use parse::{ParseError, parse};
pub use schemas::{Constant, Schemas};

/// How deep structs, groups and lists may be nested in parameters and results.
pub const MAX_DEPTH: usize = 64;

/// The most nodes that a request may have.
pub const MAX_NODES: usize = 32_768;

/// The most fields, enumerants, methods and superclasses that all nodes of a request may have
/// together.
pub const MAX_MEMBERS: usize = 262_144;

/// How much the JSON of one result may come to: about the bytes of memory it takes.
pub const MAX_JSON_BYTES: usize = 256 << 20;

/// The largest parameters, in bytes: the largest message that a vat takes.
pub const MAX_PARAMS_BYTES: usize = crate::limit_capnp::MAX_MESSAGE_BYTES as usize;
