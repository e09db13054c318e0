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
//! | Cap'n Proto | JSON in results | taken in parameters beside |
//! |---|---|---|
//! | struct, group | object, members in the order of their declaration | in any order |
//! | union | the one member that is set | no member: the first |
//! | `Void` | `null` | |
//! | `Bool`, `Text` | boolean, string | |
//! | `Int64`, `UInt64` | number, exactly, or with [`Int64::String`] a decimal string | both forms, always |
//! | other integers | number | a float without a fraction |
//! | `Float32`, `Float64` | number, or `"NaN"`, `"Infinity"`, `"-Infinity"` | |
//! | `Data` | string in base64, standard alphabet, with padding | without padding, URL-safe alphabet, a list of numbers from 0 to 255 |
//! | enum | the name of the enumerant; the number of one that the schema does not know | its number |
//! | `List` | array | |
//! | interface, `Capability` | `null` or `{"$capability": "Stub"}` | only `null` |
//! | `AnyPointer`, type parameters | `null` or `{"$anyPointer": true}` | only `null` |
//!
//! A member that is missing has its default, and so has one that is `null`, except that `null`
//! selects a member of a union. A member that the schema does not know is refused, and so is one that is there
//! twice, two members of one union, and an integer that its type does not hold. Nothing is rounded.
//!
//! A struct that was never set is shown with the defaults of its
//! members, but as `null` inside of itself (the end of a linked list) and inside of a struct which
//! was itself never set. A union member that the schema does not know is shown as
//! `"$unknownMember"` with its number.
//!
//! # Annotations
//!
//! The annotations of `/capnp/compat/json.capnp` mean what they mean to `capnp convert`:
//!
//! | annotation | of | |
//! |---|---|---|
//! | `$Json.name` | fields, groups, unions, enumerants | the name in JSON |
//! | `$Json.base64` | `Data` | base64, as without it |
//! | `$Json.hex` | `Data` | a string of hexadecimal digits; a list of numbers is taken too |
//! | `$Json.flatten` | structs, groups, unions | its members stand among those around it, with a prefix |
//! | `$Json.discriminator` | unions, structs with a union that has no name | a member tells which member of the union is set, one of type `Void` has no value, and with `valueName` the value has the same name always |
//!
//! The parameters in the parentheses of a method take none of them: declare a struct and give it to the method.
//! The member of a `discriminator` may come after those that depend on it. One that is missing may be told
//! by the union's member, if that has a name of its own; and its value is a number if the schema does not know
//! the member. Annotations that contradict each other, such as two members of one name, are an error of
//! [`Schemas::load`]. `$Json.name` on a method and `$Json.notification` are for JSON-RPC and mean nothing here.
//!
//! `capnp convert` differs in what no annotation says: its 64-bit integers are strings always, its `Data` is a list of
//! numbers, fields that are null are left out, and unknown members are passed over. Its output is taken as
//! parameters.
//!
//! # Requests from others
//!
//! The request may come from a vat that nobody trusts. Nothing here panics, hangs or allocates
//! without bound on one that is malformed or malicious: see [`MAX_DEPTH`] and its neighbours.
//!
//! [`CodeGeneratorRequest`]: capnp::schema_capnp::code_generator_request

mod annotations;
mod bytes;
mod call;
mod error;
mod int64;
mod layout;
mod load;
mod members;
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
