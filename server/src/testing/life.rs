//! One life of a vat: from a start to a stop, or a crash.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use capnp::{
    capability::RemotePromise,
    traits::{Owned, Pipelined},
};
use capnp_rpc::{RpcSystem, rpc_twoparty_capnp::Side, twoparty};
use futures::{AsyncRead, AsyncReadExt};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, LocalSet, spawn_local},
};
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};
use vatwerk::{
    Code,
    vat_capnp::{session, vat},
};

use crate::{ServeError, Server, gateway::Gateway, object::Host};

/// The life that a vat is in, if it is not stopped.
#[derive(Default)]
pub(super) struct Lives(RefCell<Option<Rc<Life>>>);

impl Lives {
    pub fn current(&self) -> Option<Rc<Life>> {
        self.0.borrow().clone()
    }

    pub fn begin(&self, life: Life) {
        self.0.replace(Some(Rc::new(life)));
    }

    pub fn end(&self) {
        self.0.take();
    }
}

/// A vat that runs. Dropped, it is gone as it stands.
pub(super) struct Life {
    pub host: Rc<Host>,
    gateway: Rc<Gateway>,
    /// Whatever the vat and its classes have begun: it goes with the vat.
    tasks: RefCell<Option<Rc<LocalSet>>>,
    main: RefCell<Option<JoinHandle<()>>>,
    /// Until it is to stop.
    stop: RefCell<Option<oneshot::Sender<()>>>,
    line: RefCell<Rc<Line>>,
}

impl Life {
    pub async fn begin(server: Server) -> Result<Life, ServeError> {
        let tasks = Rc::new(LocalSet::new());
        let (started, has_started) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let main = spawn_local({
            let tasks = tasks.clone();
            let main = async move {
                let running = match server.start().await {
                    Ok(running) => running,
                    Err(error) => return drop(started.send(Err(error))),
                };
                let _ = started.send(Ok((running.host().clone(), running.gateway().clone())));
                let _ = stopped.await;
                running.stop().await;
            };
            async move { tasks.run_until(main).await }
        });
        let (host, gateway) = has_started.await.expect("a start does not panic")?;
        let line = Line::to(&gateway, &tasks);
        Ok(Life {
            host,
            gateway,
            tasks: RefCell::new(Some(tasks)),
            main: RefCell::new(Some(main)),
            stop: RefCell::new(Some(stop)),
            line: RefCell::new(line),
        })
    }

    /// The test's connection: another one if the vat has ended the last.
    pub fn line(&self) -> Rc<Line> {
        let mut line = self.line.borrow_mut();
        if line.rpc.is_finished()
            && self.stop.borrow().is_some()
            && let Some(tasks) = &*self.tasks.borrow()
        {
            *line = Line::to(&self.gateway, tasks);
        }
        line.clone()
    }

    /// Does something where the vat does what it does.
    pub async fn within<T: 'static>(&self, work: impl AsyncFnOnce(Rc<Host>) -> T + 'static) -> T {
        let host = self.host.clone();
        let begin = |tasks: &Rc<LocalSet>| tasks.spawn_local(async move { work(host).await });
        let begun = self.tasks.borrow().as_ref().map(begin);
        let done = begun.expect("the vat is there").await;
        done.expect("the vat is there until this is done")
    }

    /// Stops it in order.
    pub async fn stop(&self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let main = self.main.take();
        if let Some(main) = main {
            main.await.expect("a stop does not panic");
        }
    }

    /// Ends it as it stands.
    pub async fn kill(&self) {
        let main = self.main.take();
        if let Some(main) = main {
            main.abort();
            let _ = main.await;
        }
        let tasks = self.tasks.take();
        drop(tasks);
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if let Some(main) = self.main.take() {
            main.abort();
        }
    }
}

/// A connection to a vat.
pub(super) struct Line {
    pub session: session::Client,
    rpc: JoinHandle<()>,
}

impl Line {
    fn to(gateway: &Rc<Gateway>, tasks: &LocalSet) -> Rc<Line> {
        let stream = {
            let _in_the_vat = tasks.enter();
            gateway.connect()
        };
        let (read, write) = tokio::io::split(stream);
        let network = twoparty::VatNetwork::new(
            read.compat().chain(HungUp),
            write.compat_write(),
            Side::Client,
            Default::default(),
        );
        let mut rpc = RpcSystem::new(Box::new(network), None);
        let vat: vat::Client = rpc.bootstrap(Side::Server);
        let rpc = spawn_local(async move { drop(rpc.await) });
        let answer = vat.authenticate_request().send();
        let session = answer.pipeline.get_session();
        follow(answer);
        Rc::new(Line { session, rpc })
    }
}

/// Sees to it that capabilities taken from the answer's pipeline learn what they have become.
pub(super) fn follow<R>(answer: RemotePromise<R>)
where
    R: Pipelined + Owned + Unpin + 'static,
{
    let RemotePromise { promise, pipeline } = answer;
    spawn_local(async move {
        // An error reaches whoever calls the capability.
        let _ = promise.await;
        drop(pipeline);
    });
}

/// What is read where a connection was cut: why.
struct HungUp;

impl AsyncRead for HungUp {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let code = Code::Disconnected;
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::ConnectionReset,
            format!("{code}: the vat has crashed"),
        )))
    }
}
