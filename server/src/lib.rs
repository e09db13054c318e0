//! A vat: hosts durable objects and hands them out as Cap'n Proto capabilities.

pub mod call;
pub mod catalog;
pub mod env;
pub mod error;
pub mod fault;
pub mod id;
pub mod journal;

pub use error::{Error, Result};
