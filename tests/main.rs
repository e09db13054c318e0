//! The promises of Vatwerk, a module each.

mod alarms;
mod bad_input;
mod calls;
mod classes;
mod cursors;
mod deletion;
mod errors;
mod faults;
mod files;
mod gate;
mod identity;
mod input_gate;
mod kit;
mod ledger;
mod lifecycle;
mod lifetime;
mod objects;
mod order;
mod overload;
mod pairs;
mod schema;
mod simulation;
mod stop;
mod stubs;
mod support;
mod tidy;
mod transactions;
mod turns;
mod upgrades;

capnp::generated_code!(mod probe_capnp);
capnp::generated_code!(mod puppet_capnp);
