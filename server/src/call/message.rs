//! Messages that own their capabilities.

use std::{cell::Cell, rc::Rc};

use capnp::{
    Error, any_pointer,
    capability::Promise,
    message::{Builder, HeapAllocator},
    private::capability::{
        ClientHook, ParamsHook, PipelineHook, RequestHook, ResponseHook, ResultsHook,
    },
    traits::{Imbue, ImbueMut},
};

/// The capabilities of one message, by the index that its pointers hold.
pub type Caps = Vec<Option<Box<dyn ClientHook>>>;

/// Most messages fit: 64 words. `capnp`'s own default is 1024, zeroed each time.
const FIRST_SEGMENT_WORDS: u32 = 64;

/// One parameters or results struct, with the capabilities in it.
pub struct Message {
    body: Builder<HeapAllocator>,
    caps: Caps,
}

impl Message {
    /// An empty message, with room for `words` before it needs a second segment.
    pub fn new(words: Option<u64>) -> Message {
        let words = words.map_or(FIRST_SEGMENT_WORDS, |words| {
            u32::try_from(words + 1)
                .unwrap_or(u32::MAX)
                .max(FIRST_SEGMENT_WORDS)
        });
        let allocator = HeapAllocator::new().first_segment_words(words);
        Message {
            body: Builder::new(allocator),
            caps: Caps::new(),
        }
    }

    /// A message that was written elsewhere, without capabilities.
    pub fn written(body: Builder<HeapAllocator>) -> Message {
        let caps = Caps::new();
        Message { body, caps }
    }

    /// A copy of what `reader` points to.
    pub fn copy_of(reader: any_pointer::Reader<'_>) -> capnp::Result<Message> {
        let mut message = Message::new(Some(reader.target_size()?.word_count));
        message.root().set_as(reader)?;
        Ok(message)
    }

    /// Where the struct is written.
    pub fn root(&mut self) -> any_pointer::Builder<'_> {
        let mut root: any_pointer::Builder<'_> = self
            .body
            .get_root()
            .expect("the root of a builder is an untyped pointer");
        root.imbue_mut(&mut self.caps);
        root
    }

    /// The struct.
    pub fn reader(&self) -> capnp::Result<any_pointer::Reader<'_>> {
        let mut root: any_pointer::Reader<'_> = self.body.get_root_as_reader()?;
        root.imbue(&self.caps);
        Ok(root)
    }

    /// Replaces each capability by what `cross` makes of it.
    pub fn map_caps(&mut self, cross: impl Fn(Box<dyn ClientHook>) -> Box<dyn ClientHook>) {
        for cap in self.caps.iter_mut().flatten() {
            *cap = cross(cap.add_ref());
        }
    }
}

impl ParamsHook for Message {
    fn get(&self) -> capnp::Result<any_pointer::Reader<'_>> {
        self.reader()
    }
}

/// A response, which the pipeline of its call shares.
pub struct SharedResponse(pub Rc<Message>);

impl ResponseHook for SharedResponse {
    fn get(&self) -> capnp::Result<any_pointer::Reader<'_>> {
        self.0.reader()
    }
}

/// Whether any capability is in what `reader` points to.
pub fn has_caps(reader: any_pointer::Reader<'_>) -> capnp::Result<bool> {
    Ok(reader.target_size()?.cap_count > 0)
}

/// Walks a capability to the end of what it has resolved to so far. To be done with every
/// capability from outside before it is used or compared: `capnp-rpc` panics, or waits for ever, on
/// some promises that have resolved away from their connection.
pub fn settled(mut cap: Box<dyn ClientHook>) -> Box<dyn ClientHook> {
    while let Some(next) = cap.get_resolved() {
        cap = next;
    }
    cap
}

/// Where results come back to when the method lets go of them.
#[derive(Default)]
pub struct ResultsCell {
    message: Cell<Option<Message>>,
    returned: Cell<bool>,
    /// A copy of what was there when the method called `set_pipeline`.
    pub early: Cell<Option<Message>>,
}

impl ResultsCell {
    /// What the method wrote; `None` if nothing. An error if it still holds on to it.
    pub fn take(&self) -> capnp::Result<Option<Message>> {
        if !self.returned.get() {
            return Err(Error::failed(
                "the method ended before it let go of its results".into(),
            ));
        }
        Ok(self.message.take())
    }
}

/// The results that a method writes. Where they are sent, and when, is not the method's business.
pub struct Results {
    message: Option<Message>,
    back: Rc<ResultsCell>,
}

impl Results {
    /// Results that come back through `back`.
    pub fn new(back: Rc<ResultsCell>) -> Results {
        Results {
            message: None,
            back,
        }
    }
}

impl Drop for Results {
    fn drop(&mut self) {
        self.back.message.set(self.message.take());
        self.back.returned.set(true);
    }
}

impl ResultsHook for Results {
    fn get(&mut self) -> capnp::Result<any_pointer::Builder<'_>> {
        Ok(self
            .message
            .get_or_insert_with(|| Message::new(None))
            .root())
    }

    fn set_pipeline(&mut self) -> capnp::Result<()> {
        if let Some(message) = &self.message {
            self.back
                .early
                .set(Some(Message::copy_of(message.reader()?)?));
        }
        Ok(())
    }

    fn allow_cancellation(&self) {
        // A turn is never cancelled half way, so there is nothing to allow.
    }

    fn tail_call(self: Box<Self>, mut request: Box<dyn RequestHook>) -> Promise<(), Error> {
        let _ = request.get();
        let response = request.send().promise;
        Promise::from_future(async move {
            let mut this = self;
            let response = response.await?;
            this.get()?.set_as(response.get()?)
        })
    }

    fn direct_tail_call(
        self: Box<Self>,
        request: Box<dyn RequestHook>,
    ) -> (Promise<(), Error>, Box<dyn PipelineHook>) {
        let sent = request.send();
        let pipeline = sent.pipeline.hook.add_ref();
        let done = Promise::from_future(async move {
            let mut this = self;
            let response = sent.promise.await?;
            this.get()?.set_as(response.get()?)
        });
        (done, pipeline)
    }
}
