//! The level of the process log, for a while: nobody forgets it at `debug`, because it ends by itself.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    admin::Explain,
    config::values,
    log::{Log, LogLevel},
};

/// Shortest and longest time.
const LIMITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(86_400));

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    level: String,
    /// With its unit.
    #[serde(rename = "for")]
    limit: String,
}

/// What answers `POST /log`.
pub(super) fn setting(level: LogLevel, log: Log) -> Explain {
    Box::new(move |request| set(&level, &log, request))
}

fn set(level: &LogLevel, log: &Log, request: &Value) -> Result<Value, String> {
    let help = r#"write {"level": "debug", "for": "10m"}"#;
    let request = Request::deserialize(request).map_err(|error| format!("{error}; {help}"))?;
    let limit = values::duration(&request.limit, LIMITS.0, LIMITS.1)
        .map_err(|problem| format!("for {:?}: {problem}; {help}", request.limit))?;
    let change = level.set(&request.level).ok_or_else(|| {
        format!("{:?} is no level: off, error, warn, info, debug, trace; {help}", request.level)
    })?;
    log.event(
        "log_level",
        &[("level", request.level.as_str().into()), ("for", request.limit.as_str().into())],
    );
    let (level, log, configured) = (level.clone(), log.clone(), level.configured());
    let answer = json!({"level": request.level, "for": request.limit, "then": configured});
    tokio::spawn(async move {
        tokio::time::sleep(limit).await;
        if level.revert(&change) {
            log.event("log_level", &[("level", configured.as_str().into())]);
        }
    });
    Ok(answer)
}
