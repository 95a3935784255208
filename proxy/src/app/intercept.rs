//! The listeners that interception redirects to.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use super::{StartError, listening};
use crate::{
    config::Intercept,
    directory::Directory,
    listener::{self, Interception, Origin, OwnCalls},
    log::Log,
    metrics::Direction,
    sys,
    worker::Route,
};

/// Opens them for every worker, each family on a socket of its own. Inbound connections arrive at
/// whatever address the pod has; outbound ones at loopback, where no other host can dial.
pub(super) fn bind(
    admin_port: u16,
    intercept: &Intercept,
    directory: Directory,
    log: &Log,
    workers: &mut [Vec<(std::net::TcpListener, Route)>],
) -> Result<Arc<OwnCalls>, StartError> {
    let pod_ips: Arc<[IpAddr]> = intercept.pod_ips.as_slice().into();
    let own_ports: Arc<[u16]> = [intercept.inbound, intercept.outbound, admin_port].into();
    let origin = |direction| {
        let interception =
            Interception { direction, pod_ips: Arc::clone(&pod_ips), own_ports: Arc::clone(&own_ports) };
        Origin::Redirected(Arc::new(interception))
    };
    let inbound = Route::Inbound(origin(Direction::Inbound));
    let outbound = Route::Outbound(origin(Direction::Outbound), directory);
    let any = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    for (role, route, addresses, port) in
        [("inbound", &inbound, any, intercept.inbound), ("outbound", &outbound, loopback, intercept.outbound)]
    {
        for address in addresses {
            let addr = SocketAddr::new(address, port);
            match bind_all(addr, route, workers) {
                Ok(()) => listening(log, role, addr, Some("redirected".to_owned())),
                // A host without IPv6. A pod that has an address of it cannot be such a host.
                Err(error) if address.is_ipv6() && sys::is_no_family(&error) && !has_v6(&pod_ips) => {}
                Err(source) => return Err(StartError::Bind { addr, role, source }),
            }
        }
    }
    own_calls(&pod_ips, workers)
}

/// Opens the listener of the pod's calls to itself, which is the sidecar's own affair.
fn own_calls(
    pod_ips: &Arc<[IpAddr]>,
    workers: &mut [Vec<(std::net::TcpListener, Route)>],
) -> Result<Arc<OwnCalls>, StartError> {
    let free = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    let open = |addr: SocketAddr| {
        let socket = listener::bind(addr)?;
        let addr = socket.local_addr()?;
        io::Result::Ok((socket, addr))
    };
    let error = |source| StartError::Bind { addr: free, role: "inbound", source };
    let (mut first, addr) = open(free).map(|(socket, addr)| (Some(socket), addr)).map_err(error)?;
    let calls = Arc::new(OwnCalls::new(addr, Arc::clone(pod_ips)));
    for worker in workers {
        let socket = match first.take() {
            Some(socket) => socket,
            None => open(addr).map_err(error)?.0,
        };
        worker.push((socket, Route::Inbound(Origin::Own(Arc::clone(&calls)))));
    }
    Ok(calls)
}

fn bind_all(
    addr: SocketAddr,
    route: &Route,
    workers: &mut [Vec<(std::net::TcpListener, Route)>],
) -> io::Result<()> {
    for worker in workers {
        worker.push((listener::bind_family(addr)?, route.clone()));
    }
    Ok(())
}

fn has_v6(pod_ips: &[IpAddr]) -> bool {
    pod_ips.iter().any(IpAddr::is_ipv6)
}
