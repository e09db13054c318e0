//! The wire contract of Vatwerk: what a vat and its callers say to each other, and nothing that
//! does I/O.
//!
//! - [`vat_capnp`], [`object_capnp`], [`storage_capnp`]: the interfaces, generated from
//!   `schema/vatwerk/*.capnp`; the schema files carry the documentation.
//! - [`http_capnp`]: HTTP and WebSockets, as objects speak them.
//! - [`cell_capnp`], [`chatroom_capnp`], [`counter_capnp`]: the built-in classes.
//! - [`Address`]: where a vat listens.
//! - [`Code`]: the stable codes that every error's text starts with.
//! - [`ObjectId`]: the 32 bytes that name an object.
//! - [`compat`]: whether an interface may take the place of an earlier one.
//! - `json` (feature): calls to any method of any class by reflection, as JSON.
//! - `text` (feature `json`): a compiled schema as the `.capnp` files that it stands for.
//! - `build` (feature): the helper for the build script of a crate with a schema of its own.

mod address;
mod code;
mod delivery;
mod id;

#[cfg(feature = "build")]
pub mod build;
pub mod compat;
#[cfg(feature = "json")]
pub mod json;
#[cfg(feature = "json")]
pub mod text;

pub use address::{Address, InvalidAddress};
pub use code::Code;
pub use delivery::Delivery;
pub use id::{InvalidId, ObjectId};

capnp::generated_code!(pub mod cell_capnp, "vatwerk/cell_capnp.rs");
capnp::generated_code!(pub mod chatroom_capnp, "vatwerk/chatroom_capnp.rs");
capnp::generated_code!(pub mod counter_capnp, "vatwerk/counter_capnp.rs");
capnp::generated_code!(pub mod http_capnp, "vatwerk/http_capnp.rs");
capnp::generated_code!(pub mod limit_capnp, "vatwerk/limit_capnp.rs");
capnp::generated_code!(pub mod object_capnp, "vatwerk/object_capnp.rs");
capnp::generated_code!(pub mod storage_capnp, "vatwerk/storage_capnp.rs");
capnp::generated_code!(pub mod vat_capnp, "vatwerk/vat_capnp.rs");

/// The options of the annotations of `/capnp/compat/json.capnp`: the code that is generated for a schema with these
/// annotations names them. Not part of the contract.
#[doc(hidden)]
#[allow(clippy::all)]
pub mod json_capnp {
    include!(concat!(env!("OUT_DIR"), "/capnp/compat/json_capnp.rs"));
}

/// HTTP over Cap'n Proto as kj has it, which a stub answers as well. Not part of the contract: it is
/// neither in `SCHEMA_FILES` nor in what `Vat.describe` says.
#[doc(hidden)]
pub mod kj {
    capnp::generated_code!(pub mod http_capnp, "kj/http_capnp.rs");
}

/// The schema of this crate as `capnp compile -o-` prints it: what `Vat.describe` starts from.
pub const CODE_GENERATOR_REQUEST: &[u8] = include_bytes!("vatwerk.cgr");

/// The schema files of this crate and all that they import, as (path to import them by, text): what
/// `vatwerk schema export` writes and what the build helper puts on the import path.
pub const SCHEMA_FILES: &[(&str, &str)] = &[
    ("capnp/c++.capnp", include_str!("capnp/c++.capnp")),
    (
        "capnp/compat/json.capnp",
        include_str!("capnp/compat/json.capnp"),
    ),
    ("capnp/stream.capnp", include_str!("capnp/stream.capnp")),
    ("go.capnp", include_str!("go.capnp")),
    ("java.capnp", include_str!("java.capnp")),
    ("vatwerk/cell.capnp", include_str!("vatwerk/cell.capnp")),
    (
        "vatwerk/chatroom.capnp",
        include_str!("vatwerk/chatroom.capnp"),
    ),
    (
        "vatwerk/counter.capnp",
        include_str!("vatwerk/counter.capnp"),
    ),
    ("vatwerk/http.capnp", include_str!("vatwerk/http.capnp")),
    ("vatwerk/limit.capnp", include_str!("vatwerk/limit.capnp")),
    ("vatwerk/object.capnp", include_str!("vatwerk/object.capnp")),
    (
        "vatwerk/storage.capnp",
        include_str!("vatwerk/storage.capnp"),
    ),
    ("vatwerk/vat.capnp", include_str!("vatwerk/vat.capnp")),
];

/// Includes what the build helper made of a schema file: `schema!(pub mod chat_capnp)` for
/// `chat.capnp`. The module must stand at the root of the crate. Beside the generated code it has
/// `CODE_GENERATOR_REQUEST`, the schema as bytes.
#[macro_export]
macro_rules! schema {
    ($vis:vis mod $module:ident) => {
        // Not every generated item has a use in every crate.
        #[allow(clippy::all, dead_code)]
        $vis mod $module {
            include!(concat!(env!("OUT_DIR"), "/", stringify!($module), ".rs"));
            /// The schema as `capnp compile -o-` prints it.
            pub const CODE_GENERATOR_REQUEST: &[u8] =
                include_bytes!(concat!(env!("OUT_DIR"), "/", stringify!($module), ".cgr"));
        }
    };
}
