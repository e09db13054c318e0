//! The real binary, as a process of its own.

mod check;
mod crash;
mod help;
mod kills;
mod locks;
mod readme;
mod serve;
mod vat;
mod verbs;
