//! `mantlet version`.

use serde_json::json;

use crate::arguments::{Format, VersionArgs};
use crate::failure::Failure;
use crate::output::Output;

/// The version, as the manifest has it.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) fn run(arguments: &VersionArgs, output: &Output) -> Result<(), Failure> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    match arguments.output {
        Format::Table => output.line(&format!("mantlet {VERSION} ({os} {arch})")),
        Format::Json => {
            output.line(&json!({"name": "mantlet", "version": VERSION, "os": os, "arch": arch}).to_string());
        }
    }
    Ok(())
}
