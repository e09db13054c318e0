//! Sockets, and the sessions that come through them.

mod listener;
pub mod network;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use vatwerk::vat_capnp::vat;

use listener::Stream;
use network::Handle;

pub use listener::{BindError, Listener};

/// How long to wait when the operating system has no room for another connection.
const BREATHER: Duration = Duration::from_millis(100);

/// The connections of a vat.
pub struct Gateway {
    vat: vat::Client,
    limits: network::Limits,
    room: std::sync::Arc<Semaphore>,
    next: Cell<u64>,
    open: RefCell<HashMap<u64, Handle>>,
}

impl Gateway {
    /// Connections to `vat`, at most `connections` at a time: others wait in the socket's queue.
    pub fn new(vat: vat::Client, connections: usize, limits: network::Limits) -> Rc<Gateway> {
        let room = std::sync::Arc::new(Semaphore::new(connections));
        Rc::new(Gateway {
            vat,
            limits,
            room,
            next: Cell::default(),
            open: RefCell::default(),
        })
    }

    /// Takes connections from `listener`, for ever.
    pub async fn accept(self: Rc<Self>, listener: Listener) {
        loop {
            let stream = listener.accept().await;
            let Ok(room) = self.room.clone().acquire_owned().await else {
                return;
            };
            match stream {
                Ok(Stream::Tcp(stream)) => {
                    let (read, write) = stream.into_split();
                    self.serve(read, write, room);
                }
                Ok(Stream::Unix(stream)) => {
                    let (read, write) = stream.into_split();
                    self.serve(read, write, room);
                }
                Err(error) => {
                    tracing::warn!(address = %listener.address(), %error, "accepting");
                    tokio::time::sleep(BREATHER).await;
                }
            }
        }
    }

    /// Serves one connection; whatever happens there ends only that.
    fn serve<R, W>(self: &Rc<Self>, read: R, write: W, room: OwnedSemaphorePermit)
    where
        R: AsyncRead + Unpin + 'static,
        W: AsyncWrite + Unpin + 'static,
    {
        let handle = network::serve(read, write, self.limits.clone(), self.vat.clone().client);
        let number = self.next.replace(self.next.get() + 1);
        self.open.borrow_mut().insert(number, handle.clone());
        let this = self.clone();
        tokio::task::spawn_local(async move {
            let end = handle.ended().await;
            tracing::debug!(connection = number, %end, "connection ended");
            this.open.borrow_mut().remove(&number);
            drop(room);
        });
    }

    /// Answers every further call `shutting-down`, and waits until those in flight are answered.
    pub async fn finish_calls(&self) {
        let open: Vec<_> = self.open.borrow().values().cloned().collect();
        open.iter().for_each(Handle::refuse_calls);
        for handle in open {
            handle.idle().await;
        }
    }

    /// Ends every connection, when what is queued for it has been written.
    pub async fn close(&self) {
        let open: Vec<_> = self.open.borrow().values().cloned().collect();
        open.iter().for_each(Handle::close);
        for handle in open {
            handle.ended().await;
        }
    }
}
