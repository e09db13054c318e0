//! The client for one thread: typed Cap'n Proto clients, on the `LocalSet` one is on.

use std::{marker::PhantomData, rc::Rc};

use capnp::{capability::FromClientHook, traits::HasTypeId};
use vatwerk::{
    ObjectId,
    object_capnp::namespace,
    vat_capnp::{session, vat},
};

use crate::{
    Result,
    link::Link,
    path::{ClassKey, Key, Path, Space},
};

/// A client for code on one thread, which uses the `!Send` clients of Cap'n Proto directly.
///
/// Must be used inside a [`tokio::task::LocalSet`] of a runtime with I/O and time enabled; it is
/// made by [`Builder::connect_local`](crate::Builder::connect_local). What it hands out reconnects
/// like a [`Stub`](crate::Stub). Capabilities that calls return (cursors, transactions) belong to
/// the connection. They fail with `disconnected` after its end, which also comes when the last clone
/// of this client and of what it handed out is dropped.
#[derive(Clone)]
pub struct LocalClient {
    link: Rc<Link>,
}

impl LocalClient {
    /// Connects without a credential. See [`Builder`](crate::Builder) for the choices and the
    /// errors.
    pub async fn connect(address: &str) -> Result<Self> {
        crate::Builder::default().connect_local(address).await
    }

    pub(crate) fn new(link: Rc<Link>) -> Self {
        LocalClient { link }
    }

    /// The vat, on the connection of now or of soon.
    ///
    /// # Errors
    ///
    /// When it cannot be reached within the connect timeout.
    pub async fn vat(&self) -> capnp::Result<vat::Client> {
        Ok(self.link.connected().await?.vat())
    }

    /// The session that the credential opened.
    pub fn session(&self) -> session::Client {
        self.at(Path::Session)
    }

    /// The objects of the class whose interface is that of `C`.
    pub fn namespace<C: HasTypeId + FromClientHook>(&self) -> LocalNamespace<C> {
        self.space(Space::new(ClassKey::Interface(C::TYPE_ID)))
    }

    /// The objects of the class that is served under this name.
    pub fn namespace_named(&self, class: &str) -> LocalNamespace<capnp::capability::Client> {
        self.space(Space::new(ClassKey::Name(class.into())))
    }

    /// The capability that was saved as these bytes. Calls on it fail with `not-found` if they were
    /// never given out.
    pub fn restore<C: FromClientHook>(&self, sturdy_ref: &[u8]) -> C {
        self.at(Path::Restored(sturdy_ref.into()))
    }

    pub(crate) fn at<C: FromClientHook>(&self, path: Path) -> C {
        C::new(self.link.hook(path))
    }

    fn space<C>(&self, space: Space) -> LocalNamespace<C> {
        LocalNamespace {
            client: self.clone(),
            space,
            typed: PhantomData,
        }
    }
}

/// All objects of one class, for code on one thread. Nothing here does I/O.
pub struct LocalNamespace<C> {
    client: LocalClient,
    space: Space,
    typed: PhantomData<fn() -> C>,
}

impl<C> Clone for LocalNamespace<C> {
    fn clone(&self) -> Self {
        self.client.space(self.space.clone())
    }
}

impl<C: FromClientHook> LocalNamespace<C> {
    /// The object of that name. It comes into being with its first write.
    pub fn get(&self, name: &str) -> C {
        self.object(Key::Name(name.into()))
    }

    /// The object of that id.
    pub fn get_by_id(&self, id: ObjectId) -> C {
        self.object(Key::Id(id))
    }

    /// The object of that id. Calls on it fail with `not-found` while it has never come into being.
    pub fn get_existing(&self, id: ObjectId) -> C {
        self.object(Key::ExistingId(id))
    }

    /// The same class, narrowed to objects whose name starts with `prefix`.
    pub fn restrict(&self, prefix: &str) -> Self {
        self.client.space(self.space.restrict(prefix))
    }

    /// The namespace as a capability: for its other methods, and to be passed on.
    pub fn capability(&self) -> namespace::Client {
        self.client.at(Path::Namespace(self.space.clone()))
    }

    fn object(&self, key: Key) -> C {
        self.client.at(Path::Object(self.space.clone(), key))
    }
}
