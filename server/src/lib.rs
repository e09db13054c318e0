//! A vat: hosts durable objects and hands them out as Cap'n Proto capabilities.

pub mod env;
pub mod error;
pub mod storage;

pub use error::{Error, Result};
