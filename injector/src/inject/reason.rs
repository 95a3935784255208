//! Why a pod was injected, skipped or denied: one closed list for answers, metrics, Events and the CLI.

use std::fmt;

macro_rules! reasons {
    ($($variant:ident = $result:ident $name:literal, $meaning:literal;)*) => {
        /// Why a pod was injected, skipped or denied.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Reason {
            $(#[doc = $meaning] $variant,)*
        }

        impl Reason {
            /// Every reason, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name that answers, labels and documentation use.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One line on what it means.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }

            /// What it is a reason for.
            #[must_use]
            pub fn result(self) -> Verdict {
                match self { $(Self::$variant => Verdict::$result,)* }
            }
        }
    };
}

/// What became of a pod, in one word: the label `result`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Verdict {
    /// It has the sidecar now.
    Injected,
    /// It was left as it is.
    Skipped,
    /// It may not be created.
    Denied,
}

reasons! {
    Injected = Injected "injected", "the sidecar was added";
    Updated = Injected "updated", "a sidecar of another version or configuration was replaced";
    Reordered = Injected "reordered", "the sidecar was put in front of what came later";
    AlreadyInjected = Skipped "already_injected", "the pod has this very sidecar";
    NotEnabled = Skipped "not_enabled", "neither the namespace nor the pod asks for it";
    OptOut = Skipped "opt_out", "the pod says mantlet.dev/inject: disabled";
    ExcludedNamespace = Skipped "excluded_namespace", "the installation leaves this namespace alone";
    HostNetwork = Skipped "host_network", "the pod uses the network of its node";
    Windows = Skipped "windows", "the pod is for Windows";
    MirrorPod = Skipped "mirror_pod", "the kubelet made the pod, and nobody can change it";
    Malformed = Denied "malformed", "the object cannot be read";
    CannotInject = Denied "cannot_inject", "the pod asks for a sidecar that it cannot have";
    BadLabel = Denied "bad_label", "a mantlet.dev label is unknown, or has no such value";
    PolicyInvalid = Denied "policy_invalid", "a mantlet.dev annotation is wrong";
    PodSecurity = Denied "pod_security", "the namespace's pod security refuses the init container";
    Sandbox = Denied "sandbox", "interception does not work in this runtime class";
    ProxyUser = Denied "proxy_user", "a container would run as the sidecar's user or group";
    Privileged = Denied "privileged", "a container could undo interception";
    AgentSocket = Denied "agent_socket", "a container would have the SPIRE agent's socket";
    NameCollision = Denied "name_collision", "something in the pod has a name of ours";
    PortCollision = Denied "port_collision", "a container port is one of the sidecar's";
    ProbePort = Denied "probe_port", "a probe or hook names a port that its container does not have";
    Tampered = Denied "tampered", "the sidecar in the pod is not what was injected";
    TooLarge = Denied "too_large", "what would be added is larger than the API server should store";
}

// === impl Verdict ===

impl Verdict {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Skipped => "skipped",
            Self::Denied => "denied",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_unique_and_fit_a_label() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
