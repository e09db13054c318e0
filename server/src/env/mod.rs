//! The edge of the world: nothing else in this crate reads the wall clock, draws a random bit or
//! writes a file that must last.

mod disk;
#[cfg(any(test, feature = "testing"))]
pub mod sim;

pub use disk::{Disk, DiskFile, Open, RealDisk};

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, by the machine's clock.
pub fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// `N` bytes that nobody can guess.
///
/// # Panics
///
/// When the operating system has no randomness to give: nothing safe can be done without it.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
