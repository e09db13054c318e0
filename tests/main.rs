//! The promises of Vatwerk, a module each.

mod alarm_trouble;
mod alarms;
mod awkward;
mod bad_input;
mod births;
mod callers;
mod calls;
mod chat_room;
mod classes;
mod cursors;
mod deletion;
mod depend;
mod ends;
mod errors;
mod expiry;
mod faults;
mod fetch;
mod files;
mod gate;
mod gone;
mod http;
mod identity;
mod input_gate;
mod kit;
mod kj;
mod ledger;
mod lifecycle;
mod lifetime;
mod objects;
mod operators;
mod order;
mod overload;
mod pairs;
mod pins;
mod quarantine;
mod resets;
mod schema;
mod serial;
mod simulation;
mod sockets;
mod space;
mod stop;
mod stubs;
mod support;
mod text;
mod tidy;
mod transactions;
mod turns;
mod upgrades;
mod ways_out;

capnp::generated_code!(mod probe_capnp);
capnp::generated_code!(mod puppet_capnp);

/// Only its server is used: clients of the class are those of HTTP.
#[allow(dead_code, clippy::all)]
mod door_capnp {
    include!(concat!(env!("OUT_DIR"), "/door_capnp.rs"));
}
