//! What is played, and what must come of it.

mod calls;
mod changes;
mod flow;

use mantlet_devagent::Issuance;
use tokio::sync::broadcast::Receiver;

use self::calls::Expect;
pub(crate) use self::flow::Flow;
use super::client::Client;
use super::plan::{DROP, GET};
use super::report::{Call, Report, Scene};
use super::stage::Stage;
use super::stranger::Stranger;
use crate::failure::Failure;

/// How many checks were made and how many failed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Score {
    pub(crate) checks: usize,
    pub(crate) failed: usize,
}

/// Plays everything once. Requests flow all the while, and go on to flow.
pub(crate) async fn play(
    stage: &mut Stage,
    issuances: &mut Receiver<Issuance>,
    report: &Report<'_>,
) -> Result<(Score, Flow), Failure> {
    let mut score = Score::default();
    let mut flow = Flow::start(stage.outbound("web", ("api", "http"))?);
    let mut web = Client::new(stage.outbound("web", ("api", "http"))?);
    let mut intruder = Client::new(stage.outbound("intruder", ("api", "http"))?);
    let mut show = |call: Call| {
        score.count(call.passed());
        report.show(&Scene::Call(call));
    };

    report.head();
    show(calls::http(stage, &mut web, "web", "GET", Expect::Allow("web-read")).await?);
    show(calls::http(stage, &mut web, "web", "DELETE", Expect::Deny).await?);
    show(calls::http(stage, &mut intruder, "intruder", "GET", Expect::Deny).await?);
    show(calls::grpc(stage, GET, Expect::Allow("api-get")).await?);
    show(calls::grpc(stage, DROP, Expect::Deny).await?);
    show(calls::tcp(stage, "api", Expect::Allow("api-sql")).await?);
    show(calls::tcp(stage, "intruder", Expect::Deny).await?);

    let (call, certificate) =
        calls::refused(stage, "no cert", "no_peer_cert", Stranger::NoCertificate).await?;
    show(call);
    let forger = calls::forger(stage).await?;
    show(calls::refused(stage, "forged", "unknown_issuer", forger).await?.0);
    show(calls::refused(stage, "plaintext", "protocol", Stranger::Plaintext).await?.0);

    report.edit("api", "audit mode: what would be refused passes, and is counted");
    changes::audit(stage).await?;
    show(calls::http(stage, &mut intruder, "intruder", "GET", Expect::WouldDeny).await?);
    changes::enforce(stage).await?;
    report.edit("api", "enforces again");
    show(calls::http(stage, &mut intruder, "intruder", "GET", Expect::Deny).await?);

    report.edit("db", "the line api-watch is removed while api reads a stream");
    show(changes::revoked_stream(stage).await?);
    show(calls::grpc(stage, GET, Expect::Allow("api-get")).await?);
    changes::restore(stage).await?;

    let rotation = flow::rotation(stage, &mut flow, issuances, certificate).await?;
    score.count(rotation.problem.is_none());
    report.show(&Scene::Rotation(rotation));
    Ok((score, flow))
}

// === impl Score ===

impl Score {
    fn count(&mut self, passed: bool) {
        self.checks += 1;
        self.failed += usize::from(!passed);
    }
}
