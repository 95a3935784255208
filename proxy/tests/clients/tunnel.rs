//! A way into the mesh for programs that cannot present an SVID: plain in front, mutual TLS behind.

use std::net::SocketAddr;

use mantlet_testkit::client::TlsClient;
use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub(crate) struct Tunnel {
    pub(crate) addr: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Tunnel {
    /// Each connection becomes one of `client` with `to`.
    pub(crate) async fn start(client: TlsClient, to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let client = client.clone();
                tokio::spawn(async move {
                    let Ok(session) = client.handshake(to).await else { return };
                    let _ = copy_bidirectional(&mut near, &mut session.into_io()).await;
                });
            }
        });
        Self { addr, accepting }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
