//! The edge of the world: nothing else in this crate reads the wall clock, draws a random bit or
//! writes a file that must last.

mod clock;
mod disk;
#[cfg(any(test, feature = "testing"))]
pub mod sim;

pub use clock::Clock;
pub use disk::{Disk, DiskFile, Open, RealDisk};

/// Milliseconds since 1970, by the machine's clock.
pub fn now_ms() -> i64 {
    Clock::default().now_ms()
}

/// A number that nobody can guess.
pub fn random_u64() -> u64 {
    u64::from_ne_bytes(random())
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
