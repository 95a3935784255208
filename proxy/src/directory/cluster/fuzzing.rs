//! A way in for the fuzz targets.

use std::{net::SocketAddr, time::Instant};

use mantlet_id::TrustDomain;
use mantlet_proto::directory as wire;

use super::{
    answer,
    book::{Book, News},
};
use crate::directory::{Answer, Destination, Endpoint, Fleet};

/// What the sidecar knows about one address after some answers.
#[derive(Default)]
pub struct Known {
    book: Book,
    fleet: Fleet,
}

/// What an address is by now.
#[derive(Debug)]
pub enum Is {
    /// Nobody has said, or nobody is there.
    Unknown,
    /// No workload of the mesh.
    NotMeshed,
    /// These endpoints.
    Meshed(Vec<Endpoint>),
}

// === impl Known ===

impl Known {
    /// Follows an address.
    pub fn follow(&mut self, addr: SocketAddr) {
        let _ = self.book.look(addr, Instant::now());
    }

    /// Takes an answer over, if it says something. Returns whether it does.
    pub fn take(&mut self, answer: &wire::Answer, own: &TrustDomain) -> bool {
        let said = answer::about(answer).and_then(|addr| Ok((addr, answer::says(answer, addr, own)?)));
        let Ok((addr, says)) = said else { return false };
        self.book.apply(addr, News::of(says, &self.fleet), Instant::now());
        true
    }

    /// What the address is.
    #[must_use]
    pub fn is(&self, addr: SocketAddr) -> Is {
        match self.book.says(addr) {
            Some(Answer::Goes(Destination::Mesh(endpoints))) => Is::Meshed(endpoints.current().to_vec()),
            Some(Answer::Unmeshed) => Is::NotMeshed,
            _ => Is::Unknown,
        }
    }
}
