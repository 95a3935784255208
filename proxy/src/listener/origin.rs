//! Where a connection wanted to go before it came here.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    sync::Arc,
};

use thiserror::Error;

use super::OwnCalls;
use crate::{
    addr::{ClientAddr, OrigDst},
    metrics::Direction,
    sys,
};

/// How a listener knows where its clients wanted to go.
#[derive(Clone, Debug)]
pub enum Origin {
    /// An explicit listener in front of one place.
    Fixed(OrigDst),
    /// An explicit listener that the client meant to dial.
    Local,
    /// The kernel redirected the client here, and remembers.
    Redirected(Arc<Interception>),
    /// The client is this sidecar, on the way to its own pod.
    Own(Arc<OwnCalls>),
}

/// What must be known of a pod to tell its redirected connections from others.
#[derive(Clone, Debug)]
pub struct Interception {
    /// Which way the listener's connections go.
    pub direction: Direction,
    /// The pod's addresses.
    pub pod_ips: Arc<[IpAddr]>,
    /// The sidecar's ports. Nobody is forwarded to them: a connection would come back here for ever.
    pub own_ports: Arc<[u16]>,
}

/// A connection that has no business on an intercepted listener. It is closed, and nothing is ever
/// guessed: a default such as "then it must mean the local address" is an endless loop, or a way around
/// the rules.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Misdirected {
    /// Somebody dialled the listener itself, or nothing in this network namespace redirects.
    #[error("the connection to {0} was not redirected")]
    NotRedirected(SocketAddr),
    /// It was redirected on its way to the sidecar.
    #[error("{0} is the sidecar itself")]
    Loop(SocketAddr),
    /// It came in, but was meant for another host.
    #[error("{0} is no address of this pod")]
    Elsewhere(SocketAddr),
}

// === impl Origin ===

impl Origin {
    /// Who connected, from `client` to `local`, and where it wanted to go.
    pub(super) fn of(
        &self,
        tcp: &impl AsFd,
        client: SocketAddr,
        local: SocketAddr,
    ) -> (ClientAddr, Result<OrigDst, Misdirected>) {
        let wanted = match self {
            Self::Fixed(orig_dst) => Ok(*orig_dst),
            Self::Local => Ok(OrigDst(local)),
            Self::Redirected(interception) => {
                interception.judge(sys::original_destination(tcp), local).map(OrigDst)
            }
            Self::Own(calls) => match calls.taken(client) {
                // It comes from the pod, and not from the loopback address that carries it.
                Some(to) => return (ClientAddr(SocketAddr::new(to.0.ip(), client.port())), Ok(to)),
                None => Err(Misdirected::NotRedirected(local)),
            },
        };
        (ClientAddr(client), wanted)
    }
}

// === impl Interception ===

impl Interception {
    fn judge(&self, original: Option<SocketAddr>, local: SocketAddr) -> Result<SocketAddr, Misdirected> {
        let wanted = original
            .filter(|wanted| (wanted.ip(), wanted.port()) != (local.ip(), local.port()))
            .ok_or(Misdirected::NotRedirected(local))?;
        let of_the_pod = self.pod_ips.contains(&wanted.ip());
        let here = of_the_pod || wanted.ip().is_loopback() || wanted.ip() == local.ip();
        if here && self.own_ports.contains(&wanted.port()) {
            return Err(Misdirected::Loop(wanted));
        }
        match self.direction {
            Direction::Inbound if !of_the_pod => Err(Misdirected::Elsewhere(wanted)),
            // The rules leave loopback alone, so who comes from there did not come by the rules.
            Direction::Outbound if wanted.ip().is_loopback() => Err(Misdirected::NotRedirected(local)),
            Direction::Inbound | Direction::Outbound => Ok(wanted),
        }
    }
}

// === impl Misdirected ===

impl Misdirected {
    /// The address that it was found at.
    #[must_use]
    pub fn addr(self) -> SocketAddr {
        match self {
            Self::NotRedirected(addr) | Self::Loop(addr) | Self::Elsewhere(addr) => addr,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(direction: Direction, original: Option<&str>) -> Result<SocketAddr, Misdirected> {
        let pod_ips = ["10.244.1.5", "fd00:10:244:1::5"].map(|ip| ip.parse().unwrap());
        let interception =
            Interception { direction, pod_ips: pod_ips.into(), own_ports: [24140, 24143, 24190].into() };
        let local = match direction {
            Direction::Inbound => "10.244.1.5:24143",
            Direction::Outbound => "127.0.0.1:24140",
        };
        interception.judge(original.map(|addr| addr.parse().unwrap()), local.parse().unwrap())
    }

    #[test]
    fn inbound_goes_to_an_address_of_the_pod_and_to_no_port_of_the_sidecar() {
        let judge = |original| judge(Direction::Inbound, original);
        for good in ["10.244.1.5:8080", "[fd00:10:244:1::5]:8080"] {
            assert_eq!(judge(Some(good)), Ok(good.parse().unwrap()));
        }
        let local = "10.244.1.5:24143".parse().unwrap();
        assert_eq!(judge(None), Err(Misdirected::NotRedirected(local)));
        assert_eq!(judge(Some("10.244.1.5:24143")), Err(Misdirected::NotRedirected(local)));
        for own in ["10.244.1.5:24140", "[fd00:10:244:1::5]:24143", "127.0.0.1:24190"] {
            assert_eq!(judge(Some(own)), Err(Misdirected::Loop(own.parse().unwrap())));
        }
        for elsewhere in ["10.244.1.6:8080", "127.0.0.1:8080", "[::1]:8080", "169.254.169.254:80"] {
            assert_eq!(judge(Some(elsewhere)), Err(Misdirected::Elsewhere(elsewhere.parse().unwrap())));
        }
    }

    #[test]
    fn outbound_goes_anywhere_but_back_into_the_sidecar() {
        let judge = |original| judge(Direction::Outbound, original);
        // The sidecar's ports on other hosts belong to the sidecars there.
        for good in ["10.246.0.1:443", "10.244.2.9:24190", "[fd00::9]:24143", "10.244.1.5:8080"] {
            assert_eq!(judge(Some(good)), Ok(good.parse().unwrap()));
        }
        let local = "127.0.0.1:24140".parse().unwrap();
        for not in [None, Some("127.0.0.1:24140"), Some("127.0.0.1:8080"), Some("[::1]:8080")] {
            assert_eq!(judge(not), Err(Misdirected::NotRedirected(local)), "{not:?}");
        }
        for own in ["10.244.1.5:24143", "[fd00:10:244:1::5]:24140", "127.0.0.1:24190"] {
            assert_eq!(judge(Some(own)), Err(Misdirected::Loop(own.parse().unwrap())));
        }
    }
}
