//! The pairs of sidecars under test, each configured to do the same work: mutual TLS 1.3 on one
//! connection between them, the caller's identity checked at the receiving end, no access log.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use mantlet_testkit::pki::{Authority, SvidOptions, TestSvid};
use mantlet_testkit::workload_api::{Answer, WorkloadApi};

use crate::process::{Process, wait_for_status};

/// A pair of sidecars, by what they are and what they speak between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Peer {
    /// No sidecar at all: what the origin and the load generator cost.
    Direct,
    /// Envoy with HTTP/1.1 between the sidecars.
    EnvoyH1,
    /// Envoy with HTTP/2 between the sidecars.
    EnvoyH2,
    /// HAProxy with HTTP/1.1 between the sidecars.
    HaproxyH1,
    /// HAProxy with HTTP/2 between the sidecars.
    HaproxyH2,
    /// This proxy.
    Mantlet,
}

/// Who runs the sending sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The one identity that may call.
    Client,
    /// An identity of the same authority that may not.
    Intruder,
}

/// Everything a pair needs that is made once: certificates, configuration folder, Workload API.
#[derive(Debug)]
pub(crate) struct Stage {
    dir: PathBuf,
    envoy: PathBuf,
    mantlet: PathBuf,
    apis: [(&'static str, WorkloadApi); 3],
}

/// A running pair.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) outbound: Option<Process>,
    pub(crate) inbound: Option<Process>,
}

const TRUST_DOMAIN: &str = "bench.local";

// === impl Peer ===

impl Peer {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::EnvoyH1 => "Envoy, h1 hop",
            Self::EnvoyH2 => "Envoy, h2 hop",
            Self::HaproxyH1 => "HAProxy, h1 hop",
            Self::HaproxyH2 => "HAProxy, h2 hop",
            Self::Mantlet => "Mantlet",
        }
    }

    /// Where an application sends HTTP.
    pub(crate) fn http_port(self) -> u16 {
        match self {
            Self::Direct => 8080,
            Self::EnvoyH1 | Self::EnvoyH2 => 15001,
            Self::HaproxyH1 | Self::HaproxyH2 => 16001,
            Self::Mantlet => 14001,
        }
    }

    /// Where an application sends bytes.
    pub(crate) fn tcp_port(self) -> u16 {
        if self == Self::Direct { 8082 } else { self.http_port() + 1 }
    }

    /// Where the receiving sidecar takes HTTP from the network.
    pub(crate) fn inbound_port(self) -> u16 {
        self.http_port() + 5
    }

    /// The hop's protocol makes no difference to bytes, memory or start: one of the two stands for both.
    pub(crate) fn is_the_family(self) -> bool {
        !matches!(self, Self::EnvoyH1 | Self::HaproxyH1)
    }
}

// === impl Caller ===

impl Caller {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Intruder => "intruder",
        }
    }
}

// === impl Stage ===

impl Stage {
    /// Makes the certificates, which every pair shares, and starts a Workload API for each identity.
    pub(crate) fn new(dir: &Path, envoy: PathBuf, mantlet: PathBuf) -> io::Result<Self> {
        let authority = Authority::new(TRUST_DOMAIN);
        fs::write(dir.join("ca.pem"), authority.certificate_pem())?;
        let api = |name: &'static str| -> io::Result<_> {
            let svid = issue(&authority, name);
            let (chain, key) = (svid.chain_pem(), svid.key_pem());
            fs::write(dir.join(format!("{name}.pem")), &chain)?;
            fs::write(dir.join(format!("{name}.key")), &key)?;
            fs::write(dir.join(format!("{name}.both.pem")), chain + &key)?;
            Ok((name, WorkloadApi::serving(Answer::of(&svid))))
        };
        let apis = [api("client")?, api("server")?, api("intruder")?];
        fs::write(dir.join("policy"), include_str!("../configs/mantlet.policy"))?;
        Ok(Self { dir: dir.to_owned(), envoy, mantlet, apis })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The program that a pair runs.
    pub(crate) fn binary(&self, peer: Peer) -> PathBuf {
        match peer {
            Peer::EnvoyH1 | Peer::EnvoyH2 => self.envoy.clone(),
            Peer::HaproxyH1 | Peer::HaproxyH2 => PathBuf::from("/usr/sbin/haproxy"),
            Peer::Mantlet => self.mantlet.clone(),
            Peer::Direct => PathBuf::from("/usr/sbin/nginx"),
        }
    }

    /// Starts the application behind every pair and waits until it answers.
    pub(crate) fn origin(&self) -> io::Result<Process> {
        let config = include_str!("../configs/origin.conf").replace("@PAYLOAD@", &"x".repeat(128));
        let file = self.config("origin.conf", &config, Caller::Client)?;
        let error_log = self.dir.join("origin.start.log");
        let origin = Process::start(
            "origin",
            &self.dir,
            Command::new("nginx").arg("-e").arg(error_log).arg("-c").arg(file),
        )?;
        self.ready(8080, 200, &origin)?;
        Ok(origin)
    }

    /// Starts both sidecars and waits until a request goes through.
    pub(crate) fn pair(&self, peer: Peer) -> io::Result<Pair> {
        if peer == Peer::Direct {
            return Ok(Pair { outbound: None, inbound: None });
        }
        let inbound = self.inbound(peer)?;
        let outbound = self.outbound(peer, Caller::Client)?;
        self.ready(peer.http_port(), 200, &outbound)?;
        Ok(Pair { outbound: Some(outbound), inbound: Some(inbound) })
    }

    /// Waits for an answer; on failure the error carries what the process printed.
    pub(crate) fn ready(&self, port: u16, status: u16, process: &Process) -> io::Result<()> {
        wait_for_status(port, status, &self.dir.display().to_string())
            .map(drop)
            .map_err(|error| io::Error::other(format!("{error}\n{}", process.last_words())))
    }

    /// Starts the receiving sidecar.
    pub(crate) fn inbound(&self, peer: Peer) -> io::Result<Process> {
        let mut command = match peer {
            Peer::Direct => return Err(io::Error::other("there is no sidecar")),
            Peer::EnvoyH1 | Peer::EnvoyH2 => {
                let file =
                    self.config("envoy-in.yaml", include_str!("../configs/envoy-in.yaml"), Caller::Client)?;
                self.envoy_command(&file, "2")
            }
            Peer::HaproxyH1 | Peer::HaproxyH2 => {
                let file =
                    self.config("haproxy-in.cfg", include_str!("../configs/haproxy-in.cfg"), Caller::Client)?;
                haproxy_command(&file)
            }
            Peer::Mantlet => {
                let mut command = self.mantlet_command("server");
                command
                    .args(["--inbound", "127.0.0.1:14006=127.0.0.1:8080"])
                    .args(["--inbound", "127.0.0.1:14007=127.0.0.1:8082"])
                    .arg("--policy")
                    .arg(self.dir.join("policy"));
                command
            }
        };
        Process::start("inbound", &self.dir, &mut command)
    }

    /// Starts the sending sidecar under one identity.
    pub(crate) fn outbound(&self, peer: Peer, caller: Caller) -> io::Result<Process> {
        let mut command = match peer {
            Peer::Direct => return Err(io::Error::other("there is no sidecar")),
            Peer::EnvoyH1 | Peer::EnvoyH2 => {
                let (alpn, options) = if peer == Peer::EnvoyH2 {
                    (
                        "h2",
                        "http2_protocol_options: {max_concurrent_streams: 1000, initial_stream_window_size: 1048576, initial_connection_window_size: 16777216}",
                    )
                } else {
                    ("http/1.1", "http_protocol_options: {}")
                };
                let config = include_str!("../configs/envoy-out.yaml")
                    .replace("@HOP_ALPN@", alpn)
                    .replace("@HOP_OPTIONS@", options);
                self.envoy_command(&self.config("envoy-out.yaml", &config, caller)?, "1")
            }
            Peer::HaproxyH1 | Peer::HaproxyH2 => {
                let alpn = if peer == Peer::HaproxyH2 { "alpn h2,http/1.1" } else { "" };
                let config = include_str!("../configs/haproxy-out.cfg").replace("@HOP_ALPN@", alpn);
                haproxy_command(&self.config("haproxy-out.cfg", &config, caller)?)
            }
            Peer::Mantlet => {
                let mut command = self.mantlet_command(caller.name());
                command
                    .args(["--outbound", "127.0.0.1:14001=127.0.0.1:14006 is default/server"])
                    .args(["--outbound", "127.0.0.1:14002=127.0.0.1:14007 is default/server as tcp"]);
                command
            }
        };
        Process::start("outbound", &self.dir, &mut command)
    }

    fn config(&self, name: &str, template: &str, caller: Caller) -> io::Result<PathBuf> {
        let client_id: String = workload("client").bytes().map(|byte| format!("{byte:02X}")).collect();
        let dir = self.dir.display().to_string();
        let file = self.dir.join(name);
        let text = template
            .replace("@CERTS@", &dir)
            .replace("@DIR@", &dir)
            .replace("@WHO@", caller.name())
            .replace("@CLIENT_ID_HEX@", &client_id);
        fs::write(&file, text)?;
        Ok(file)
    }

    fn envoy_command(&self, config: &Path, base_id: &str) -> Command {
        let mut command = Command::new(&self.envoy);
        command.arg("-c").arg(config).args(["--concurrency", "1", "--base-id", base_id]);
        command.args(["--disable-hot-restart", "-l", "error"]);
        command
    }

    fn mantlet_command(&self, name: &str) -> Command {
        // Below the ephemeral ports, like every other listener here.
        let admin = if name == "server" { "127.0.0.1:14010" } else { "127.0.0.1:14011" };
        let api = self.apis.iter().find(|(of, _)| *of == name).map(|(_, api)| api.endpoint());
        let mut command = Command::new(&self.mantlet);
        // Nothing of the machine's environment configures the sidecar under test.
        command
            .env_clear()
            .args(["--workload-api", api.as_deref().unwrap_or_default()])
            .args(["--trust-domain", TRUST_DOMAIN, "--namespace", "default", "--service-account", name])
            .args(["--workers", "1", "--admin", admin]);
        command
    }
}

// === impl Pair ===

impl Pair {
    /// Process ids of the sidecars.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.outbound.iter().chain(&self.inbound).map(Process::pid).collect()
    }
}

fn haproxy_command(config: &Path) -> Command {
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(config);
    command
}

fn workload(name: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/{name}")
}

/// A leaf for one day: HAProxy checks the DNS name, everybody else the SPIFFE ID.
fn issue(authority: &Authority, name: &str) -> TestSvid {
    let mut options = SvidOptions::new(&workload(name)).expires_in(std::time::Duration::from_secs(86_400));
    options.dns = vec![format!("{name}.{TRUST_DOMAIN}")];
    authority.issue(&options)
}
