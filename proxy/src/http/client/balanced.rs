//! Sending requests to whichever endpoint of a destination is best at the moment.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use http::{Request, Response};
use hyper::body::Incoming;
use mantlet_identity::Credentials;

use super::{Attempts, Body, Host, Key, Pool, Reserved, SendError, Upstream, Wanted};
use crate::{
    authz::{Permit, Permitted},
    directory::{Endpoint, Endpoints, balance::Load},
    pool::{DialError, Dialer, Reached, Tried},
};

/// A destination with its endpoints, as one connection of the application sees it.
pub struct Balanced {
    pool: Arc<Pool>,
    dialer: Dialer,
    endpoints: Endpoints,
    /// The hosts that were looked up, under the credentials and endpoints that they belong to.
    hosts: Mutex<Option<Looked>>,
}

/// What came of a request.
pub struct Sent<B> {
    /// The head of the response, and what follows it.
    pub response: Response<B>,
    /// What entitled the request.
    pub permit: Permit,
    /// Who answered.
    pub addr: SocketAddr,
}

struct Looked {
    generation: u64,
    endpoints: Arc<Vec<Endpoint>>,
    hosts: Vec<(SocketAddr, Arc<Host>)>,
}

// === impl Balanced ===

impl Balanced {
    /// For a destination with these endpoints.
    #[must_use]
    pub fn new(pool: Arc<Pool>, dialer: Dialer, endpoints: Endpoints) -> Self {
        Self { pool, dialer, endpoints, hosts: Mutex::default() }
    }

    /// The endpoints of the moment.
    #[must_use]
    pub fn endpoints(&self) -> Arc<Vec<Endpoint>> {
        self.endpoints.current()
    }

    /// Whether an endpoint has agreed to HTTP on a connection that still stands.
    ///
    /// # Errors
    /// There is no own identity.
    pub fn is_live(&self) -> Result<bool, DialError> {
        let (credentials, endpoints) = (self.dialer.credentials()?, self.endpoints.current());
        Ok(endpoints.iter().any(|endpoint| self.host(&credentials, &endpoints, endpoint).is_live()))
    }

    /// Takes over a connection on which HTTP was agreed.
    ///
    /// # Errors
    /// The connection cannot carry HTTP, or there is no own identity any more.
    pub async fn adopt(&self, reached: Reached) -> Result<(), SendError> {
        let (credentials, endpoints) = (self.dialer.credentials()?, self.endpoints.current());
        match endpoints.iter().find(|endpoint| endpoint.addr == reached.addr) {
            Some(endpoint) => self.host(&credentials, &endpoints, endpoint).adopt(reached.stream).await,
            // It left the list meanwhile.
            None => Ok(()),
        }
    }

    /// Sends a request that was permitted, see [`Host::send`]; another try goes to another endpoint, if there
    /// is one that can be reached.
    ///
    /// # Errors
    /// No connection, or one that failed.
    pub async fn send(&self, permitted: Permitted<Request<Body>>) -> Result<Sent<Body>, SendError> {
        let (request, permit) = permitted.into_parts();
        // As in `Host::send`.
        let mut request = Box::new(request);
        let (mut attempts, mut wanted, mut tried) = (Attempts::default(), Wanted::Any, Tried::default());
        loop {
            let (host, addr, reserved) = self.reserve(wanted, &mut tried).await?;
            match host.exchange(reserved, request).await {
                Ok(response) => return Ok(Sent { response, permit, addr }),
                Err(failed) => (request, wanted) = attempts.next(failed)?,
            }
            tried.served_nothing(addr);
            self.dialer.repeated();
        }
    }

    /// Sends a request that asks for another protocol, see [`Host::upgrade`]. The load is that of the
    /// connection that may come of it.
    ///
    /// # Errors
    /// No connection, or one that failed.
    pub async fn upgrade(
        &self,
        permitted: Permitted<Request<Body>>,
    ) -> Result<(Sent<Incoming>, Option<Load>), SendError> {
        let (request, permit) = permitted.into_parts();
        let (host, addr, reserved) = self.reserve(Wanted::Upgrade, &mut Tried::default()).await?;
        let (response, load) = host.exchange_alone(reserved, request).await?;
        Ok((Sent { response, permit, addr }, load))
    }

    /// A connection to the best endpoint that can be reached.
    async fn reserve(
        &self,
        wanted: Wanted,
        tried: &mut Tried,
    ) -> Result<(Arc<Host>, SocketAddr, Reserved), SendError> {
        let (credentials, endpoints) = (self.dialer.credentials()?, self.endpoints.current());
        loop {
            let endpoint = self.dialer.pick(tried, &endpoints)?;
            let host = self.host(&credentials, &endpoints, endpoint);
            match host.reserve(wanted).await {
                Ok(reserved) => return Ok((host, endpoint.addr, reserved)),
                Err(SendError::Dial(error)) => tried.failed(endpoint.addr, &endpoints, error)?,
                Err(error) => return Err(error),
            }
        }
    }

    /// The host of an endpoint, looked up again only when the own credentials or the endpoints have
    /// changed: then the next request goes over a new connection, and the old one finishes what it
    /// carries.
    fn host(
        &self,
        credentials: &Credentials,
        endpoints: &Arc<Vec<Endpoint>>,
        endpoint: &Endpoint,
    ) -> Arc<Host> {
        let generation = credentials.generation();
        let mut looked = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let looked = match &mut *looked {
            Some(known) if known.generation == generation && Arc::ptr_eq(&known.endpoints, endpoints) => {
                known
            }
            other => {
                if let Some(former) = other {
                    former.let_go(endpoints);
                }
                let endpoints = Arc::clone(endpoints);
                other.insert(Looked { generation, endpoints, hosts: Vec::new() })
            }
        };
        if let Some((_, host)) = looked.hosts.iter().find(|(addr, _)| *addr == endpoint.addr) {
            return Arc::clone(host);
        }
        let host = self
            .pool
            .host(Key::mesh(credentials, endpoint), || Upstream::Mesh(self.dialer.clone(), endpoint.clone()));
        looked.hosts.push((endpoint.addr, Arc::clone(&host)));
        host
    }
}

// === impl Looked ===

impl Looked {
    /// Ends the idle connections to endpoints that are not among these any more. Another destination may have
    /// them still, and opens its own.
    fn let_go(&self, endpoints: &[Endpoint]) {
        for (addr, host) in &self.hosts {
            if !endpoints.iter().any(|endpoint| endpoint.addr == *addr) {
                host.lock().let_go();
            }
        }
    }
}
