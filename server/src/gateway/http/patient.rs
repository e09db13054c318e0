//! A connection whose other end has to read on, and hears the last answer.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// How long an end waits for a client that still sends. Were the connection closed at once, what comes
/// in afterwards would take the answer from it.
const LINGERING: Duration = Duration::from_secs(2);

/// How long a client that sends no more, and that nothing is sent to, is taken for one that waits for its
/// answer. It may as well be gone: the end of a connection looks the same.
const HALF_CLOSED: Duration = Duration::from_secs(5);

/// Something that is known of a client, on both sides of `hyper`.
#[derive(Clone, Default)]
pub(super) struct Flag(Arc<AtomicBool>);

impl Flag {
    pub fn set(&self, flag: bool) {
        self.0.store(flag, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection that fails when what is to be written cannot be for as long as its patience lasts, that
/// ends only when a client that still sends has had the time to hear the answer, and that a client may close
/// for its part when it has asked.
pub(super) struct Patient<S> {
    inner: S,
    patience: Duration,
    /// Whether the client has not sent the whole of what it has begun.
    unread: Flag,
    /// Whether it waits for an answer over HTTP/1.
    awaits: Flag,
    half_closed: Option<Pin<Box<Sleep>>>,
    waiting: Option<Pin<Box<Sleep>>>,
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub fn new(inner: S, patience: Duration, unread: Flag, awaits: Flag) -> Patient<S> {
        Patient {
            inner,
            patience,
            unread,
            awaits,
            half_closed: None,
            waiting: None,
            lingering: None,
        }
    }

    /// The connection by itself.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// Notes that a client that sends no more reads on.
    fn note(&mut self, written: &Poll<io::Result<usize>>) {
        if let (Poll::Ready(Ok(1..)), Some(over)) = (written, &mut self.half_closed) {
            over.as_mut().reset(Instant::now() + HALF_CLOSED);
        }
    }

    fn waited<T>(
        &mut self,
        cx: &mut Context<'_>,
        done: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.waiting = None;
            return done;
        }
        let patience = self.patience;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(sleep(patience)));
        let over = waiting.as_mut().poll(cx);
        over.map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, into))?;
        let is_end = into.filled().len() == before && into.remaining() > 0;
        if !is_end || !self.awaits.get() || self.unread.get() {
            return Poll::Ready(Ok(()));
        }
        // `hyper` would drop the request.
        let over = self
            .half_closed
            .get_or_insert_with(|| Box::pin(sleep(HALF_CLOSED)));
        over.as_mut().poll(cx).map(Ok)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.note(&written);
        self.waited(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.note(&written);
        self.waited(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.waited(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            let ended = Pin::new(&mut self.inner).poll_shutdown(cx);
            ready!(self.waited(cx, ended))?;
            if !self.unread.get() {
                return Poll::Ready(Ok(()));
            }
        }
        let this = &mut *self;
        let over = this
            .lingering
            .get_or_insert_with(|| Box::pin(sleep(LINGERING)));
        let mut space = [MaybeUninit::uninit(); 8 << 10];
        while over.as_mut().poll(cx).is_pending() {
            let mut heard = ReadBuf::uninit(&mut space);
            let more = Pin::new(&mut this.inner).poll_read(cx, &mut heard);
            if ready!(more).is_err() || heard.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::timeout,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_is_waited_for_and_who_does_not_is_not() {
        let (ours, mut theirs) = duplex(1);
        let mut ours = Patient::new(
            ours,
            Duration::from_secs(10),
            Flag::default(),
            Flag::default(),
        );
        let reads = async {
            for _ in 0..3 {
                sleep(Duration::from_secs(9)).await;
                theirs.read_u8().await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(ours.write_all(b"abcd"), reads);
        written.unwrap();
        let started = Instant::now();
        let error = ours.write_all(b"e").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn who_still_sends_is_heard_out_but_not_for_ever() {
        let patience = Duration::from_secs(10);
        let end = async |unread, closes| {
            let (ours, mut theirs) = duplex(1);
            let flag = Flag::default();
            flag.set(unread);
            let mut ours = Patient::new(ours, patience, flag, Flag::default());
            let started = Instant::now();
            let sends = async {
                for _ in 0..10 {
                    sleep(Duration::from_millis(100)).await;
                    if theirs.write_u8(0).await.is_err() {
                        return;
                    }
                }
                if closes {
                    drop(theirs)
                } else {
                    std::future::pending().await
                }
            };
            tokio::select! {
                ended = ours.shutdown() => ended.unwrap(),
                () = sends => {}
            }
            started.elapsed().as_millis()
        };
        assert_eq!(end(false, false).await, 0);
        assert_eq!(end(true, false).await, 2000);
        assert_eq!(end(true, true).await, 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_asked_may_send_no_more_as_long_as_it_reads() {
        let (ours, mut theirs) = duplex(9);
        theirs.shutdown().await.unwrap();
        let (unread, awaits) = (Flag::default(), Flag::default());
        let patience = Duration::from_secs(60);
        let mut ours = Patient::new(ours, patience, unread.clone(), awaits.clone());
        let mut heard = [0; 1];
        let started = Instant::now();
        // Nobody waits for an answer.
        assert_eq!(ours.read(&mut heard).await.unwrap(), 0);
        // What is not there whole will never be.
        awaits.set(true);
        unread.set(true);
        assert_eq!(ours.read(&mut heard).await.unwrap(), 0);
        unread.set(false);
        let four = Duration::from_secs(4);
        for _ in 0..3 {
            timeout(four, ours.read(&mut heard)).await.unwrap_err();
            ours.write_all(b"a").await.unwrap();
        }
        assert_eq!(ours.read(&mut heard).await.unwrap(), 0);
        assert_eq!(started.elapsed().as_secs(), 17);
    }
}
