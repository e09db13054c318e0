//! The thread that a client's RPC lives on.

use std::{
    cell::RefCell,
    collections::HashMap,
    future::Future,
    io,
    panic::AssertUnwindSafe,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    thread,
};

use capnp::{capability::FromClientHook, private::capability::ClientHook};
use futures::{FutureExt, future::LocalBoxFuture};
use tokio::{
    runtime,
    sync::{mpsc, oneshot},
    task::LocalSet,
};

use crate::{Address, Error, LocalClient, Result, link::Link, link::Options, path::Path};

/// What the thread is asked to do.
type Job = Box<dyn FnOnce(&Rc<Worker>) -> LocalBoxFuture<'static, ()> + Send>;

/// What a task came to: its result, or what it panicked with.
type Outcome<T> = thread::Result<capnp::Result<T>>;

/// The way to the thread. The thread ends when the last of these is gone.
#[derive(Clone)]
pub(crate) struct Handle {
    jobs: mpsc::UnboundedSender<Job>,
}

/// What lives on the thread.
pub(crate) struct Worker {
    client: LocalClient,
    /// What the stubs and namespaces of other threads stand for, so that a stub that makes one call
    /// after another asks the vat for its object once.
    pinned: RefCell<HashMap<u64, Box<dyn ClientHook>>>,
    /// Which handles belong here: those that send to the same queue.
    jobs: mpsc::WeakUnboundedSender<Job>,
}

thread_local! {
    /// The worker of this thread, if it is a client's.
    static CURRENT: RefCell<Option<Rc<Worker>>> = const { RefCell::new(None) };
}

impl Handle {
    /// Starts the thread and waits until it has connected.
    pub(crate) async fn start(address: Address, options: Options) -> Result<Handle> {
        let failed = {
            let address = address.clone();
            move |source: io::Error| Error::Connect { address, source }
        };
        let (jobs, queue) = mpsc::unbounded_channel();
        let (started, connected) = oneshot::channel();
        let weak = jobs.downgrade();
        let body = move || {
            let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(source) => {
                    let _ = started.send(Err(Error::Connect { address, source }));
                    return;
                }
            };
            let local = LocalSet::new();
            local.block_on(&runtime, async move {
                let mut started = started;
                let link = tokio::select! {
                    link = Link::open(address, options) => link,
                    // Nobody waits for the client any more.
                    () = started.closed() => return,
                };
                match link {
                    Ok(link) => {
                        let worker = Rc::new(Worker {
                            client: LocalClient::new(link),
                            pinned: RefCell::default(),
                            jobs: weak,
                        });
                        if started.send(Ok(())).is_ok() {
                            worker.serve(queue).await;
                        }
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                    }
                }
            });
            CURRENT.with_borrow_mut(|current| *current = None);
        };
        thread::Builder::new()
            .name("vatwerk-client".to_owned())
            .spawn(body)
            .map_err(failed)?;
        connected.await.map_err(|_| Error::Gone)??;
        Ok(Handle { jobs })
    }

    /// Has the thread make and run a task. Tasks are begun in the order of these calls, each up to
    /// its first wait before the next.
    pub(crate) fn submit<T, F, Fut>(&self, task: F) -> Call<T>
    where
        T: Send + 'static,
        F: FnOnce(&Rc<Worker>) -> Fut + Send + 'static,
        Fut: Future<Output = capnp::Result<T>> + 'static,
    {
        let (mut done, outcome) = oneshot::channel::<Outcome<T>>();
        let job: Job = Box::new(move |worker| {
            let worker = worker.clone();
            let task = AssertUnwindSafe(async move { task(&worker).await }).catch_unwind();
            async move {
                let outcome = tokio::select! {
                    biased;
                    () = done.closed() => return,
                    outcome = task => outcome,
                };
                let _ = done.send(outcome);
            }
            .boxed_local()
        });
        // If the thread is gone, the job is dropped, and with it the way to answer.
        let _ = self.jobs.send(job);
        Call {
            outcome,
            _client: self.clone(),
        }
    }

    /// Lets go of what a handle stood for.
    pub(crate) fn unpin(&self, id: u64) {
        let _ = self.jobs.send(Box::new(move |worker| {
            let hook = worker.pinned.borrow_mut().remove(&id);
            drop(hook);
            futures::future::ready(()).boxed_local()
        }));
    }

    /// The worker, if this is its thread.
    pub(crate) fn here(&self) -> Option<Rc<Worker>> {
        let worker = CURRENT.with_borrow(Clone::clone)?;
        let jobs = worker.jobs.upgrade()?;
        jobs.same_channel(&self.jobs).then_some(worker)
    }
}

impl Worker {
    /// Runs jobs until nobody can send any more.
    async fn serve(self: Rc<Self>, mut queue: mpsc::UnboundedReceiver<Job>) {
        CURRENT.set(Some(self.clone()));
        while let Some(job) = queue.recv().await {
            let mut task = job(&self);
            // The first step is taken here and not by the scheduler: it is what sends the first
            // call, and its place in the order is now. Nor may it be put off because much has been
            // done already.
            let first = tokio::task::unconstrained(&mut task);
            if futures::poll!(first).is_pending() {
                tokio::task::spawn_local(task);
            }
        }
    }

    /// The client of the thread.
    pub(crate) fn client(&self) -> &LocalClient {
        &self.client
    }

    /// The capability that a handle stands for.
    pub(crate) fn pinned<C: FromClientHook>(&self, id: u64, path: &Path) -> C {
        let known = self.pinned.borrow().get(&id).cloned();
        let hook = known.unwrap_or_else(|| {
            let hook = self
                .client
                .at::<capnp::capability::Client>(path.clone())
                .into_client_hook();
            self.pinned.borrow_mut().insert(id, hook.add_ref());
            hook
        });
        C::new(hook)
    }
}

/// A call that is under way. It was begun when it was made, awaited or not; dropping it cancels it,
/// wherever it is by then.
///
/// If the closure panics, so does whoever awaits this.
#[must_use = "dropping a call cancels it"]
pub struct Call<T> {
    outcome: oneshot::Receiver<Outcome<T>>,
    /// The thread must not end before it has answered.
    _client: Handle,
}

impl<T> Future for Call<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let outcome = std::task::ready!(Pin::new(&mut self.outcome).poll(cx));
        Poll::Ready(match outcome {
            Ok(Ok(result)) => result.map_err(Error::from),
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Gone),
        })
    }
}
