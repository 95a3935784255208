//! A pod on a node.

use super::{APP, METADATA, NODE, Net, POD, Place, SERVICE, SIDECAR};

/// A pod with one interface, and the node at the other end of it.
#[derive(Debug)]
pub struct Lab {
    /// The pod's network namespace.
    pub net: Net,
    /// Root in the pod.
    pub pod: Place,
    /// The application's user in the pod.
    pub app: Place,
    /// The sidecar's user and group in the pod.
    pub sidecar: Place,
    /// Root on the node, which has the addresses of peers and services.
    pub node: Place,
}

// === impl Lab ===

impl Lab {
    /// A pod with both versions of IP.
    pub async fn new() -> Self {
        let node = Place::root(&Net::current());
        let net = Net::new();
        let pod = Place::root(&net);
        let [node4, node6] = NODE;
        let [pod4, pod6] = POD;
        let [service4, service6] = SERVICE;
        node.command(&format!("ip link add veth0 type veth peer name eth0 netns {}", net.path())).await;
        for line in [
            "ip link set lo up".to_owned(),
            format!("ip addr add {node4}/24 dev veth0"),
            format!("ip addr add {node6}/64 dev veth0 nodad"),
            format!("ip addr add {service4}/32 dev lo"),
            format!("ip addr add {service6}/128 dev lo nodad"),
            format!("ip addr add {METADATA}/32 dev lo"),
            "ip link set veth0 up".to_owned(),
        ] {
            node.command(&line).await;
        }
        for line in [
            "ip link set lo up".to_owned(),
            format!("ip addr add {pod4}/24 dev eth0"),
            format!("ip addr add {pod6}/64 dev eth0 nodad"),
            "ip link set eth0 up".to_owned(),
            format!("ip route add default via {node4}"),
            format!("ip route add default via {node6}"),
        ] {
            pod.command(&line).await;
        }
        let app = Place::user(&net, APP, APP);
        let sidecar = Place::user(&net, SIDECAR, SIDECAR);
        Self { net, pod, app, sidecar, node }
    }
}
