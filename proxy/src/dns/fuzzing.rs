//! What the fuzz targets reach into. Built under `cfg(fuzzing)` alone.

use super::{
    Answer, LookupError,
    message::{Question, Reply},
};

/// What `bytes` from a server say to the question with this id for the addresses of `name`.
/// `None`: they are no answer to it. `Ok(None)`: the answer did not fit, and must be asked over TCP.
///
/// # Errors
/// The name cannot be asked for, the server failed, or the answer says nothing.
pub fn reply(id: u16, name: &str, v6: bool, bytes: &[u8]) -> Option<Result<Option<Answer>, LookupError>> {
    let question = match Question::new(id, name, v6) {
        Ok(question) => question,
        Err(error) => return Some(Err(error)),
    };
    Some(question.reply(bytes)?.map(|reply| match reply {
        Reply::Answer(answer) => Some(answer),
        Reply::Truncated => None,
    }))
}
