//! Why there are no rules, and what to do about it.

use std::fmt;

use rustix::io::Errno;

use crate::privileges::Privileges;

/// Why the kernel did not take the rules. Those that were there before are still there.
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure {
    /// The kernel has no netfilter over netlink at all.
    NoNetfilter {
        /// What it said.
        error: Errno,
    },
    /// The process may not change this network namespace.
    NotPermitted(Privileges),
    /// A part was refused, and with it everything.
    Refused {
        /// The part.
        what: String,
        /// What the kernel lacks for it, if that is the reason.
        missing: Option<Feature>,
        /// What it said.
        error: Errno,
    },
    /// The kernel did not say that it has taken everything.
    Unanswered {
        /// What it said instead.
        what: Option<String>,
    },
}

/// A part of the kernel that may have been left out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Feature {
    module: &'static str,
    option: &'static str,
    /// First version of the kernel that has it for both versions of IP at once.
    since: Option<&'static str>,
}

// === impl Feature ===

impl Feature {
    /// The feature behind an expression, a type of chain or a family of tables, if `error` is what a
    /// kernel without it says.
    pub(crate) fn missing(name: &str, error: Errno) -> Option<Self> {
        let absent = [Errno::NOENT, Errno::OPNOTSUPP, Errno::PROTONOSUPPORT, Errno::AFNOSUPPORT];
        let (module, option, since) = match name {
            "inet" => ("nf_tables", "CONFIG_NF_TABLES_INET", None),
            "nat" => ("nft_chain_nat", "CONFIG_NFT_NAT", Some("5.2")),
            "fib" => ("nft_fib_inet", "CONFIG_NFT_FIB_INET", None),
            "ct" => ("nft_ct", "CONFIG_NFT_CT", None),
            "redir" => ("nft_redir", "CONFIG_NFT_REDIR", None),
            "reject" => ("nft_reject_inet", "CONFIG_NFT_REJECT", None),
            _ => return None,
        };
        absent.contains(&error).then_some(Self { module, option, since })
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { module, option, since } = self;
        write!(f, "load the module {module} on the node (modprobe {module}; {option} of the kernel)")?;
        match since {
            Some(version) => write!(f, "; the kernel must be {version} or newer"),
            None => Ok(()),
        }
    }
}

// === impl Failure ===

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNetfilter { error } => write!(
                f,
                "the kernel has no nf_tables ({error}): load the module nf_tables on the node \
                 (CONFIG_NF_TABLES of the kernel); a sandboxed runtime such as gVisor has none at all"
            ),
            Self::NotPermitted(privileges) => {
                write!(f, "not permitted to change this network namespace: {privileges}")
            }
            Self::Refused { what, missing: Some(feature), error } => {
                write!(f, "the kernel refused {what} ({error}): {feature}")
            }
            Self::Refused { what, missing: None, error } => {
                write!(f, "the kernel refused {what} ({error}): report this with the version of the kernel")
            }
            Self::Unanswered { what: Some(said) } => write!(f, "the kernel did not take the rules: {said}"),
            Self::Unanswered { what: None } => {
                f.write_str("the kernel did not take the rules: it did not acknowledge all of them")
            }
        }
    }
}

impl std::error::Error for Failure {}
