//! Being connected, again and again: one attempt at a time, and not too often.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    rc::{Rc, Weak},
    time::Duration,
};

use capnp::{capability::Promise, private::capability::ClientHook};
use futures::{
    FutureExt,
    future::{LocalBoxFuture, Shared},
};
use tokio::time::{Instant, sleep, timeout};
use vatwerk::{Code, Delivery};

use crate::{
    Address, Credential, Error,
    connection::Connection,
    gate::Gate,
    hook::{Settled, SettledInner},
    path::Path,
};

/// How long after a failure the next attempt is made.
const SHORTEST_DELAY: Duration = Duration::from_millis(20);

/// What doubling the delay leads to at most.
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// The longest time that an attempt is given, thirty years: what is longer may be no moment of the clock.
const FAR_FUTURE: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// What a connection is made with.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub connect_timeout: Duration,
    pub call_timeout: Option<Duration>,
    pub calls_in_flight: usize,
    pub credential: Credential,
}

/// A connection that is on its way, for all who wait for it.
pub(crate) type Connecting = Shared<LocalBoxFuture<'static, capnp::Result<Rc<Connection>>>>;

enum State {
    Down,
    Connecting(Connecting),
    Up(Rc<Connection>),
}

/// What keeps a client connected to one address.
pub(crate) struct Link {
    address: Address,
    options: Options,
    gate: Rc<Gate>,
    state: RefCell<State>,
    pace: Rc<Pace>,
    hooks: RefCell<HashMap<Path, Weak<SettledInner>>>,
}

impl Link {
    /// Connects, in one attempt, and waits until the vat has taken the credential.
    pub(crate) async fn open(address: Address, options: Options) -> Result<Rc<Link>, Error> {
        let gate = Gate::new(options.calls_in_flight);
        let attempt = async {
            let (connection, authenticated) =
                Connection::open(&address, options.credential.clone(), gate.clone()).await?;
            Ok::<_, io::Error>((connection, authenticated.await))
        };
        let attempt = timeout(options.connect_timeout, attempt).await;
        let failed = |source| Error::Connect {
            address: address.clone(),
            source,
        };
        let (connection, authenticated) = attempt
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(failed)?;
        match authenticated {
            Ok(()) => {}
            // A connection that ends before the first answer: this is no vat, or one that is on its
            // way down.
            Err(error) if connection.has_ended() => {
                let source = io::Error::new(io::ErrorKind::ConnectionReset, error.extra);
                return Err(failed(source));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Rc::new(Link {
            address,
            options,
            gate,
            state: RefCell::new(State::Up(connection)),
            pace: Rc::default(),
            hooks: RefCell::default(),
        }))
    }

    /// The connection, if there is one now.
    pub(crate) fn live(&self) -> Option<Rc<Connection>> {
        match &*self.state.borrow() {
            State::Up(connection) if connection.is_live() => Some(connection.clone()),
            _ => None,
        }
    }

    /// The connection, now or later. Whoever asks first starts the attempts, and everybody waits
    /// for the same ones; they go on even if nobody waits any more.
    pub(crate) fn connected(self: &Rc<Self>) -> Connecting {
        if let Some(connection) = self.live() {
            return futures::future::ready(Ok(connection))
                .boxed_local()
                .shared();
        }
        if let State::Connecting(connecting) = &*self.state.borrow() {
            return connecting.clone();
        }
        let attempts = attempts(
            Rc::downgrade(self),
            self.address.clone(),
            self.options.clone(),
            self.gate.clone(),
            self.pace.clone(),
        );
        let connecting = attempts.boxed_local().shared();
        tokio::task::spawn_local(connecting.clone());
        let before = self.state.replace(State::Connecting(connecting.clone()));
        // Its capabilities may call back into hooks that look at the state.
        drop(before);
        connecting
    }

    /// The settled capability at the end of `path`: always the same one while anybody holds it, so
    /// that all calls through it have one order.
    pub(crate) fn hook(self: &Rc<Self>, path: Path) -> Box<dyn ClientHook> {
        let known = self.hooks.borrow().get(&path).and_then(Weak::upgrade);
        let inner = known.unwrap_or_else(|| {
            let inner = Rc::new(SettledInner::new(self.clone(), path.clone()));
            self.hooks.borrow_mut().insert(path, Rc::downgrade(&inner));
            inner
        });
        Box::new(Settled::new(inner))
    }

    /// The limit of calls in flight.
    pub(crate) fn gate(&self) -> &Rc<Gate> {
        &self.gate
    }

    /// Gives up on a call that was made now and is not answered within the call timeout. `is_held` says
    /// then whether the call has not been sent, and sees to it that it never is.
    pub(crate) fn limited<T: 'static>(
        &self,
        answer: Promise<T, capnp::Error>,
        is_held: impl FnOnce() -> bool + 'static,
    ) -> Promise<T, capnp::Error> {
        let Some(limit) = self.options.call_timeout else {
            return answer;
        };
        let most = self.gate.max();
        let answer = timeout(limit, answer);
        Promise::from_future(async move {
            answer.await.unwrap_or_else(|_| {
                let (code, ms) = (Code::Disconnected, limit.as_millis());
                Err(capnp::Error::disconnected(if is_held() {
                    format!(
                        "{code}: the call was not sent within {ms} ms, the call timeout of this \
                         client: {most} calls were in flight, the most there may be \
                         (`Builder::calls_in_flight`) [{}]",
                        Delivery::NotDelivered
                    )
                } else {
                    format!(
                        "{code}: the vat has not answered within {ms} ms, the call timeout of this \
                         client; whether the call ran is not known"
                    )
                }))
            })
        })
    }

    /// Forgets a settled capability that nobody holds any more.
    pub(crate) fn release(&self, path: &Path) {
        let mut hooks = self.hooks.borrow_mut();
        if hooks.get(path).is_some_and(|weak| weak.strong_count() == 0) {
            hooks.remove(path);
        }
    }
}

/// The moment when a time is up that begins now; one in a far future if there is no such moment.
fn after(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).unwrap_or_else(|| now + FAR_FUTURE)
}

/// Attempts to connect until one succeeds or the time is up, and records the outcome.
async fn attempts(
    link: Weak<Link>,
    address: Address,
    options: Options,
    gate: Rc<Gate>,
    pace: Rc<Pace>,
) -> capnp::Result<Rc<Connection>> {
    let deadline = after(options.connect_timeout);
    let outcome = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // However fast the failures came before, half of the time is left for this attempt.
        sleep(pace.until_next().min(left / 2)).await;
        pace.attempted();
        let left = deadline.saturating_duration_since(Instant::now());
        let attempt = Connection::open(&address, options.credential.clone(), gate.clone());
        let source = match timeout(left, attempt).await {
            Ok(Ok((connection, authenticated))) => {
                let pace = pace.clone();
                tokio::task::spawn_local(async move {
                    if authenticated.await.is_ok() {
                        pace.succeeded();
                    }
                });
                break Ok(connection);
            }
            Ok(Err(source)) => source,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        if Instant::now() + pace.until_next() >= deadline {
            let address = address.clone();
            break Err(capnp::Error::from(Error::Connect { address, source }));
        }
    };
    if let Some(link) = link.upgrade() {
        let state = match &outcome {
            Ok(connection) => State::Up(connection.clone()),
            Err(_) => State::Down,
        };
        let before = link.state.replace(state);
        drop(before);
    }
    outcome
}

/// Spaces attempts out. The delay doubles with every attempt until the vat has answered one, not
/// only accepted it: a listener that hangs up at once is no better than none. The pause is the delay or
/// up to half of it less, by chance, so that the clients of a vat that starts again do not come all at
/// once.
#[derive(Default)]
struct Pace {
    last: Cell<Option<Instant>>,
    delay: Cell<Duration>,
    pause: Cell<Duration>,
}

impl Pace {
    fn until_next(&self) -> Duration {
        self.last.get().map_or(Duration::ZERO, |last| {
            (last + self.pause.get()).saturating_duration_since(Instant::now())
        })
    }

    fn attempted(&self) {
        self.last.set(Some(Instant::now()));
        let doubled = self.delay.get() * 2;
        let delay = doubled.clamp(SHORTEST_DELAY, LONGEST_DELAY);
        self.delay.set(delay);
        self.pause.set(delay.mul_f64(1.0 - fastrand::f64() / 2.0));
    }

    fn succeeded(&self) {
        self.delay.set(Duration::ZERO);
        self.pause.set(Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_second_and_differ_by_chance() {
        let pauses = || {
            let pace = Pace::default();
            let pause = |_| {
                pace.attempted();
                pace.pause.get()
            };
            (0..12).map(pause).collect::<Vec<_>>()
        };
        let (one, other) = (pauses(), pauses());
        assert_ne!(one, other);
        for (attempt, pause) in one.iter().chain(&other).enumerate() {
            let delay = LONGEST_DELAY.min(SHORTEST_DELAY * 2_u32.pow(attempt as u32 % 12));
            assert!((delay / 2..=delay).contains(pause), "{attempt}: {pause:?}");
        }
    }
}
