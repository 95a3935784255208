//! What the fuzz targets reach into. Built under `cfg(fuzzing)` alone.

use crate::HandshakeReason;

/// The bytes of the only URI of a subjectAltName extension.
///
/// # Errors
/// Why there is none.
pub fn single_uri(extension: &[u8]) -> Result<&[u8], HandshakeReason> {
    crate::certificate::single_uri(extension)
}
