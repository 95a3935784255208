//! Reading bodies: each bounded, and all together.

use std::sync::Arc;

use bytes::Buf as _;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Largest body. A review holds an object twice, each with what the API server adds.
pub(super) const LARGEST: usize = 10 << 20;
/// Bytes of all bodies that are being read or judged.
const ALL: usize = 32 << 20;
/// What one permit stands for.
const UNIT: usize = 1 << 10;

/// Where bodies take their memory from. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<Semaphore>);

/// A body that has been read, and its share of the budget.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    shares: Vec<OwnedSemaphorePermit>,
}

/// Why a body has not been read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unread {
    /// It is larger than [`LARGEST`].
    TooLarge,
    /// Too much is being read already.
    Busy,
    /// The client stopped in the middle.
    Incomplete,
}

// === impl Budget ===

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ALL / UNIT)))
    }
}

impl Budget {
    /// Reads a body. Memory is taken as bytes arrive, so that announcing many and sending none takes none; nobody
    /// waits for memory, because those that hold some might wait for more themselves.
    pub(super) async fn read(&self, mut incoming: Incoming) -> Result<Body, Unread> {
        let announced = incoming.size_hint().exact().unwrap_or_default();
        if announced > LARGEST as u64 {
            return Err(Unread::TooLarge);
        }
        let mut body = Body { bytes: Vec::new(), shares: Vec::new() };
        let mut held = 0;
        while let Some(frame) = incoming.frame().await {
            let Ok(mut data) = frame.map_err(|_| Unread::Incomplete)?.into_data() else { continue };
            let length = body.bytes.len() + data.remaining();
            if length > LARGEST {
                return Err(Unread::TooLarge);
            }
            if length > held {
                // Ahead, in steps that double: few permits, and at most twice of what is there.
                let wanted = length.max(held * 2).clamp(16 << 10, LARGEST);
                let units = u32::try_from((wanted - held).div_ceil(UNIT)).unwrap_or(u32::MAX);
                let share = Arc::clone(&self.0).try_acquire_many_owned(units).map_err(|_| Unread::Busy)?;
                body.shares.push(share);
                held = wanted;
                body.bytes.reserve_exact(held - body.bytes.len());
            }
            while data.has_remaining() {
                let chunk = data.chunk();
                body.bytes.extend_from_slice(chunk);
                let length = chunk.len();
                data.advance(length);
            }
        }
        Ok(body)
    }
}
