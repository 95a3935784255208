//! The frames of an HTTP/2 connection, by their heads alone (RFC 9113, 4.1).

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    detect::H2_PREFACE,
    limits::{BYTES_PER_UPDATE, IDLE_FRAMES, RESETS, WINDOW_UPDATES},
    metrics::Limit,
};

const FRAME_HEAD: usize = 9;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;
/// The flag of HEADERS and CONTINUATION that ends a request head.
const END_HEADERS: u8 = 0x4;

/// Follows the frames that a peer sends.
#[derive(Default)]
pub(super) struct FrameScan {
    /// Bytes of the preface, or of the present payload, still to come.
    skip: usize,
    begun: bool,
    head: [u8; FRAME_HEAD],
    head_len: usize,
    /// A request head has begun and not ended.
    in_head: bool,
    second: Option<Instant>,
    /// Of the present second, with half of what was before.
    counts: Counts,
    /// The newest stream that the peer has opened.
    newest: u32,
}

#[derive(Default)]
struct Counts {
    idle: u32,
    updates: u32,
    opened: u32,
    resets: u32,
    /// Bytes that we have sent.
    sent: u64,
}

// === impl FrameScan ===

impl FrameScan {
    /// Looks at what was read. `Err`: the peer keeps us busy with frames that lead nowhere
    /// (CVE-2019-9512, CVE-2019-9515), or opens streams only to reset them (CVE-2023-44487).
    pub(super) fn follow(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> Result<(), Limit> {
        if !self.begun {
            self.begun = true;
            self.skip = H2_PREFACE.len();
        }
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            let wanted = (FRAME_HEAD - self.head_len).min(bytes.len());
            let (head, rest) = bytes.split_at(wanted);
            if let Some(place) = self.head.get_mut(self.head_len..self.head_len + wanted) {
                place.copy_from_slice(head);
            }
            self.head_len += wanted;
            bytes = rest;
            if self.head_len == FRAME_HEAD {
                self.head_len = 0;
                self.frame(&now)?;
            }
        }
        Ok(())
    }

    /// So many bytes were sent to the peer.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.counts.sent = self.counts.sent.saturating_add(bytes as u64);
    }

    /// Whether a request head is on its way.
    pub(super) fn is_in_head(&self) -> bool {
        let [.., kind, _, _, _, _, _] = self.head;
        self.in_head || (self.skip > 0 && matches!(kind, HEADERS | CONTINUATION))
    }

    /// A frame head is complete.
    fn frame(&mut self, now: &impl Fn() -> Instant) -> Result<(), Limit> {
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let counts = &mut self.counts;
        match kind {
            HEADERS => {
                counts.idle = 0;
                self.in_head = flags & END_HEADERS == 0;
                let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
                if stream > self.newest {
                    self.newest = stream;
                    counts.opened = counts.opened.saturating_add(1);
                }
            }
            CONTINUATION => self.in_head = flags & END_HEADERS == 0,
            DATA if self.skip > 0 => counts.idle = 0,
            WINDOW_UPDATE => {
                self.tick(now());
                let counts = &mut self.counts;
                counts.updates = counts.updates.saturating_add(1);
                if u64::from(counts.updates) > u64::from(WINDOW_UPDATES) + counts.sent / BYTES_PER_UPDATE {
                    return Err(Limit::Frames);
                }
            }
            RST_STREAM => {
                self.tick(now());
                let counts = &mut self.counts;
                counts.resets = counts.resets.saturating_add(1);
                if counts.resets > RESETS && counts.resets > counts.opened / 2 {
                    return Err(Limit::Resets);
                }
            }
            // DATA without a byte, PRIORITY, SETTINGS, PING; and types that nobody knows, which are read and
            // dropped (RFC 9113, 4.1).
            _ => {
                self.tick(now());
                self.counts.idle += 1;
                if self.counts.idle > IDLE_FRAMES {
                    return Err(Limit::Frames);
                }
            }
        }
        Ok(())
    }

    /// Begins a new second when one has passed. Half of what was counted stays: a burst that is cut in
    /// two by the clock is one burst.
    fn tick(&mut self, now: Instant) {
        if self.second.is_none_or(|begun| now.duration_since(begun) >= Duration::from_secs(1)) {
            self.second = Some(now);
            let Counts { updates, opened, resets, sent, .. } = self.counts;
            self.counts = Counts {
                idle: 0,
                updates: updates / 2,
                opened: opened / 2,
                resets: resets / 2,
                sent: sent / 2,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIORITY: u8 = 0x2;
    const SETTINGS: u8 = 0x4;
    const PING: u8 = 0x6;
    /// PRIORITY_UPDATE, which nobody here knows.
    const UNKNOWN: u8 = 0x10;

    fn frame(kind: u8, flags: u8, stream: u32, payload: usize) -> Vec<u8> {
        let length = payload as u32;
        let mut frame = vec![(length >> 16) as u8, (length >> 8) as u8, length as u8, kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.resize(FRAME_HEAD + payload, 0);
        frame
    }

    fn frames(kind: u8, payload: usize, count: usize) -> Vec<u8> {
        frame(kind, 0, 0, payload).repeat(count)
    }

    fn scan() -> FrameScan {
        let mut scan = FrameScan::default();
        scan.follow(H2_PREFACE, Instant::now).unwrap();
        scan
    }

    fn follow(pieces: &[&[u8]]) -> Result<(), Limit> {
        let (mut scan, start) = (scan(), Instant::now());
        pieces.iter().try_for_each(|piece| scan.follow(piece, || start))
    }

    /// So many streams, of which every `nth` is reset at once.
    fn streams(count: u32, nth: u32) -> Vec<u8> {
        let stream = |n: u32| {
            let mut bytes = frame(HEADERS, END_HEADERS, 2 * n + 1, 20);
            if n.is_multiple_of(nth) {
                bytes.extend(frame(RST_STREAM, 0, 2 * n + 1, 4));
            }
            bytes
        };
        (0..count).flat_map(stream).collect()
    }

    #[test]
    fn pings_without_progress_are_a_flood_and_pings_between_data_are_not() {
        assert!(follow(&[&frames(PING, 8, 200)]).is_ok());
        assert_eq!(follow(&[&frames(PING, 8, 201)]), Err(Limit::Frames));
        assert!(follow(&[&frames(SETTINGS, 0, 150), &frames(PING, 8, 51)]).is_err());
        let busy: Vec<u8> = (0..1000).flat_map(|_| [frames(6, 8, 1), frames(0, 5, 1)].concat()).collect();
        assert!(follow(&[&busy]).is_ok());
        for kind in [DATA, PRIORITY, SETTINGS, UNKNOWN] {
            assert!(follow(&[&frames(kind, 0, 200)]).is_ok());
            assert_eq!(follow(&[&frames(kind, 0, 201)]), Err(Limit::Frames), "type {kind} leads nowhere");
        }
    }

    #[test]
    fn frames_are_followed_however_they_are_packed() {
        let flood = frames(6, 8, 201);
        let bytes: Vec<&[u8]> = flood.chunks(1).collect();
        assert!(follow(&bytes).is_err());
        let mut hidden = frames(0, 9 * 300, 1);
        // A payload that looks like frames is a payload.
        let end = hidden.len();
        hidden[FRAME_HEAD..end].copy_from_slice(&frames(6, 0, 300));
        assert!(follow(&[&hidden]).is_ok());
    }

    #[test]
    fn resets_are_judged_by_how_many_streams_were_opened() {
        assert!(follow(&[&streams(100_000, 3)]).is_ok(), "an app that gives up on a third of its requests");
        assert!(follow(&[&streams(200, 1)]).is_ok(), "an app that gives up on two hundred at once");
        assert_eq!(follow(&[&streams(201, 1)]), Err(Limit::Resets));
        // Frames that pretend to open more than there are.
        let twice: Vec<u8> = (0..1000)
            .flat_map(|n| {
                let head = frame(HEADERS, END_HEADERS, 2 * n + 1, 20);
                [head.clone(), head.clone(), head, frame(RST_STREAM, 0, 2 * n + 1, 4)].concat()
            })
            .collect();
        assert_eq!(follow(&[&twice]), Err(Limit::Resets));
    }

    #[test]
    fn window_updates_need_a_reason() {
        assert_eq!(follow(&[&frames(8, 4, 201)]), Err(Limit::Frames));
        let (mut scan, start) = (scan(), Instant::now());
        for _ in 0..10_000 {
            // A stream of small events, each taken with an update for the stream and the connection.
            scan.sent(9 + 40);
            scan.follow(&frames(8, 4, 2), || start).unwrap();
        }
    }

    #[test]
    fn a_head_is_on_its_way_until_its_last_byte() {
        let mut scan = scan();
        let mut step = |bytes: &[u8]| {
            scan.follow(bytes, Instant::now).unwrap();
            scan.is_in_head()
        };
        let whole = frame(HEADERS, END_HEADERS, 1, 20);
        assert!(!step(&whole));
        assert!(step(&whole[..15]));
        assert!(!step(&whole[15..]));
        assert!(step(&frame(HEADERS, 0, 3, 20)));
        assert!(step(&frame(CONTINUATION, 0, 3, 20)));
        assert!(!step(&frame(CONTINUATION, END_HEADERS, 3, 20)));
        assert!(!step(&frame(DATA, 0, 3, 20)[..15]));
    }
}
