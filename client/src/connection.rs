//! A live connection: from a path to a capability, without waiting.

use std::{cell::RefCell, collections::HashMap, convert::Infallible, fmt, io, rc::Rc};

use capnp::{
    Error,
    capability::{FromClientHook, Promise, RemotePromise},
    private::capability::ClientHook,
    traits::{Owned, Pipelined},
};
use futures::channel::oneshot;
use vatwerk::{
    object_capnp::namespace,
    vat_capnp::{session, vat},
};

use crate::{
    Address,
    gate::Gate,
    path::{Key, Path, Space},
    wire::{self, End, Wire},
};

/// The credential that a client asks a vat with.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// Nobody in particular: good where reaching the listener is permission enough.
    #[default]
    None,
    /// A secret that the vat was configured with.
    Token(String),
}

impl fmt::Debug for Credential {
    /// Keeps the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credential::None => "None",
            Credential::Token(_) => "Token(..)",
        })
    }
}

/// A live connection, and what has been asked for on it.
pub(crate) struct Connection {
    vat: vat::Client,
    credential: Credential,
    session: RefCell<session::Client>,
    spaces: RefCell<HashMap<Space, namespace::Client>>,
    end: End,
    _stop: oneshot::Sender<Infallible>,
}

impl Connection {
    /// Connects and asks for a session. The promise says how that went; nothing needs to wait for
    /// it, because calls are pipelined on the session.
    pub(crate) async fn open(
        address: &Address,
        credential: Credential,
        gate: Rc<Gate>,
    ) -> io::Result<(Rc<Connection>, Promise<(), Error>)> {
        let Wire { vat, end, stop } = wire::dial(address, gate).await?;
        let (session, authenticated) = authenticate(&vat, &credential);
        let authenticated = end.or(authenticated);
        let connection = Rc::new(Connection {
            vat,
            credential,
            session: RefCell::new(session),
            spaces: RefCell::default(),
            end,
            _stop: stop,
        });
        Ok((connection, authenticated))
    }

    /// Whether the connection takes no calls any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.end.has_come()
    }

    /// A promise of this connection: made to fail if nobody drives the connection any more, and
    /// made to keep the connection while somebody waits.
    pub(crate) fn guard<T: 'static>(
        self: &Rc<Self>,
        promise: Promise<T, Error>,
    ) -> Promise<T, Error> {
        let connection = self.clone();
        let promise = self.end.or(promise);
        Promise::from_future(async move {
            let outcome = promise.await;
            drop(connection);
            outcome
        })
    }

    /// Whether calls can be sent.
    pub(crate) fn is_live(&self) -> bool {
        !self.end.has_come() && self.owns(&*innermost(self.vat.as_client_hook()))
    }

    /// Whether the capability, which has been walked to its innermost, is one of this connection's:
    /// not broken, and not of an earlier connection.
    pub(crate) fn owns(&self, hook: &dyn ClientHook) -> bool {
        hook.get_brand() == self.vat.as_client_hook().get_brand()
    }

    /// The vat itself.
    pub(crate) fn vat(&self) -> vat::Client {
        FromClientHook::new(innermost(self.vat.as_client_hook()))
    }

    /// The capability at the end of `path`. Sends what is needed to ask for it, and does not wait.
    pub(crate) fn capability(&self, path: &Path) -> Box<dyn ClientHook> {
        match path {
            Path::Session => self.session().into_client_hook(),
            Path::Restored(bytes) => {
                let mut request = self.session().restore_request();
                request.get().set_sturdy_ref(bytes);
                let answer = request.send();
                let cap = answer.pipeline.get_cap().as_cap();
                self.hold(answer);
                cap
            }
            Path::Namespace(space) => self.namespace(space).into_client_hook(),
            Path::Object(space, key) => {
                let namespace = self.namespace(space);
                match key {
                    Key::Name(name) => {
                        let mut request = namespace.get_by_name_request();
                        request.get().set_object_name(&**name);
                        let answer = request.send();
                        let object = answer.pipeline.get_object();
                        self.hold(answer);
                        object.into_client_hook()
                    }
                    Key::Id(id) => {
                        let mut request = namespace.get_request();
                        request.get().set_id(id.as_bytes());
                        let answer = request.send();
                        let object = answer.pipeline.get_object();
                        self.hold(answer);
                        object.into_client_hook()
                    }
                    Key::ExistingId(id) => {
                        let mut request = namespace.get_existing_request();
                        request.get().set_id(id.as_bytes());
                        let answer = request.send();
                        let object = answer.pipeline.get_object();
                        self.hold(answer);
                        object.into_client_hook()
                    }
                }
            }
        }
    }

    /// Sees to it that capabilities taken from the answer's pipeline resolve.
    fn hold<R: Owned + Pipelined>(&self, answer: RemotePromise<R>) {
        self.drive(arrival(answer));
    }

    fn drive(&self, promise: Promise<(), Error>) {
        let promise = self.end.or(promise);
        tokio::task::spawn_local(async move {
            // The same error reaches whoever calls the capability.
            let _ = promise.await;
        });
    }

    /// The session. One that was refused is asked for again: the vat may have changed its mind.
    fn session(&self) -> session::Client {
        let hook = innermost(self.session.borrow().as_client_hook());
        if self.owns(&*hook) {
            return FromClientHook::new(hook);
        }
        let (session, authenticated) = authenticate(&self.vat(), &self.credential);
        self.drive(authenticated);
        self.session.replace(session.clone());
        session
    }

    /// The namespace, asked for at most once unless it was refused.
    fn namespace(&self, space: &Space) -> namespace::Client {
        let known = self.spaces.borrow().get(space).cloned();
        if let Some(known) = known {
            let hook = innermost(known.as_client_hook());
            if self.owns(&*hook) {
                return FromClientHook::new(hook);
            }
        }
        let mut request = self.session().namespace_request();
        space.class.write(request.get().init_key());
        let answer = request.send();
        let mut namespace = answer.pipeline.get_namespace();
        self.hold(answer);
        for prefix in space.prefixes.iter() {
            let mut request = namespace.restrict_request();
            request.get().set_prefix(&**prefix);
            let answer = request.send();
            namespace = answer.pipeline.get_namespace();
            self.hold(answer);
        }
        self.spaces
            .borrow_mut()
            .insert(space.clone(), namespace.clone());
        namespace
    }
}

fn authenticate(
    vat: &vat::Client,
    credential: &Credential,
) -> (session::Client, Promise<(), Error>) {
    let mut request = vat.authenticate_request();
    let mut wanted = request.get().init_credential();
    match credential {
        Credential::None => wanted.set_none(()),
        Credential::Token(token) => wanted.set_token(token.as_str()),
    }
    let answer = request.send();
    (answer.pipeline.get_session(), arrival(answer))
}

/// When the answer is there. Its pipeline is held until then: capabilities taken from a pipeline that
/// is gone go on working, but they never learn that they have resolved, or broken.
fn arrival<R: Owned + Pipelined>(answer: RemotePromise<R>) -> Promise<(), Error> {
    let RemotePromise { promise, pipeline } = answer;
    Promise::from_future(async move {
        let outcome = promise.await;
        drop(pipeline);
        outcome.map(|_| ())
    })
}

/// What a capability has resolved to so far. Calls go to this and not to the promise before it: a
/// promise that has resolved to something off the connection must not be called with capabilities
/// among the parameters.
pub(crate) fn innermost(hook: &dyn ClientHook) -> Box<dyn ClientHook> {
    let mut hook = hook.add_ref();
    while let Some(next) = hook.get_resolved() {
        hook = next;
    }
    hook
}
