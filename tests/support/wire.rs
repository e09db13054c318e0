//! Connections that show the wire.

use std::{
    cell::{Cell, RefCell},
    path::{Path, PathBuf},
    rc::Rc,
};

use capnp::{capability::FromClientHook, traits::HasTypeId};
use capnp_rpc::{RpcSystem, rpc_twoparty_capnp::Side, twoparty};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::{JoinHandle, spawn_local},
};
use tokio_util::{
    compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt},
    task::AbortOnDropHandle,
};
use vatwerk::{
    object_capnp::namespace,
    vat_capnp::{session, vat},
};

use vatwerk_client::AlarmPage;

use crate::probe_capnp::probe;

/// A connection with stock capnp-rpc and nothing else. Dropped, it hangs up.
pub struct Wire {
    pub vat: vat::Client,
    rpc: RefCell<Option<JoinHandle<()>>>,
}

impl Wire {
    /// A page of the objects with alarms.
    pub async fn alarm_page(&self, after: &str, limit: u32) -> capnp::Result<AlarmPage> {
        let mut request = self.session().alarms_request();
        request.get().set_after(after);
        request.get().set_limit(limit);
        AlarmPage::read(request.send().promise.await?.get()?)
    }

    /// The names of the objects with alarms, in the order in which they are due.
    pub async fn alarms(&self) -> Vec<String> {
        let page = self.alarm_page("", 100).await.unwrap();
        let names = page.alarms.into_iter().map(|alarm| alarm.name.unwrap());
        names.collect()
    }

    pub async fn connect(socket: &Path) -> Wire {
        let stream = UnixStream::connect(socket).await.expect("it listens");
        Wire::over(stream)
    }

    pub fn over(
        stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
    ) -> Wire {
        let (read, write) = tokio::io::split(stream);
        let network = twoparty::VatNetwork::new(
            read.compat(),
            write.compat_write(),
            Side::Client,
            Default::default(),
        );
        let mut rpc = RpcSystem::new(Box::new(network), None);
        let vat = rpc.bootstrap(Side::Server);
        let rpc = spawn_local(async move { drop(rpc.await) });
        Wire {
            vat,
            rpc: RefCell::new(Some(rpc)),
        }
    }

    /// Ends the connection, whatever is still held of it.
    pub async fn hang_up(&self) {
        if let Some(rpc) = self.rpc.take() {
            rpc.abort();
            let _ = rpc.await;
        }
    }

    pub fn session(&self) -> session::Client {
        self.vat
            .authenticate_request()
            .send()
            .pipeline
            .get_session()
    }

    /// The objects of the class whose interface is `C`.
    pub fn namespace<C: HasTypeId>(&self) -> namespace::Client {
        let mut request = self.session().namespace_request();
        request.get().init_key().set_interface_id(C::TYPE_ID);
        request.send().pipeline.get_namespace()
    }

    /// An object, before anybody has answered anything.
    pub fn object<C: HasTypeId + FromClientHook>(&self, name: &str) -> C {
        let mut request = self.namespace::<C>().get_by_name_request();
        request.get().set_object_name(name);
        C::new(request.send().pipeline.get_object().into_client_hook())
    }

    pub fn probe(&self, name: &str) -> probe::Client {
        self.object(name)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(rpc) = self.rpc.take() {
            rpc.abort();
        }
    }
}

/// Stands between a client and a vat, and counts how often the client had to wait for an answer
/// before it said more. It can keep answers back.
pub struct Proxy {
    socket: PathBuf,
    counts: Rc<Counts>,
    answers: watch::Sender<bool>,
    _task: AbortOnDropHandle<()>,
    _folder: tempfile::TempDir,
}

#[derive(Default)]
struct Counts {
    flights: Cell<usize>,
    client_spoke_last: Cell<bool>,
    answered: Cell<usize>,
}

impl Proxy {
    /// A proxy for one connection to the vat at `socket`. Answers are kept back at first.
    pub async fn to(socket: &Path) -> Proxy {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let counts = Rc::new(Counts::default());
        let answers = watch::Sender::new(false);
        let (target, seen, mut open) = (socket.to_owned(), counts.clone(), answers.subscribe());
        let task = spawn_local(async move {
            let (client, _) = listener.accept().await.unwrap();
            let vat = UnixStream::connect(target).await.unwrap();
            let (mut client_read, mut client_write) = client.into_split();
            let (mut vat_read, mut vat_write) = vat.into_split();
            let there = async {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(n @ 1..) = client_read.read(&mut buffer).await {
                    if !seen.client_spoke_last.replace(true) {
                        seen.flights.set(seen.flights.get() + 1);
                    }
                    vat_write.write_all(&buffer[..n]).await.unwrap();
                }
            };
            let back = async {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(n @ 1..) = vat_read.read(&mut buffer).await {
                    let _ = open.wait_for(|open| *open).await;
                    seen.client_spoke_last.set(false);
                    seen.answered.set(seen.answered.get() + n);
                    if client_write.write_all(&buffer[..n]).await.is_err() {
                        return;
                    }
                }
            };
            futures::future::join(there, back).await;
        });
        Proxy {
            socket: path,
            counts,
            answers,
            _task: AbortOnDropHandle::new(task),
            _folder: folder,
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// How often the client spoke, having spoken never or heard something since it last did.
    pub fn flights(&self) -> usize {
        self.counts.flights.get()
    }

    /// How many bytes of answers the client has had.
    pub fn answered(&self) -> usize {
        self.counts.answered.get()
    }

    /// Lets answers through from now on.
    pub fn let_answers_through(&self) {
        self.answers.send_replace(true);
    }
}
