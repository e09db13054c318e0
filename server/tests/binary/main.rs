//! The real binary, as a process of its own.

mod alarms;
mod births;
mod check;
mod connections;
mod crash;
mod failures;
mod held;
mod help;
mod kills;
mod locks;
mod log;
mod metrics;
mod promises;
mod quarantine;
mod readme;
mod ready;
mod scripts;
mod serve;
mod space;
mod vat;
mod verbs;

capnp::generated_code!(pub mod promises_capnp);
