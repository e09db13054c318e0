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
    time::{Sleep, sleep},
};

/// How long an end waits for a client that still sends. Were the connection closed at once, what comes
/// in afterwards would take the answer from it.
const LINGERING: Duration = Duration::from_secs(2);

/// Whether a client has not sent the whole of what it has begun.
#[derive(Clone, Default)]
pub(super) struct Unread(Arc<AtomicBool>);

impl Unread {
    pub fn set(&self, unread: bool) {
        self.0.store(unread, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection that fails when what is to be written cannot be for as long as its patience lasts, and
/// that ends only when a client that still sends has had the time to hear the answer.
pub(super) struct Patient<S> {
    inner: S,
    patience: Duration,
    unread: Unread,
    waiting: Option<Pin<Box<Sleep>>>,
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub fn new(inner: S, patience: Duration, unread: Unread) -> Patient<S> {
        Patient {
            inner,
            patience,
            unread,
            waiting: None,
            lingering: None,
        }
    }

    /// The connection by itself.
    pub fn into_inner(self) -> S {
        self.inner
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
        Pin::new(&mut self.inner).poll_read(cx, into)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.waited(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
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
        time::Instant,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_is_waited_for_and_who_does_not_is_not() {
        let (ours, mut theirs) = duplex(1);
        let mut ours = Patient::new(ours, Duration::from_secs(10), Unread::default());
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
            let flag = Unread::default();
            flag.set(unread);
            let mut ours = Patient::new(ours, patience, flag);
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
}
