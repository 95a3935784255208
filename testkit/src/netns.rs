//! Network namespaces on one machine: a pod with interfaces and users of its own, and the node behind it.
//!
//! A test runs again, alone, in a process with namespaces of its own ([`isolated`]): whatever it makes is
//! gone with that process, and nothing of it touches the machine. There it is root, or what counts as
//! root, and starts threads in other network namespaces and as other users ([`Place`]). Every socket and
//! process belongs to the place of the task that made it.

use std::fs::File;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::thread;

use rustix::process::{Gid, Uid};
use rustix::thread::{
    LinkNameSpaceType, UnshareFlags, move_into_link_name_space, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

mod counters;
mod lab;
mod ordinary;

pub use counters::Counters;
pub use lab::Lab;
pub use ordinary::as_ordinary_user;

/// The pod's addresses.
pub const POD: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 244, 1, 5)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 5))];
/// The node's, on the same link.
pub const NODE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 244, 1, 1)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 1))];
/// Addresses of the node that are a route away, as those of a service or of another pod.
pub const SERVICE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 244, 2, 9)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 2, 0, 0, 0, 9))];
/// A further address of the node, in a network of its own.
pub const METADATA: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));

/// The sidecar's user and group.
pub const SIDECAR: u32 = 14021;
/// An application's user and group.
pub const APP: u32 = 1000;

/// Says that this process is the one in its own namespaces.
const INSIDE: &str = "TEST_INSIDE_NAMESPACES";

/// The ways into namespaces of one's own: as root, and with a range of users that an ordinary user has.
const WAYS: [&[&str]; 2] =
    [&["unshare", "--net", "--mount"], &["unshare", "--map-root-user", "--map-auto", "--net", "--mount"]];
/// What must be possible there. Users other than root are: the sidecar's is not the application's.
const NEEDED: &str = "ip link add veth0 type veth peer name veth1 && nft list tables && \
                      setpriv --reuid 14021 --regid 14021 --clear-groups true";

/// Runs the body of a test in namespaces of its own; the argument is `async || { .. }`.
///
/// ```ignore
/// #[test]
/// fn the_pod_s_traffic_is_redirected() {
///     mantlet_testkit::in_namespaces!(async || { .. });
/// }
/// ```
#[macro_export]
macro_rules! in_namespaces {
    ($body:expr) => {{
        // A function's type knows its path, and so the name of the test it stands in.
        fn here() {}
        $crate::netns::isolated(std::any::type_name_of_val(&here), $body);
    }};
}

/// Runs `body` as [`in_namespaces!`](crate::in_namespaces) says; `here` is the path of a function inside
/// the test. Where namespaces cannot be made it prints why and how they could, and returns; with
/// `TEST_REQUIRE_ALL=1`, as in CI, the test fails instead.
///
/// # Panics
/// When the test fails.
pub fn isolated(here: &str, body: impl AsyncFnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        no_address_probing();
        let runtime = Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(body());
        return unmount_programs();
    }
    // `crate::module::test::here`, of which the harness wants `module::test`.
    let test = here.split_once("::").map_or(here, |(_, test)| test).trim_end_matches("::here");
    let way = match way() {
        Ok(way) => way,
        Err(why) => {
            let how = "as root, or with a range in /etc/subuid: apt-get install iproute2 nftables uidmap";
            let required = std::env::var_os("TEST_REQUIRE_ALL").is_some_and(|value| value == "1");
            assert!(!required, "{test} needs network namespaces: {why}; enable: {how}");
            return eprintln!("SKIP {test}: no network namespaces: {why}; enable: {how}");
        }
    };
    let program = std::env::current_exe().expect("the test's program");
    let [command, options @ ..] = way else { unreachable!("a way is a command") };
    let output = Command::new(command)
        .args(options)
        .arg(program)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare runs");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "in its own namespaces:\n{said}");
}

/// The first way that works, or why none does.
fn way() -> Result<&'static [&'static str], String> {
    static FOUND: OnceLock<Result<&'static [&'static str], String>> = OnceLock::new();
    let look = || {
        let mut refusals = Vec::new();
        for way in WAYS {
            let [command, options @ ..] = way else { continue };
            match Command::new(command).args(options).args(["sh", "-c", NEEDED]).output() {
                Ok(output) if output.status.success() => return Ok(way),
                Ok(output) => refusals.push(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
                Err(error) => refusals.push(format!("{command}: {error}")),
            }
        }
        Err(refusals.join("; "))
    };
    FOUND.get_or_init(look).clone()
}

/// A network namespace.
#[derive(Clone, Debug)]
pub struct Net(Arc<File>);

/// Tasks that run in a network namespace, as a user.
#[derive(Debug)]
pub struct Place {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

// === impl Net ===

impl Net {
    /// The one of the calling thread.
    ///
    /// # Panics
    /// Without `/proc`.
    pub fn current() -> Self {
        Self(Arc::new(File::open("/proc/thread-self/ns/net").expect("own network namespace")))
    }

    /// A new one, with nothing in it.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new() -> Self {
        let make = || {
            // Its danger is another flag, by which threads would no longer share their descriptors.
            #[expect(deprecated, reason = "the other form is unsafe for a flag that is not used")]
            rustix::thread::unshare(UnshareFlags::NEWNET).expect("new network namespace");
            no_address_probing();
            Self::current()
        };
        thread::spawn(make).join().expect("a thread in a new network namespace")
    }

    /// Moves the calling thread there.
    ///
    /// # Panics
    /// When it may not.
    pub fn enter(&self) {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
    }

    /// A path by which `ip` finds it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

impl Default for Net {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Place ===

impl Place {
    /// In this network namespace, as root.
    pub fn root(net: &Net) -> Self {
        Self::start(net, None)
    }

    /// In this network namespace, as this user and group, and without capabilities.
    pub fn user(net: &Net, user: u32, group: u32) -> Self {
        Self::start(net, Some((user, group)))
    }

    fn start(net: &Net, ids: Option<(u32, u32)>) -> Self {
        let net = net.clone();
        let (stop, stopped) = oneshot::channel();
        let (started, place) = std::sync::mpsc::channel();
        let run = move || {
            net.enter();
            if let Some((user, group)) = ids {
                let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
                set_thread_groups(&[]).expect("setgroups");
                set_thread_res_gid(group, group, group).expect("setresgid");
                set_thread_res_uid(user, user, user).expect("setresuid");
            }
            let runtime = Builder::new_current_thread().enable_all().build().expect("runtime");
            started.send(runtime.handle().clone()).expect("the test waits");
            // Ends with the place, and so do the tasks that it still has.
            let _ = runtime.block_on(stopped);
        };
        thread::spawn(run);
        Self { handle: place.recv().expect("the place starts"), _stop: stop }
    }

    /// Runs a task there to its end.
    ///
    /// # Panics
    /// With the panic of the task.
    pub async fn run<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> T {
        match self.handle.spawn(task).await {
            Ok(output) => output,
            Err(failed) => std::panic::resume_unwind(failed.into_panic()),
        }
    }

    /// Runs a program there and gives what it printed.
    ///
    /// # Panics
    /// When it fails, with what it said.
    pub async fn command(&self, line: &str) -> String {
        self.try_command(line).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a program there and gives what it printed.
    ///
    /// # Errors
    /// What it said, when it failed.
    pub async fn try_command(&self, line: &str) -> Result<String, String> {
        let mut words = line.split_ascii_whitespace().map(str::to_owned);
        let mut command = tokio::process::Command::new(words.next().expect("a command"));
        command.args(words);
        self.run(async move { crate::real_peers::run(&mut command).await }).await
    }
}

/// Addresses of IPv6 are usable at once in the calling thread's network namespace: a router would
/// otherwise be silent for the seconds in which it makes sure that its own address is nobody else's.
fn no_address_probing() {
    for which in ["all", "default"] {
        // A kernel without IPv6 has no such file, and no such addresses.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/accept_dad"), "0");
    }
}

/// Both families' sockets of a port.
pub fn both(addresses: [IpAddr; 2], port: u16) -> [SocketAddr; 2] {
    addresses.map(|address| SocketAddr::new(address, port))
}

/// The path of a built program by which every user may run it: a folder on the way to it may be closed
/// to them.
///
/// # Panics
/// When the folder cannot be mounted.
pub fn runnable(program: &str) -> PathBuf {
    let program = Path::new(program);
    let folder = program.parent().expect("a program in a folder");
    let mounted = mount_point();
    if !mounted.exists() {
        std::fs::create_dir(&mounted).expect("mount point");
        run("mount", &["--bind".as_ref(), folder.as_ref(), mounted.as_ref()]);
    }
    mounted.join(program.file_name().expect("a program with a name"))
}

fn mount_point() -> PathBuf {
    std::env::temp_dir().join(format!("mantlet-programs-{}", std::process::id()))
}

fn unmount_programs() {
    let mounted = mount_point();
    if mounted.exists() {
        // Sidecars of the test may not be quite gone.
        run("umount", &["--lazy".as_ref(), mounted.as_ref()]);
        let _ = std::fs::remove_dir(&mounted);
    }
}

fn run(command: &str, arguments: &[&std::ffi::OsStr]) {
    let status = Command::new(command).args(arguments).status().expect("command runs");
    assert!(status.success(), "{command} {arguments:?}");
}
