//! The keys about where outbound connections go.

use super::{DAY, HOUR, Id, Key, Kind, LIMITS, OUTBOUND, key, millis, secs};

const OTHERWISE: Kind = Kind::Choice(&["passthrough", "refuse"]);

pub(super) const REACH: &[Key] = &[
    Key {
        unset: "the annotation mantlet.dev/upstreams of --annotations, or no lines",
        meaning: "Lines that say which identities stand behind which destinations, as a plain file. Changes take \
                  effect at once; a mistake keeps the last good lines.",
        ..key(Id::Upstreams, OUTBOUND, "upstreams", "MANTLET_UPSTREAMS", "FILE", Kind::Path)
    },
    Key {
        unset: "no directory: only lines say who is where",
        meaning: "The cluster's directory, which the injector serves: it is asked about destinations inside \
                  --mesh-cidrs that no line names. It says which endpoints they have and which identities to \
                  expect, and tells every change. What it said holds on while it cannot be reached.",
        ..key(Id::Directory, OUTBOUND, "directory", "MANTLET_DIRECTORY", "HOST:PORT", Kind::HostPort)
    },
    Key {
        unset: "required with --directory",
        meaning: "The identity that the directory must prove.",
        ..key(Id::DirectoryId, OUTBOUND, "directory-id", "MANTLET_DIRECTORY_ID", "ID", Kind::SpiffeId)
    },
    Key {
        unset: "every address counts as one of the mesh",
        meaning: "The cluster's pod and service ranges. What lies outside is external.",
        ..key(Id::MeshCidrs, OUTBOUND, "mesh-cidrs", "MANTLET_MESH_CIDRS", "NETWORKS", Kind::Networks)
    },
    Key {
        default: Some("passthrough"),
        meaning: "What happens with connections to a workload that is known to have no sidecar.",
        ..key(Id::Unmeshed, OUTBOUND, "unmeshed", "MANTLET_UNMESHED", "WHAT", OTHERWISE)
    },
    Key {
        default: Some("passthrough"),
        meaning: "What happens with connections to addresses outside --mesh-cidrs that no line names.",
        ..key(Id::External, OUTBOUND, "external", "MANTLET_EXTERNAL", "WHAT", OTHERWISE)
    },
    Key {
        default: Some("refuse"),
        meaning: "What happens with connections inside --mesh-cidrs that nobody knows. any-in-trust-domain proves \
                  only that somebody of the own trust domain answered, and is counted \
                  (`mantlet_outbound_unpinned_connections_total`).",
        ..key(
            Id::Unknown,
            OUTBOUND,
            "unknown",
            "MANTLET_UNKNOWN",
            "WHAT",
            Kind::Choice(&["refuse", "any-in-trust-domain"]),
        )
    },
    Key {
        unset: "there is none",
        meaning: "The Kubernetes API server, which every container finds by this variable: connections there are \
                  passed through, because each of its clients does TLS of its own.",
        ..key(
            Id::KubernetesHost,
            OUTBOUND,
            "kubernetes-service-host",
            "KUBERNETES_SERVICE_HOST",
            "HOST",
            Kind::Text,
        )
    },
    Key {
        default: Some("443"),
        meaning: "The port of the Kubernetes API server.",
        ..key(
            Id::KubernetesPort,
            OUTBOUND,
            "kubernetes-service-port",
            "KUBERNETES_SERVICE_PORT",
            "PORT",
            Kind::Count(1, 65535),
        )
    },
    Key {
        default: Some("/etc/resolv.conf"),
        meaning: "Whom to ask for names, and how short ones are completed (resolv.conf(5)). A server may have a \
                  port behind its address.",
        ..key(Id::ResolvConf, OUTBOUND, "resolv-conf", "MANTLET_RESOLV_CONF", "FILE", Kind::Path)
    },
    Key {
        default: Some("/etc/hosts"),
        meaning: "Names that no server is asked for (hosts(5)).",
        ..key(Id::Hosts, OUTBOUND, "hosts", "MANTLET_HOSTS", "FILE", Kind::Path)
    },
    Key {
        default: Some("10m"),
        meaning: "How long the last addresses of a name stay in use beyond their TTL while no server answers.",
        ..key(
            Id::DnsKeep,
            OUTBOUND,
            "dns-keep",
            "MANTLET_DNS_KEEP",
            "DURATION",
            Kind::Duration(secs(0), secs(DAY)),
        )
    },
    Key {
        unset: "no limit: a stream may begin with its first message",
        meaning: "Longest wait for the head of a response, the time in which its request is sent on included.",
        ..key(
            Id::ResponseTimeout,
            LIMITS,
            "response-timeout",
            "MANTLET_RESPONSE_TIMEOUT",
            "DURATION",
            Kind::Duration(millis(10), secs(HOUR)),
        )
    },
];
