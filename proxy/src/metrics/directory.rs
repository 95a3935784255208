//! The cluster's directory, as the sidecar sees it.

use std::{fmt, time::SystemTime};

use prometheus_client::{
    encoding::{EncodeLabelSet, LabelSetEncoder},
    metrics::{counter::Counter, gauge::Gauge},
};

use super::{
    DirectoryAnswer, DirectoryEnd, DirectoryState, DirectoryWait, Metrics,
    catalog::{Catalog, NoLabels, about},
    family::{Closed, flag},
    labels::{ClosedLabels, Labels, closed_labels, label_set},
    vocabulary::Word,
};

closed_labels!(StateLabels { state: DirectoryState });
closed_labels!(AnswerLabels { kind: DirectoryAnswer });
closed_labels!(EndLabels { reason: DirectoryEnd });
closed_labels!(WaitLabels { result: DirectoryWait });

/// The families about the directory; without one they count nothing.
pub(super) struct Directory {
    stream: Closed<StateLabels, Gauge>,
    ends: Closed<EndLabels, Counter>,
    answers: Closed<AnswerLabels, Counter>,
    waits: Closed<WaitLabels, Counter>,
    addresses: Gauge,
    last_contact: Gauge,
}

// === impl Directory ===

impl Directory {
    pub(super) fn new() -> Self {
        let directory = Self {
            stream: Closed::default(),
            ends: Closed::default(),
            answers: Closed::default(),
            waits: Closed::default(),
            addresses: Gauge::default(),
            last_contact: Gauge::default(),
        };
        directory.is(DirectoryState::None);
        directory.ends.complete();
        directory.answers.complete();
        directory.waits.complete();
        directory
    }

    fn is(&self, now: DirectoryState) {
        for state in DirectoryState::ALL.iter().copied() {
            flag(self.stream.get(StateLabels { state }), state == now);
        }
    }

    pub(super) fn register(&self, to: &mut Catalog) {
        to.add::<StateLabels>(
            about("mantlet_directory_stream", "1 for what the stream to the cluster's directory is")
                .minimal(),
            self.stream.clone(),
        );
        to.add::<EndLabels>(
            about("mantlet_directory_stream_ends", "Streams to the directory that ended or did not begin"),
            self.ends.clone(),
        );
        to.add::<AnswerLabels>(
            about("mantlet_directory_answers", "Answers of the directory"),
            self.answers.clone(),
        );
        to.add::<WaitLabels>(
            about("mantlet_directory_waits", "Connections to what the directory had not told yet"),
            self.waits.clone(),
        );
        to.add::<NoLabels>(
            about("mantlet_directory_addresses", "Addresses that are followed in the directory"),
            self.addresses.clone(),
        );
        to.add::<NoLabels>(
            about(
                "mantlet_directory_last_contact_timestamp",
                "When the directory was last there: what is known is as old, at most",
            )
            .seconds(),
            self.last_contact.clone(),
        );
    }
}

// === impl Metrics ===

impl Metrics {
    /// Says what the stream to the directory is.
    pub fn directory_is(&self, now: DirectoryState) {
        self.directory.is(now);
    }

    /// Counts a stream that ended.
    pub fn directory_ended(&self, reason: DirectoryEnd) {
        self.directory.ends.get(EndLabels { reason }).inc();
    }

    /// Counts an answer.
    pub fn directory_answered(&self, kind: DirectoryAnswer) {
        self.directory.answers.get(AnswerLabels { kind }).inc();
    }

    /// Counts a connection that waited for an answer.
    pub fn directory_waited(&self, result: DirectoryWait) {
        self.directory.waits.get(WaitLabels { result }).inc();
    }

    /// So many addresses are followed.
    pub fn directory_follows(&self, addresses: usize) {
        self.directory.addresses.set(i64::try_from(addresses).unwrap_or(i64::MAX));
    }

    /// The directory is there now.
    pub fn directory_heard(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.directory.last_contact.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }
}
