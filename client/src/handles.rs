//! Namespaces and stubs for code on any thread.

use std::{
    future::Future,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use capnp::capability::FromClientHook;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use vatwerk::{
    ObjectId,
    object_capnp::{namespace, stub},
};

use crate::{
    Error, Identity, ObjectInfo, ObjectKey, ObjectStatus, Page, Result,
    object::{read_id, some},
    path::{Key, Path, Space},
    worker::{Call, Handle},
};

/// How many objects are asked for at a time by [`Namespace::list`].
const PAGE: u32 = 500;

/// A capability on the client's thread, kept there while this is held.
pub(crate) struct Pinned {
    handle: Handle,
    id: u64,
    path: Path,
}

impl Pinned {
    pub(crate) fn new(handle: Handle, path: Path) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Pinned {
            handle,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            path,
        })
    }

    fn call<C, T, F, Fut>(self: &Arc<Self>, task: F) -> Call<T>
    where
        C: FromClientHook + 'static,
        T: Send + 'static,
        F: FnOnce(C) -> Fut + Send + 'static,
        Fut: Future<Output = capnp::Result<T>> + 'static,
    {
        let pinned = self.clone();
        self.handle
            .submit(move |worker| task(worker.pinned(pinned.id, &pinned.path)))
    }

    fn local<C: FromClientHook>(&self) -> capnp::Result<C> {
        let worker = self.handle.here().ok_or_else(|| {
            capnp::Error::failed(
                "this is not the client's thread: use it inside of a call".to_owned(),
            )
        })?;
        Ok(worker.pinned(self.id, &self.path))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.handle.unpin(self.id);
    }
}

/// All objects of one class. `C` is the generated client of the class's interface, such as
/// `chat::Client`.
pub struct Namespace<C> {
    pinned: Arc<Pinned>,
    space: Space,
    typed: PhantomData<fn() -> C>,
}

/// One object, for ever. It outlives the object's instances, the connection and the vat's process:
/// a call that finds the connection gone makes a new one first.
///
/// Calls made on a stub, or on its clones, reach the object in the order they were made. That is so
/// across threads too, as far as the threads have an order.
pub struct Stub<C> {
    pinned: Arc<Pinned>,
    typed: PhantomData<fn() -> C>,
}

impl<C> Clone for Namespace<C> {
    fn clone(&self) -> Self {
        Namespace {
            pinned: self.pinned.clone(),
            space: self.space.clone(),
            typed: PhantomData,
        }
    }
}

impl<C> Clone for Stub<C> {
    fn clone(&self) -> Self {
        Stub::new(self.pinned.clone(), PhantomData)
    }
}

impl<C> Namespace<C> {
    pub(crate) fn new(handle: Handle, space: Space) -> Self {
        Namespace {
            pinned: Pinned::new(handle, Path::Namespace(space.clone())),
            space,
            typed: PhantomData,
        }
    }

    /// The object of that name: 1 to 1024 bytes. No I/O; the object comes into being with its first write.
    pub fn get(&self, name: &str) -> Stub<C> {
        self.stub(Key::Name(name.into()))
    }

    /// The object of that id. No I/O; calls fail with `invalid-argument` if it is one of another
    /// class.
    pub fn get_by_id(&self, id: ObjectId) -> Stub<C> {
        self.stub(Key::Id(id))
    }

    /// The object of that id, if it has come into being. No I/O; calls fail with `not-found` until
    /// then.
    pub fn get_existing(&self, id: ObjectId) -> Stub<C> {
        self.stub(Key::ExistingId(id))
    }

    /// The id that a name stands for. The same for ever, on every vat that serves the class.
    pub async fn id_from_name(&self, name: &str) -> Result<ObjectId> {
        let name = name.to_owned();
        self.call(async move |namespace| {
            let mut request = namespace.id_from_name_request();
            request.get().set_object_name(name.as_str());
            read_id(request.send().promise.await?.get()?.get_id()?)
        })
        .await
    }

    /// A new object, that no name stands for and whose id nobody can guess.
    pub async fn unique(&self) -> Result<Stub<C>> {
        Ok(self.get_by_id(self.unique_id().await?))
    }

    /// The id of a new object.
    pub async fn unique_id(&self) -> Result<ObjectId> {
        self.call(async |namespace| {
            let answer = namespace.new_unique_id_request().send().promise.await?;
            read_id(answer.get()?.get_id()?)
        })
        .await
    }

    /// The objects that have come into being and whose name starts with `prefix`, in the byte order
    /// of their names, then, if `prefix` is empty, those without a name. Pages are asked for as the
    /// stream is read, so it need not be of one moment. It ends after an error.
    pub fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectInfo>>
    where
        C: 'static,
    {
        let (namespace, prefix) = (self.clone(), prefix.to_owned());
        let pages = stream::try_unfold(Some(String::new()), move |after| {
            let (namespace, prefix) = (namespace.clone(), prefix.clone());
            async move {
                let Some(after) = after else {
                    return Ok::<_, Error>(None);
                };
                let page = namespace.list_page(&prefix, &after, PAGE).await?;
                let objects = stream::iter(page.objects.into_iter().map(Ok));
                Ok(Some((objects, page.next)))
            }
        });
        pages.try_flatten().boxed()
    }

    /// One page of [`list`](Namespace::list): at most `limit` (1 to 1000) objects after the `next`
    /// of the page before, or, if that is empty, from the first.
    pub async fn list_page(&self, prefix: &str, after: &str, limit: u32) -> Result<Page> {
        let (prefix, after) = (prefix.to_owned(), after.to_owned());
        self.call(async move |namespace| {
            let mut request = namespace.list_request();
            request.get().set_prefix(prefix.as_str());
            request.get().set_after(after.as_str());
            request.get().set_limit(limit);
            let answer = request.send().promise.await?;
            Page::read(answer.get()?)
        })
        .await
    }

    /// How many objects [`list`](Namespace::list) lists with this prefix.
    pub async fn count(&self, prefix: &str) -> Result<u64> {
        let prefix = prefix.to_owned();
        self.call(async move |namespace| {
            let mut request = namespace.count_request();
            request.get().set_prefix(prefix.as_str());
            Ok(request.send().promise.await?.get()?.get_count())
        })
        .await
    }

    /// What an object looks like at the moment, by its name or its id. Does not wake it, and does not
    /// make it.
    pub async fn show(&self, key: impl Into<ObjectKey>) -> Result<ObjectStatus> {
        let key = key.into();
        self.call(async move |namespace| {
            let mut request = namespace.show_request();
            key.write(request.get().init_key());
            ObjectStatus::read(request.send().promise.await?.get()?.get_status()?)
        })
        .await
    }

    /// Deletes an object for good, by its name or its id: its storage, its alarms, and its place in
    /// listings. Says whether there was anything to delete, once that is on disk. Calls on it that are
    /// in flight fail with `object-reset`. Stubs still name it: the next call makes it anew.
    pub async fn delete(&self, key: impl Into<ObjectKey>) -> Result<bool> {
        let key = key.into();
        self.call(async move |namespace| {
            let mut request = namespace.delete_request();
            key.write(request.get().init_key());
            Ok(request.send().promise.await?.get()?.get_existed())
        })
        .await
    }

    /// Ends the instance of an object that is stuck, by its name or its id, and keeps what is stored. Says
    /// whether there was one, once it is gone. Calls that run fail with `object-reset`; those that are
    /// queued go to the next instance.
    pub async fn reset(&self, key: impl Into<ObjectKey>) -> Result<bool> {
        let key = key.into();
        self.call(async move |namespace| {
            let mut request = namespace.reset_request();
            key.write(request.get().init_key());
            Ok(request.send().promise.await?.get()?.get_was_awake())
        })
        .await
    }

    /// The same class, narrowed to objects whose name starts with `prefix`. No I/O.
    pub fn restrict(&self, prefix: &str) -> Namespace<C> {
        Namespace::new(self.pinned.handle.clone(), self.space.restrict(prefix))
    }

    /// Calls the namespace itself: see [`Stub::call`].
    pub fn call<T, F, Fut>(&self, task: F) -> Call<T>
    where
        T: Send + 'static,
        F: FnOnce(namespace::Client) -> Fut + Send + 'static,
        Fut: Future<Output = capnp::Result<T>> + 'static,
    {
        self.pinned.call(task)
    }

    /// The namespace as a capability, to be passed on in a call.
    ///
    /// # Errors
    ///
    /// On any thread but the client's: see [`Stub::local`].
    pub fn local(&self) -> capnp::Result<namespace::Client> {
        self.pinned.local()
    }

    fn stub(&self, key: Key) -> Stub<C> {
        let path = Path::Object(self.space.clone(), key);
        Stub::new(Pinned::new(self.pinned.handle.clone(), path), PhantomData)
    }
}

impl<C> Stub<C> {
    pub(crate) fn new(pinned: Arc<Pinned>, typed: PhantomData<fn() -> C>) -> Self {
        Stub { pinned, typed }
    }

    /// Calls the object. The closure gets the generated client of its interface and runs, begun at
    /// once, on the client's thread, which it must not block; it may make any number of calls, and
    /// use the capabilities that they return. Only what it returns leaves the thread.
    ///
    /// ```no_run
    /// # use vatwerk::counter_capnp::counter;
    /// # async fn example(stub: vatwerk_client::Stub<counter::Client>) -> vatwerk_client::Result<()> {
    /// let count = stub
    ///     .call(async |counter| {
    ///         let mut request = counter.increment_request();
    ///         request.get().set_amount(5);
    ///         Ok(request.send().promise.await?.get()?.get_count())
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// Closures given one after another are begun in that order, each up to its first `await`. So
    /// calls arrive in order without being awaited in between.
    ///
    /// # Errors
    ///
    /// What the closure returns, as [`Error::Call`](crate::Error::Call). A call that is under way
    /// when the connection or the object's instance goes away fails with a code for which
    /// [`is_retryable`](crate::Error::is_retryable) holds, and may have run: it is for the caller
    /// to know whether it may be repeated.
    pub fn call<T, F, Fut>(&self, task: F) -> Call<T>
    where
        C: FromClientHook + 'static,
        T: Send + 'static,
        F: FnOnce(C) -> Fut + Send + 'static,
        Fut: Future<Output = capnp::Result<T>> + 'static,
    {
        self.pinned.call(task)
    }

    /// The object as a capability, inside of the closure of a call, to be passed to another object.
    ///
    /// # Errors
    ///
    /// On any thread but the client's: such a capability cannot leave it.
    pub fn local(&self) -> capnp::Result<C>
    where
        C: FromClientHook,
    {
        self.pinned.local()
    }

    /// The same object by another of its interfaces: no I/O and no check.
    pub fn cast<D>(&self) -> Stub<D> {
        Stub::new(self.pinned.clone(), PhantomData)
    }

    /// Which object this is. Does not wake it.
    pub async fn identify(&self) -> Result<Identity> {
        self.cast::<stub::Client>()
            .call(async |stub| {
                let answer = stub.identify_request().send().promise.await?;
                let answer = answer.get()?;
                Ok(Identity {
                    id: read_id(answer.get_id()?)?,
                    name: some(answer.get_object_name()?.to_string()?),
                    class: answer.get_class_name()?.to_string()?,
                    interface_id: answer.get_interface_id(),
                })
            })
            .await
    }

    /// Saves this reference as bytes for [`Client::restore`](crate::Client::restore), also after
    /// restarts of the vat. Whoever holds the bytes holds the object. `label`, of at most 1024
    /// bytes, is for whoever lists references later.
    pub async fn persist(&self, label: &str) -> Result<Vec<u8>> {
        let label = label.to_owned();
        self.cast::<stub::Client>()
            .call(async move |stub| {
                let mut request = stub.persist_request();
                request.get().set_label(label.as_str());
                let answer = request.send().promise.await?;
                Ok(answer.get()?.get_sturdy_ref()?.to_vec())
            })
            .await
    }
}
