//! Authorities on disk: one PEM file per trust domain, its first line says their states.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mantlet_id::TrustDomain;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use thiserror::Error;

use crate::authorities::{Authorities, AuthorityState};
use crate::authority::{Authority, CertificateError};

/// First words of the file.
const HEAD: &str = "mantlet development authorities:";
/// No SVID lives longer; a stored authority may have signed one just before the agent stopped.
const LONGEST_SVID: Duration = Duration::from_secs(86_400);

/// Why stored authorities cannot be used.
#[derive(Debug, Error)]
pub(crate) enum StorageError {
    #[error("cannot {what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{path} does not hold authorities of a development agent ({why}): repair it, or delete it to begin with a new authority"
    )]
    Content { path: PathBuf, why: String },
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// Loads the authorities of `domain`, or makes and stores new ones.
pub(crate) fn load_or_generate(
    directory: &Path,
    domain: &TrustDomain,
    ttl: Duration,
    now: SystemTime,
) -> Result<Authorities, StorageError> {
    let path = file(directory, domain);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let authorities = Authorities::generate(domain, ttl, now)?;
            store(directory, domain, &authorities)?;
            return Ok(authorities);
        }
        Err(source) => return Err(StorageError::Io { what: "read", path, source }),
    };
    let content = |why: String| StorageError::Content { path: path.clone(), why };
    let stored = parse(&text, now + LONGEST_SVID).map_err(content)?;
    Authorities::from_stored(domain, ttl, stored).ok_or_else(|| content("none is active".into()))
}

/// Writes the authorities so that a crash leaves the old file or the new one, never a part.
pub(crate) fn store(
    directory: &Path,
    domain: &TrustDomain,
    authorities: &Authorities,
) -> Result<(), StorageError> {
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| StorageError::Io { what, path, source }
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed("create the directory", directory))?;
    let path = file(directory, domain);
    let new = path.with_extension("pem.new");
    let _ = fs::remove_file(&new);
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .map_err(failed("create", &new))?;
    out.write_all(render(authorities).as_bytes()).map_err(failed("write", &new))?;
    out.sync_all().map_err(failed("write", &new))?;
    fs::rename(&new, &path).map_err(failed("replace", &path))
}

fn file(directory: &Path, domain: &TrustDomain) -> PathBuf {
    directory.join(format!("{domain}.pem"))
}

fn render(authorities: &Authorities) -> zeroize::Zeroizing<String> {
    let mut text = zeroize::Zeroizing::new(HEAD.to_owned());
    for (state, _) in authorities.all() {
        text.push(' ');
        text.push_str(state.as_str());
    }
    text.push('\n');
    for (_, authority) in authorities.all() {
        text.push_str(&pem("CERTIFICATE", authority.certificate()));
        text.push_str(&zeroize::Zeroizing::new(pem("PRIVATE KEY", &authority.key())));
    }
    text
}

fn parse(text: &str, last_leaf: SystemTime) -> Result<Vec<(AuthorityState, Authority)>, String> {
    let head = text.lines().next().unwrap_or_default();
    let words = head.strip_prefix(HEAD).ok_or("its first line is another")?;
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let keys: Vec<PrivatePkcs8KeyDer<'static>> = PrivatePkcs8KeyDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let states: Vec<&str> = words.split_whitespace().collect();
    if states.len() != certificates.len() || states.len() != keys.len() {
        return Err("states, certificates and keys differ in number".into());
    }
    let mut stored = Vec::new();
    for ((state, certificate), key) in states.into_iter().zip(certificates).zip(&keys) {
        let state = [AuthorityState::Active, AuthorityState::Prepared, AuthorityState::Old]
            .into_iter()
            .find(|known| known.as_str() == state)
            .ok_or_else(|| format!("unknown state {state:?}"))?;
        let authority =
            Authority::from_stored(certificate, key, last_leaf).map_err(|error| error.to_string())?;
        stored.push((state, authority));
    }
    Ok(stored)
}

fn pem(label: &str, der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(label, der), config)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const TTL: Duration = Duration::from_secs(3_600);

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("mantlet-ca-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn authorities_survive_a_restart_with_their_states() {
        let directory = scratch("restart");
        let domain = TrustDomain::parse("a.test").unwrap();
        let now = SystemTime::now();
        let mut first = load_or_generate(&directory, &domain, TTL, now).unwrap();
        first.prepare(now).unwrap();
        first.activate().unwrap();
        first.prepare(now).unwrap();
        store(&directory, &domain, &first).unwrap();
        let second = load_or_generate(&directory, &domain, TTL, now).unwrap();
        assert_eq!(second.info(), first.info());
        assert_eq!(second.bundle(), first.bundle());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn nobody_else_can_read_the_keys() {
        let directory = scratch("mode");
        let domain = TrustDomain::parse("a.test").unwrap();
        load_or_generate(&directory, &domain, TTL, SystemTime::now()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join("a.test.pem")), 0o600);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it_and_never_silently_replaced() {
        let directory = scratch("damaged");
        let domain = TrustDomain::parse("a.test").unwrap();
        let now = SystemTime::now();
        load_or_generate(&directory, &domain, TTL, now).unwrap();
        let path = directory.join("a.test.pem");
        let good = fs::read_to_string(&path).unwrap();
        for bad in [
            String::new(),
            good.replace("active", "waiting"),
            good.replace("active", "active old"),
            "x".into(),
        ] {
            fs::write(&path, &bad).unwrap();
            let error = load_or_generate(&directory, &domain, TTL, now).err().unwrap().to_string();
            assert!(error.contains("a.test.pem") && error.contains("delete it"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), bad);
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
