//! The peers of open connections, and whether the trust bundles still vouch for them.
//!
//! A handshake proves an identity once. When an authority is taken out of a bundle, what it vouched
//! for must end with it, in both directions and however idle the connection is.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use mantlet_identity::{Credentials, PeerIdentity};
use slab::Slab;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    io::BoxIo,
    lifetime,
    metrics::CloseReason,
    revoke::{Revoke, revocable},
};

/// The connections of one worker that end with an identity: that of the peer, or our own.
pub struct Vouchers {
    connections: Mutex<Slab<Entry>>,
    max_stale: Duration,
}

/// Whoever is at the other end, none for a caller without identity; and what ends the connection.
type Entry = (Option<Arc<PeerIdentity>>, Revoke);

/// The stream to a peer, which breaks when nobody vouches for the peer any more.
///
/// An HTTP library may keep a connection for its streams longer than anybody asks for it, and hands
/// the stream on when the protocol is switched: what must end with the peer is the stream itself.
pub struct Vouched {
    io: BoxIo,
    revoke: Revoke,
    end: Pin<Box<dyn Future<Output = CloseReason> + Send>>,
    ended: Option<CloseReason>,
    operations: u32,
}

/// The time of a stream is looked at whenever there is nothing to do, and at least after so many
/// operations: fewer than a task may do before it has to let others run, for then its timers rest too.
const LOOK_EVERY: u32 = 32;

/// How such a stream broke.
#[derive(Clone, Copy, Debug, Error)]
#[error("nobody vouches for the peer any more: {0}")]
pub struct Unvouched(CloseReason);

/// A connection's place among them, until it is dropped.
#[must_use]
pub struct Voucher {
    connections: Arc<Vouchers>,
    key: usize,
}

// === impl Vouchers ===

impl Vouchers {
    /// No connections yet. `max_stale` is how much longer than the peer's SVID one may last.
    #[must_use]
    pub fn new(max_stale: Duration) -> Self {
        Self { connections: Mutex::default(), max_stale }
    }

    /// Enters the connection behind `io`, for as long as that exists.
    pub fn stream(self: &Arc<Self>, io: BoxIo, peer: Arc<PeerIdentity>) -> Vouched {
        let vouchers = Arc::clone(self);
        let vouched_for = revocable(async move {
            let (not_after, max_stale) = (peer.not_after(), vouchers.max_stale);
            let _voucher = vouchers.enter(peer);
            lifetime::stale(Some(not_after), max_stale).await;
        });
        let revoke = vouched_for.handle();
        let end = async move {
            match vouched_for.await {
                Ok(()) => CloseReason::PeerExpired,
                Err(revoked) => revoked,
            }
        };
        Vouched { io, revoke, end: Box::pin(end), ended: None, operations: LOOK_EVERY - 1 }
    }

    /// Enters the connection that the calling code carries.
    pub fn enter(self: &Arc<Self>, peer: Arc<PeerIdentity>) -> Voucher {
        self.insert(Some(peer))
    }

    /// Enters the connection that the calling code carries, of a caller without identity: no bundle vouches
    /// for it, and it ends with our own identity like the others.
    pub fn enter_plaintext(self: &Arc<Self>) -> Voucher {
        self.insert(None)
    }

    /// How much longer than the peer's SVID a connection may last.
    #[must_use]
    pub fn max_stale(&self) -> Duration {
        self.max_stale
    }

    fn insert(self: &Arc<Self>, peer: Option<Arc<PeerIdentity>>) -> Voucher {
        let key = self.lock().insert((peer, Revoke::current()));
        Voucher { connections: Arc::clone(self), key }
    }

    /// Ends the connections of peers that `credentials` do not vouch for.
    pub fn reverify(&self, credentials: &Credentials) {
        let now = SystemTime::now();
        // Signatures are checked outside the lock.
        for (peer, revoke) in self.all() {
            if peer.is_some_and(|peer| credentials.reverify(&peer, now).is_err()) {
                revoke.revoke(CloseReason::Bundle);
            }
        }
    }

    /// Ends every connection.
    pub fn end_all(&self, reason: CloseReason) {
        for (_, revoke) in self.all() {
            revoke.revoke(reason);
        }
    }

    fn all(&self) -> Vec<Entry> {
        self.lock().iter().map(|(_, entry)| entry.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Entry>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Voucher ===

impl Drop for Voucher {
    fn drop(&mut self) {
        let entry = self.connections.lock().try_remove(self.key);
        drop(entry);
    }
}

// === impl Vouched ===

impl Vouched {
    /// Does one operation on the stream, unless it has ended. Whoever ends it is asked each time; the
    /// timer, which costs more, only now and then.
    fn operate<T>(
        &mut self,
        cx: &mut Context<'_>,
        operation: impl FnOnce(Pin<&mut BoxIo>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.ended.is_none() {
            self.ended = self.revoke.reason();
        }
        if self.ended.is_none() {
            let done = operation(Pin::new(&mut self.io), cx);
            self.operations = self.operations.wrapping_add(1);
            if done.is_ready() && !self.operations.is_multiple_of(LOOK_EVERY) {
                return done;
            }
            match self.end.as_mut().poll(cx) {
                Poll::Ready(reason) => self.ended = Some(reason),
                Poll::Pending => return done,
            }
        }
        let reason = self.ended.unwrap_or(CloseReason::PeerExpired);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, Unvouched(reason))))
    }
}

impl AsyncRead for Vouched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.operate(cx, |io, cx| io.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Vouched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.operate(cx, |io, cx| io.poll_write(cx, data))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.operate(cx, |io, cx| io.poll_write_vectored(cx, data))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.operate(cx, |io, cx| io.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

// === impl Unvouched ===

impl Unvouched {
    /// Why `error` happened, if it is the end of a [`Vouched`] stream.
    #[must_use]
    pub fn reason(error: &io::Error) -> Option<CloseReason> {
        error.get_ref()?.downcast_ref::<Self>().map(|unvouched| unvouched.0)
    }
}
