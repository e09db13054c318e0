//! The promises of Vatwerk, a module each.

mod bad_input;
mod calls;
mod classes;
mod cursors;
mod errors;
mod faults;
mod files;
mod gate;
mod identity;
mod lifetime;
mod order;
mod overload;
mod pairs;
mod schema;
mod stop;
mod stubs;
mod support;
mod tidy;
mod transactions;
mod turns;

capnp::generated_code!(mod probe_capnp);
