//! What the program says when it cannot, and by which right it can.

use std::os::unix::fs::PermissionsExt as _;

use mantlet_testkit::netns::{Lab, Net, Place};
use mantlet_testkit::{TempDir, in_namespaces};
use rustix::fs::{XattrFlags, setxattr};

use crate::fixture::{Server, answered, init};

/// `struct vfs_cap_data` of version 2 with `CAP_NET_ADMIN` permitted, and effective if so.
fn capability(effective: bool) -> Vec<u8> {
    let version = 0x0200_0000_u32 | u32::from(effective);
    [version, 1 << 12, 0, 0, 0].map(u32::to_le_bytes).concat()
}

/// A copy of the program with this capability, in a folder that everybody may enter.
fn copy_with(dir: &TempDir, capability: &[u8]) -> String {
    let copy = dir.path().join("mantlet-init");
    std::fs::copy(env!("CARGO_BIN_EXE_mantlet-init"), &copy).unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    setxattr(&copy, "security.capability", capability, XattrFlags::empty()).unwrap();
    copy.display().to_string()
}

#[test]
fn an_ordinary_user_installs_the_rules_by_the_capability_of_the_file() {
    in_namespaces!(async || {
        let lab = Lab::new().await;
        let dir = TempDir::new();
        let program = copy_with(&dir, &capability(true));
        let said = Place::user(&lab.net, 65532, 65532).command(&program).await;
        assert!(said.contains("as an ordinary user with the file's capability NET_ADMIN"), "{said}");
        let _sidecar = Server::sidecar(&lab).await;
        let service = "10.244.2.9:8080".parse().unwrap();
        assert_eq!(answered(&lab.app, service).await, format!("out {service}"));
    });
}

/// As a container runtime starts a program that is not root: everything but NET_ADMIN is taken from it, the user is
/// changed, and from then on nobody gets more.
const AS_A_RUNTIME: &str = "setpriv --bounding-set -all,+net_admin --inh-caps -all --reuid 65532 --regid 65532 \
                            --clear-groups --no-new-privs";

#[test]
fn a_runtime_s_no_new_privs_leaves_the_capability_of_the_file_its_effect() {
    in_namespaces!(async || {
        let lab = Lab::new().await;
        let dir = TempDir::new();
        let program = copy_with(&dir, &capability(true));
        let said = lab.pod.command(&format!("{AS_A_RUNTIME} {program}")).await;
        assert!(said.contains("as an ordinary user with the file's capability NET_ADMIN"), "{said}");
        let _sidecar = Server::sidecar(&lab).await;
        let service = "10.244.2.9:8080".parse().unwrap();
        assert_eq!(answered(&lab.app, service).await, format!("out {service}"));
        // A program in between has lost it, and then no file gives it back.
        let said = lab.pod.try_command(&format!("{AS_A_RUNTIME} env {program}")).await.unwrap_err();
        assert!(
            said.contains("started by a program without it") && said.contains("exit status: 1"),
            "{said}"
        );
        // Without the file's capability it is not in effect, whatever the container allows.
        let said = lab.pod.try_command(&format!("{AS_A_RUNTIME} {}", init(""))).await.unwrap_err();
        assert!(said.contains("its file lost the capability"), "{said}");
    });
}

#[test]
fn a_missing_privilege_is_named_with_what_to_do() {
    in_namespaces!(async || {
        let net = Net::new();
        let ordinary = Place::user(&net, 65532, 65532);
        // The file has no capability, as after a copy that lost it.
        let said = ordinary.try_command(&init("")).await.unwrap_err();
        assert!(said.contains("its file lost the capability (setcap cap_net_admin+ep"), "{said}");
        assert!(said.contains("exit status: 1"), "{said}");
        // It has it, but not in effect.
        let dir = TempDir::new();
        let said = ordinary.try_command(&copy_with(&dir, &capability(false))).await.unwrap_err();
        assert!(said.contains("must be set with the effective bit"), "{said}");
        // The container does not let any program have it.
        let root = Place::root(&net);
        let without = format!("setpriv --bounding-set -net_admin --inh-caps -net_admin {}", init(""));
        let said = root.try_command(&without).await.unwrap_err();
        assert!(said.contains("securityContext.capabilities.add: [NET_ADMIN]"), "{said}");
    });
}

#[test]
fn a_wrong_command_line_changes_nothing_and_tells_everything() {
    in_namespaces!(async || {
        let place = Place::root(&Net::new());
        let said =
            place.try_command(&init("--uid 0 --skip-outbound-ports 1-,9 --colour red")).await.unwrap_err();
        for part in ["user 0", "\"1-\" is no port", "\"--colour\" is no option", "exit status: 2"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(place.try_command("nft list table inet mantlet").await.is_err());
    });
}
