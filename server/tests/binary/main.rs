//! The real binary, as a process of its own.

mod alarms;
mod check;
mod crash;
mod held;
mod help;
mod kills;
mod locks;
mod log;
mod metrics;
mod readme;
mod serve;
mod vat;
mod verbs;
