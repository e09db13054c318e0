//! A connection against well-behaved and hostile peers.

mod awkward;
mod fuzz;
mod hostile;
mod object;
mod ordinary;
mod peer;
mod tail;

use std::sync::mpsc;
use std::time::Duration;

/// Runs `test` on a thread of its own and fails if that does not come to an end: a loop that never
/// ends cannot be stopped from within.
fn watched<F>(limit: Duration, test: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let local = tokio::task::LocalSet::new();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            local.block_on(&runtime, test());
        }));
        let _ = done.send(outcome);
    });
    match ended.recv_timeout(limit) {
        Ok(Ok(())) => (),
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(_) => panic!("the thread hangs"),
    }
}

/// Ample for any test that does not hang.
const LIMIT: Duration = Duration::from_secs(20);
