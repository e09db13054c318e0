//! The runtime of a test, in which time stands still until everybody waits.

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use tokio::{
    runtime::Builder,
    sync::Notify,
    task::LocalSet,
    time::{MissedTickBehavior, interval},
};

/// A test that does not end in this time never will. Virtual days: they go by at once when nobody
/// does anything.
const MOST_DAYS: u32 = 10 * 365;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Likewise, real time: somebody does something again and again.
const LONGEST: Duration = Duration::from_secs(5 * 60);

thread_local! {
    static PACE: RefCell<Option<Arc<Pace>>> = const { RefCell::new(None) };
}

/// Runs a test on this thread, under virtual time, and on a [`LocalSet`].
///
/// # Panics
///
/// When the test hangs: it has not ended after ten years of virtual time, or five minutes of real
/// time.
#[track_caller]
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let pace = Arc::new(Pace::default());
    let (resting, going_on) = (pace.clone(), pace.clone());
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .on_thread_park(move || resting.at_rest.notify_waiters())
        .on_thread_unpark(move || going_on.stepped.notify_waiters())
        .build()
        .expect("a runtime");
    PACE.set(Some(pace));
    match LocalSet::new().block_on(&runtime, patiently(test)) {
        Some(done) => done,
        None => panic!("the test hangs"),
    }
}

/// What a test came to, unless it hangs.
async fn patiently<T>(test: impl Future<Output = T>) -> Option<T> {
    let began = Instant::now();
    let mut days = interval(DAY);
    days.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut gone_by = 0;
    let mut test = pin!(test);
    poll_fn(|cx| {
        if let Poll::Ready(done) = test.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        while days.poll_tick(cx).is_ready() {
            gone_by += 1;
        }
        if gone_by > MOST_DAYS || began.elapsed() > LONGEST {
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
}

/// How the runtime of a test gets on.
#[derive(Default)]
pub(super) struct Pace {
    at_rest: Notify,
    stepped: Notify,
}

impl Pace {
    /// That of the test on this thread.
    pub fn of_this_thread() -> Arc<Pace> {
        let pace = PACE.with_borrow(Option::clone);
        pace.expect("a test that is run by `testing::run`")
    }

    /// Waits until nobody has anything to do. Time has not gone on then.
    pub async fn at_rest(&self) {
        self.at_rest.notified().await;
    }

    /// Waits until time has gone on to where somebody waits for it.
    pub async fn step(&self) {
        self.stepped.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use tokio::{
        task::{spawn_local, yield_now},
        time::{self, sleep},
    };

    use super::*;

    #[test]
    fn at_rest_everybody_has_done_what_could_be_done_and_no_time_has_passed() {
        run(async {
            let began = time::Instant::now();
            let (done, later) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
            spawn_local({
                let (done, later) = (done.clone(), later.clone());
                async move {
                    for _ in 0..1000 {
                        yield_now().await;
                    }
                    let nested = LocalSet::new();
                    nested.run_until(spawn_local(yield_now())).await.unwrap();
                    done.set(true);
                    sleep(Duration::from_millis(1)).await;
                    later.set(true);
                }
            });
            let pace = Pace::of_this_thread();
            pace.at_rest().await;
            assert!(done.get() && !later.get());
            assert_eq!(began.elapsed(), Duration::ZERO);
            pace.step().await;
            pace.at_rest().await;
            assert!(later.get());
            assert_eq!(began.elapsed(), Duration::from_millis(1));
        });
    }

    #[test]
    #[should_panic = "the test hangs"]
    fn a_test_that_waits_in_vain_hangs() {
        run(std::future::pending::<()>());
    }

    #[test]
    fn a_test_may_wait_for_years() {
        run(async { sleep(DAY * 365 * 9).await });
    }
}
