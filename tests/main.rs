//! The promises of Vatwerk, a module each.

mod schema;
mod tidy;
