//! Everything that runs during the demo: the development agent, the apps, the sidecars.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
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

/// What runs. Dropping it ends everything; [`strike`](Self::strike) does so in order.
pub(crate) struct Stage {
    pub(crate) agent: Handle,
    pub(crate) actors: BTreeMap<&'static str, Actor>,
    stop_agent: oneshot::Sender<()>,
    agent_task: JoinHandle<Result<(), RunError>>,
    scratch: Scratch,
}

/// A workload with its app and its sidecar.
pub(crate) struct Actor {
    pub(crate) id: String,
    pub(crate) app: App,
    pub(crate) sidecar: Sidecar,
    /// Where peers reach it.
    pub(crate) inbound: Option<SocketAddr>,
    /// Where its app calls others.
    pub(crate) outbound: Option<SocketAddr>,
    pub(crate) admin: SocketAddr,
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

    /// Starts the workloads, each with its app and its sidecar, and waits until they are ready.
    pub(crate) async fn raise(&mut self, report: &Report<'_>) -> Result<(), Failure> {
        for workload in WORKLOADS {
            let begin = Instant::now();
            let actor = self.start(workload, report).await?;
            report.show(&Scene::Sidecar {
                name: workload.name,
                id: actor.id.clone(),
                pid: actor.sidecar.pid,
                inbound: actor.inbound,
                outbound: actor.outbound,
                admin: actor.admin,
                milliseconds: begin.elapsed().as_millis(),
            });
            self.actors.insert(workload.name, actor);
        }
        Ok(())
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

    async fn start(&self, workload: &'static Workload, report: &Report<'_>) -> Result<Actor, Failure> {
        let name = workload.name;
        let id = workload.id().map_err(|error| bug(&error))?;
        let app = App::start(name).await.map_err(|error| {
            Failure::finding(format!("the app of {name} cannot listen on loopback")).because(&error)
        })?;
        let policy = workload.policy_for(app.addr);
        let arguments = self.arguments(workload, &app, policy.as_deref())?;
        let mut sidecar = Sidecar::start(name, arguments)?;
        self.agent.add_entry(Entry::for_pid(id.clone(), sidecar.pid)).map_err(|error| bug(&error))?;
        if let Some(line) = &policy {
            report.show(&Scene::Policy { workload: name, line });
        }
        let admin = sidecar.listening("admin").await?;
        let inbound = match policy {
            Some(_) => Some(sidecar.listening("inbound").await?),
            None => None,
        };
        let outbound = match workload.calls {
            [] => None,
            _ => Some(sidecar.listening("outbound").await?),
        };
        sidecar.ready().await?;
        Ok(Actor { id: id.to_string(), app, sidecar, inbound, outbound, admin })
    }

    fn arguments(
        &self,
        workload: &Workload,
        app: &App,
        policy: Option<&str>,
    ) -> Result<Vec<OsString>, Failure> {
        let directory = self.scratch.path();
        let mut arguments: Vec<OsString> = Vec::new();
        let mut give = |flag: &str, value: String| arguments.extend([flag.into(), value.into()]);
        give("--workload-api", format!("unix://{}", directory.join("agent.sock").display()));
        give("--trust-domain", TRUST_DOMAIN.to_owned());
        give("--namespace", NAMESPACE.to_owned());
        give("--service-account", workload.name.to_owned());
        give("--admin", "127.0.0.1:0".to_owned());
        give("--drain-deadline", "1s".to_owned());
        if let Some(policy) = policy {
            let file = directory.join(format!("{}.policy", workload.name));
            std::fs::write(&file, format!("{policy}\n")).map_err(|error| {
                Failure::finding(format!("cannot write {}", file.display())).because(&error)
            })?;
            give("--policy", file.display().to_string());
            give("--inbound", format!("127.0.0.1:0={}", app.addr));
        }
        for called in workload.calls {
            let inbound = self.actors.get(called).and_then(|actor| actor.inbound).ok_or_else(|| {
                Failure::finding(format!("{} calls {called}, which is not on the stage", workload.name))
            })?;
            give("--outbound", format!("127.0.0.1:0={inbound} is {NAMESPACE}/{called} as http"));
        }
        Ok(arguments)
    }
}

/// What cannot be in a program that passes its own tests.
fn bug(error: &dyn std::error::Error) -> Failure {
    Failure::finding("the demo's own plan is wrong").because(error)
}
