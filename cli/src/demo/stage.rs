//! Everything that runs during the demo: the development agent, the apps, the sidecars.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use mantlet_devagent::{Config, Entry, Handle, RunError, Server};
use mantlet_id::TrustDomain;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::app::App;
use super::plan::{NAMESPACE, SVID_TTL, TRUST_DOMAIN, WORKLOADS, Workload};
use super::report::{Report, Scene};
use super::scratch::Scratch;
use super::sidecar::Sidecar;
use crate::failure::Failure;
use crate::version::VERSION;

/// The value of `mantlet.dev/mode` of a policy in force.
pub(crate) const ENFORCE: &str = "enforce";

/// A port that is called, by workload and name, and where it is.
type Call = ((&'static str, &'static str), SocketAddr);

/// What runs. Dropping it ends everything; [`strike`](Self::strike) does so in order.
pub(crate) struct Stage {
    pub(crate) agent: Handle,
    pub(crate) actors: BTreeMap<&'static str, Actor>,
    stop_agent: oneshot::Sender<()>,
    agent_task: JoinHandle<Result<(), RunError>>,
    scratch: Scratch,
}

/// A workload with its apps and its sidecar.
pub(crate) struct Actor {
    pub(crate) id: String,
    pub(crate) sidecar: Sidecar,
    /// Its ports by name: the app, and where peers reach it.
    pub(crate) ports: BTreeMap<&'static str, (App, SocketAddr)>,
    /// Where its app calls others, by their name and port.
    pub(crate) outbound: BTreeMap<(&'static str, &'static str), SocketAddr>,
    pub(crate) admin: SocketAddr,
    /// Its annotations, if it serves anything.
    pub(crate) annotations: Option<PathBuf>,
}

// === impl Stage ===

impl Stage {
    /// Starts the agent; the workloads come with [`raise`](Self::raise).
    pub(crate) fn new(report: &Report<'_>) -> Result<Self, Failure> {
        let scratch = Scratch::new().map_err(|error| {
            Failure::finding(format!("cannot make a directory in {}", std::env::temp_dir().display()))
                .because(&error)
                .next("set TMPDIR to a directory that you can write to")
        })?;
        let trust_domain = TrustDomain::parse(TRUST_DOMAIN).map_err(|error| bug(&error))?;
        let socket = scratch.path().join("agent.sock");
        let mut config = Config::new(&socket, trust_domain);
        config.svid_ttl = SVID_TTL;
        let server = Server::bind(config).map_err(|error| {
            Failure::finding("the development agent cannot start")
                .because(&error)
                .next("set TMPDIR to a directory with a short path")
        })?;
        let agent = server.handle();
        let (stop_agent, stopped) = oneshot::channel();
        let agent_task = tokio::spawn(server.run(async move {
            // Dropping the sender is a request to stop as well.
            let _ = stopped.await;
        }));
        report.show(&Scene::Start { version: VERSION });
        report.show(&Scene::WorkloadApi {
            addr: format!("unix://{}", socket.display()),
            trust_domain: TRUST_DOMAIN,
            svid_seconds: SVID_TTL.as_secs(),
        });
        Ok(Self { agent, actors: BTreeMap::new(), stop_agent, agent_task, scratch })
    }

    /// Starts the workloads, each with its apps and its sidecar, and waits until they are ready.
    pub(crate) async fn raise(&mut self, report: &Report<'_>) -> Result<(), Failure> {
        for workload in WORKLOADS.iter().filter(|workload| !workload.policy.is_empty()) {
            report.show(&Scene::Policy { workload: workload.name, lines: workload.policy });
        }
        for workload in WORKLOADS {
            let begin = Instant::now();
            let actor = self.start(workload).await?;
            report.show(&Scene::Sidecar {
                name: workload.name,
                id: actor.id.clone(),
                pid: actor.sidecar.pid,
                inbound: actor.ports.iter().map(|(name, (_, inbound))| (*name, *inbound)).collect(),
                outbound: actor
                    .outbound
                    .iter()
                    .map(|((called, port), addr)| (format!("{called}:{port}"), *addr))
                    .collect(),
                admin: actor.admin,
                milliseconds: begin.elapsed().as_millis(),
            });
            self.actors.insert(workload.name, actor);
        }
        Ok(())
    }

    /// The private directory.
    pub(crate) fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// Where `caller` reaches `called`.
    pub(crate) fn outbound(
        &mut self,
        caller: &str,
        called: (&'static str, &'static str),
    ) -> Result<SocketAddr, Failure> {
        let found = self.actor(caller)?.outbound.get(&called).copied();
        found.ok_or_else(|| Failure::finding(format!("{caller} does not call {}", called.0)))
    }

    /// Where peers reach a port of `called`.
    pub(crate) fn inbound(&mut self, called: &str, port: &str) -> Result<SocketAddr, Failure> {
        let found = self.actor(called)?.ports.get(port).map(|(_, inbound)| *inbound);
        found.ok_or_else(|| Failure::finding(format!("{called} has no port {port}")))
    }

    /// What came through to an app.
    pub(crate) fn reached(&mut self, called: &str, port: &str) -> Result<u64, Failure> {
        Ok(self.actor(called)?.ports.get(port).map_or(0, |(app, _)| app.reached()))
    }

    /// Gives a workload other annotations while it runs, and waits until its sidecar has taken them over.
    pub(crate) async fn edit(&mut self, name: &str, policy: &[&str], mode: &str) -> Result<(), Failure> {
        let actor = self.actor(name)?;
        let loaded = actor.sidecar.policies();
        if let Some(file) = &actor.annotations {
            annotate(file, policy, mode)?;
        }
        actor.sidecar.takes_over(loaded).await
    }

    pub(crate) fn actor(&mut self, name: &str) -> Result<&mut Actor, Failure> {
        self.actors.get_mut(name).ok_or_else(|| Failure::finding(format!("{name} is not on the stage")))
    }

    /// Completes when a sidecar ends by itself.
    pub(crate) async fn broken(&mut self) -> Failure {
        let mut ends: Vec<_> =
            self.actors.values_mut().map(|actor| Box::pin(actor.sidecar.ended())).collect();
        std::future::poll_fn(|context| {
            for end in &mut ends {
                if let std::task::Poll::Ready(failure) = end.as_mut().poll(context) {
                    return std::task::Poll::Ready(failure);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// Ends everything in order: the sidecars, then the agent, then the directory.
    pub(crate) async fn strike(self) {
        for actor in self.actors.values() {
            actor.sidecar.terminate();
        }
        for actor in self.actors.into_values() {
            actor.sidecar.stop().await;
        }
        let _ = self.stop_agent.send(());
        let _ = self.agent_task.await;
        drop(self.scratch);
    }

    async fn start(&self, workload: &'static Workload) -> Result<Actor, Failure> {
        let name = workload.name;
        let id = workload.id().map_err(|error| bug(&error))?;
        let mut apps = Vec::new();
        for port in workload.ports {
            let app = App::start(name, port.speaks).await.map_err(|error| {
                Failure::finding(format!("the app of {name} cannot listen on loopback")).because(&error)
            })?;
            apps.push((port.name, app));
        }
        let annotations = match workload.policy {
            [] => None,
            policy => {
                let file = self.directory().join(format!("{name}.annotations"));
                annotate(&file, policy, ENFORCE)?;
                Some(file)
            }
        };
        let (arguments, called) = self.arguments(workload, &apps, annotations.as_deref())?;
        let mut sidecar = Sidecar::start(name, arguments)?;
        self.agent.add_entry(Entry::for_pid(id.clone(), sidecar.pid)).map_err(|error| bug(&error))?;
        let admin = sidecar.listening("admin", None).await?;
        let mut ports = BTreeMap::new();
        for (port, app) in apps {
            let inbound = sidecar.listening("inbound", Some(app.addr)).await?;
            ports.insert(port, (app, inbound));
        }
        let mut outbound = BTreeMap::new();
        for (call, inbound) in called {
            outbound.insert(call, sidecar.listening("outbound", Some(inbound)).await?);
        }
        sidecar.ready().await?;
        if !ports.is_empty() {
            sidecar.watch(admin).await?;
        }
        Ok(Actor { id: id.to_string(), sidecar, ports, outbound, admin, annotations })
    }

    fn arguments(
        &self,
        workload: &Workload,
        apps: &[(&'static str, App)],
        annotations: Option<&Path>,
    ) -> Result<(Vec<OsString>, Vec<Call>), Failure> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut give = |flag: &str, value: String| arguments.extend([flag.into(), value.into()]);
        give("--workload-api", format!("unix://{}", self.directory().join("agent.sock").display()));
        give("--trust-domain", TRUST_DOMAIN.to_owned());
        give("--namespace", NAMESPACE.to_owned());
        give("--service-account", workload.name.to_owned());
        give("--admin", "127.0.0.1:0".to_owned());
        give("--drain-deadline", "1s".to_owned());
        if let Some(file) = annotations {
            give("--annotations", file.display().to_string());
            let ports = apps.iter().map(|(name, app)| format!("{name}={}/tcp", app.addr.port()));
            give("--ports", ports.collect::<Vec<_>>().join(","));
        }
        for (_, app) in apps {
            give("--inbound", format!("127.0.0.1:0={}", app.addr));
        }
        let mut calls = Vec::new();
        for call in workload.calls {
            let (called, port) = call;
            let inbound = self.actors.get(called).and_then(|actor| Some(actor.ports.get(port)?.1));
            let inbound = inbound.ok_or_else(|| {
                Failure::finding(format!("{} calls {called}, which is not on the stage", workload.name))
            })?;
            let speaks =
                WORKLOADS.iter().filter(|workload| workload.name == *called).flat_map(|one| one.ports);
            let protocol = speaks.filter(|one| one.name == *port).map(|one| one.speaks.protocol()).next();
            let protocol = protocol.unwrap_or_default();
            give("--outbound", format!("127.0.0.1:0={inbound} is {NAMESPACE}/{called} as {protocol}"));
            calls.push((*call, inbound));
        }
        Ok((arguments, calls))
    }
}

/// Writes annotations as Kubernetes delivers them to a pod: all at once, under another name first.
fn annotate(file: &Path, policy: &[&str], mode: &str) -> Result<(), Failure> {
    let text = format!("mantlet.dev/mode={mode:?}\nmantlet.dev/policy={:?}", policy.join("\n"));
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, text)
        .and_then(|()| std::fs::rename(&fresh, file))
        .map_err(|error| Failure::finding(format!("cannot write {}", file.display())).because(&error))
}

/// What cannot be in a program that passes its own tests.
fn bug(error: &dyn std::error::Error) -> Failure {
    Failure::finding("the demo's own plan is wrong").because(error)
}
