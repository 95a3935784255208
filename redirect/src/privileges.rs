//! What this process may do, as the kernel tells it in `/proc/self/status`.

use std::fmt;

/// The bit of `CAP_NET_ADMIN` (capabilities(7)).
const NET_ADMIN: u64 = 1 << 12;

/// What decides whether rules can be installed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Privileges {
    /// The user that files and sockets are opened as.
    pub user: Option<u32>,
    /// The group likewise.
    pub group: Option<u32>,
    /// `CAP_NET_ADMIN` is in use.
    pub effective: bool,
    /// It is there, in use or not.
    pub permitted: bool,
    /// The container lets programs have it.
    pub bounding: bool,
    /// Programs get nothing by their file that the one before them did not have (`no_new_privs`).
    pub no_new: bool,
}

// === impl Privileges ===

impl Privileges {
    /// Those of this process; nothing is granted where the kernel does not tell.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
    }

    /// Reads the text of a status file. What is not there or makes no sense counts as not granted.
    #[must_use]
    pub fn parse(status: &str) -> Self {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default()
        };
        // Real, effective, saved, and the one of the file system, which is what sockets have.
        let id = |name| field(name).split_ascii_whitespace().nth(3)?.parse().ok();
        let granted =
            |name| u64::from_str_radix(field(name).trim(), 16).is_ok_and(|set| set & NET_ADMIN != 0);
        Self {
            user: id("Uid"),
            group: id("Gid"),
            effective: granted("CapEff"),
            permitted: granted("CapPrm"),
            bounding: granted("CapBnd"),
            no_new: field("NoNewPrivs").trim() == "1",
        }
    }

    /// How the process came to be allowed to install rules, for its log.
    #[must_use]
    pub fn how(&self) -> &'static str {
        match self.user {
            Some(0) => "as root",
            Some(_) => "as an ordinary user with the file's capability NET_ADMIN",
            None => "with unknown privileges",
        }
    }
}

impl fmt::Display for Privileges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.effective {
            "the process has NET_ADMIN, but not over this network namespace, which belongs to another \
             user namespace: run it in the pod's own namespaces"
        } else if self.permitted {
            "NET_ADMIN is permitted but not effective: the file's capability must be set with the \
             effective bit (setcap cap_net_admin+ep mantlet-init)"
        } else if self.bounding && self.no_new {
            "the container allows NET_ADMIN, but this program does not have it: its file lost the \
             capability (setcap cap_net_admin+ep mantlet-init, and an image that keeps extended \
             attributes), or with no_new_privs it was started by a program without it (start \
             mantlet-init itself, by no shell), or run it as user 0"
        } else if self.bounding {
            "the container allows NET_ADMIN, but this program does not have it: its file lost the \
             capability (setcap cap_net_admin+ep mantlet-init, and an image that keeps extended \
             attributes), or run it as user 0"
        } else {
            "the container has no NET_ADMIN: give the init container \
             securityContext.capabilities.add: [NET_ADMIN]"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(effective: u64, permitted: u64, bounding: u64, no_new: u8) -> String {
        format!(
            "Name:\tmantlet-init\nUid:\t65532\t65532\t65532\t65532\nGid:\t65532\t65532\t65532\t65533\n\
             CapInh:\t0000000000000000\nCapPrm:\t{permitted:016x}\nCapEff:\t{effective:016x}\n\
             CapBnd:\t{bounding:016x}\nNoNewPrivs:\t{no_new}\n"
        )
    }

    #[test]
    fn each_lack_has_its_own_remedy() {
        for (effective, permitted, bounding, no_new, word) in [
            (NET_ADMIN, NET_ADMIN, NET_ADMIN, 1, "another user namespace"),
            (0, NET_ADMIN, NET_ADMIN, 1, "effective bit"),
            (0, 0, NET_ADMIN, 0, "extended attributes), or run it as user 0"),
            (0, 0, NET_ADMIN, 1, "by no shell"),
            (0, 0, 1 << 13, 1, "capabilities.add: [NET_ADMIN]"),
        ] {
            let said = Privileges::parse(&status(effective, permitted, bounding, no_new)).to_string();
            assert!(said.contains(word), "{said}");
        }
    }

    #[test]
    fn the_ids_are_those_that_sockets_have() {
        let found = Privileges::parse(&status(NET_ADMIN, NET_ADMIN, NET_ADMIN, 1));
        assert_eq!((found.user, found.group), (Some(65532), Some(65533)));
        assert_eq!(found.how(), "as an ordinary user with the file's capability NET_ADMIN");
    }

    #[test]
    fn nothing_is_granted_by_a_text_that_makes_no_sense() {
        for text in ["", "CapEff", "CapEff:", "CapEff:\tzz", "Uid:\t0\nCapEff 1000\n", "XCapEff:\t1000"] {
            assert_eq!(Privileges::parse(text), Privileges::default(), "{text:?}");
        }
    }
}
