//! The counters of the directory.

use std::{
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    time::SystemTime,
};

use super::{
    DIRECTORY_ANSWERS, DIRECTORY_CERT_NOT_AFTER, DIRECTORY_CONNECTIONS, DIRECTORY_FOLLOWED,
    DIRECTORY_HANDSHAKES, DIRECTORY_LEFT_OUT, DIRECTORY_MIXED, DIRECTORY_NO_ROOM, DIRECTORY_OBJECTS,
    DIRECTORY_READY, DIRECTORY_REFUSED, DIRECTORY_RELISTS, DIRECTORY_STREAM_ENDS, DIRECTORY_SUBSCRIBERS,
    DIRECTORY_SYNC, DIRECTORY_WATCH_ERRORS, Family,
    exposition::Text,
    registry::bump,
    words::{Caller, Refused, Room, Said, StreamEnd, Watched},
};

/// The limits that a connection can run into.
const LIMITS: [Refused; 2] = [Refused::Connections, Refused::Address];
const KINDS: usize = Watched::ALL.len();

/// Every counter of the directory.
#[derive(Debug, Default)]
pub(crate) struct DirectoryMetrics {
    ready: AtomicBool,
    connections: AtomicI64,
    handshakes: [AtomicU64; Caller::ALL.len()],
    refused: [AtomicU64; LIMITS.len()],
    no_room: [AtomicU64; Room::ALL.len()],
    subscribers: AtomicI64,
    followed: AtomicI64,
    answers: [AtomicU64; Said::ALL.len()],
    stream_ends: [AtomicU64; StreamEnd::ALL.len()],
    objects: [AtomicU64; KINDS],
    watch_errors: [AtomicU64; KINDS],
    relists: [AtomicU64; KINDS],
    syncs: [AtomicU64; KINDS],
    left_out: AtomicU64,
    mixed: AtomicU64,
    cert_not_after: AtomicU64,
}

// === impl DirectoryMetrics ===

impl DirectoryMetrics {
    pub(crate) fn ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    pub(crate) fn connections(&self, change: i64) {
        self.connections.fetch_add(change, Ordering::Relaxed);
    }

    pub(crate) fn handshake(&self, result: Caller) {
        bump(self.handshakes.get(result as usize));
    }

    pub(crate) fn refused(&self, limit: Refused) {
        let at = LIMITS.iter().position(|known| *known == limit);
        bump(at.and_then(|at| self.refused.get(at)));
    }

    /// An address that was asked about is not followed.
    pub(crate) fn no_room(&self, limit: Room) {
        bump(self.no_room.get(limit as usize));
    }

    pub(crate) fn subscribers(&self, change: i64) {
        self.subscribers.fetch_add(change, Ordering::Relaxed);
    }

    pub(crate) fn followed(&self, change: i64) {
        self.followed.fetch_add(change, Ordering::Relaxed);
    }

    pub(crate) fn answer(&self, says: Said) {
        bump(self.answers.get(says as usize));
    }

    pub(crate) fn stream_end(&self, reason: StreamEnd) {
        bump(self.stream_ends.get(reason as usize));
    }

    /// Objects of each kind, in the order of [`Watched`].
    pub(crate) fn objects(&self, counts: [usize; KINDS]) {
        for (gauge, count) in self.objects.iter().zip(counts) {
            gauge.store(count as u64, Ordering::Relaxed);
        }
    }

    pub(crate) fn watch_error(&self, kind: Watched) {
        bump(self.watch_errors.get(kind as usize));
    }

    pub(crate) fn relist(&self, kind: Watched) {
        bump(self.relists.get(kind as usize));
    }

    /// The API server has just said something.
    pub(crate) fn sync(&self, kind: Watched) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if let Some(gauge) = self.syncs.get(kind as usize) {
            gauge.store(now.as_secs(), Ordering::Relaxed);
        }
    }

    pub(crate) fn reviews(&self, left_out: usize, mixed: usize) {
        self.left_out.store(left_out as u64, Ordering::Relaxed);
        self.mixed.store(mixed as u64, Ordering::Relaxed);
    }

    /// When the own SVID expires; `None` without one.
    pub(crate) fn certificate(&self, not_after: Option<SystemTime>) {
        let since = not_after.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        self.cert_not_after.store(since.unwrap_or_default().as_secs(), Ordering::Relaxed);
    }

    pub(super) fn write(&self, text: &mut Text) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let gauge = |counter: &AtomicI64| counter.load(Ordering::Relaxed) as f64;
        text.single(&DIRECTORY_READY, f64::from(u8::from(self.ready.load(Ordering::Relaxed))));
        text.single(&DIRECTORY_CONNECTIONS, gauge(&self.connections));
        let mut all =
            |family: &Family, words: &mut dyn Iterator<Item = &'static str>, counters: &[AtomicU64]| {
                text.family(family);
                for (word, counter) in words.zip(counters) {
                    text.series(family, &[word], of(counter));
                }
            };
        let kinds = || Watched::ALL.iter().map(|kind| kind.as_str());
        all(&DIRECTORY_HANDSHAKES, &mut Caller::ALL.iter().map(|of| of.as_str()), &self.handshakes);
        all(&DIRECTORY_REFUSED, &mut LIMITS.iter().map(|of| of.as_str()), &self.refused);
        all(&DIRECTORY_NO_ROOM, &mut Room::ALL.iter().map(|of| of.as_str()), &self.no_room);
        all(&DIRECTORY_ANSWERS, &mut Said::ALL.iter().map(|of| of.as_str()), &self.answers);
        all(&DIRECTORY_STREAM_ENDS, &mut StreamEnd::ALL.iter().map(|of| of.as_str()), &self.stream_ends);
        all(&DIRECTORY_OBJECTS, &mut kinds(), &self.objects);
        all(&DIRECTORY_WATCH_ERRORS, &mut kinds(), &self.watch_errors);
        all(&DIRECTORY_RELISTS, &mut kinds(), &self.relists);
        all(&DIRECTORY_SYNC, &mut kinds(), &self.syncs);
        text.single(&DIRECTORY_SUBSCRIBERS, gauge(&self.subscribers));
        text.single(&DIRECTORY_FOLLOWED, gauge(&self.followed));
        text.single(&DIRECTORY_LEFT_OUT, of(&self.left_out));
        text.single(&DIRECTORY_MIXED, of(&self.mixed));
        text.single(&DIRECTORY_CERT_NOT_AFTER, of(&self.cert_not_after));
    }
}
