//! Our own application certificate: RSA-2048, self-signed, ten years, made once.
//!
//! It is never renewed by itself: every server would have to trust it anew. When its end comes near, that is
//! logged at each start of a session.

use std::path::{Path, PathBuf};

use opcua::crypto::{PrivateKey, X509, X509Data};
use opcua::types::ByteString;
use serde::Serialize;
use tracing::{info, warn};

use super::{Pki, PkiError, exists, move_durably, write_durably};

/// What the policies ask for at least, and what every server takes.
const KEY_BITS: u32 = 2048;
/// Ten years with their leap days.
const DAYS: u32 = 3653;
/// How long before its end the certificate is warned about.
const WARNING_DAYS: i64 = 180;

/// A renewed certificate and its key, until both are in place.
const NEXT_CERT: &str = "own/next.der";
const NEXT_KEY: &str = "private/next.pem";

/// Our application certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OwnCertificate {
    /// Where it lies.
    pub path: PathBuf,
    /// SHA-1 of its DER, in hex: how OPC UA tools name certificates.
    pub thumbprint: String,
    /// Its common name.
    pub common_name: String,
    /// The ApplicationUri.
    pub application_uri: String,
    /// Begin of its validity, RFC 3339.
    pub not_before: String,
    /// End of its validity, RFC 3339.
    pub not_after: String,
    /// Whole days until then.
    pub days_left: i64,
    /// Itself, in DER.
    #[serde(skip)]
    pub der: Vec<u8>,
}

impl OwnCertificate {
    /// Itself, in PEM.
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }
}

impl Pki {
    /// Our certificate; made when there is none yet and `clock_right`.
    ///
    /// Blocks for the time of an RSA key generation.
    pub fn own_certificate(&self, clock_right: bool) -> Result<OwnCertificate, PkiError> {
        let application_uri = self.own(clock_right)?;
        let path = self.dir.join("own/cert.der");
        let der = std::fs::read(&path).map_err(|source| PkiError::File { path: path.clone(), source })?;
        let damaged = || PkiError::Damaged { path: path.clone() };
        let cert = X509::from_der(&der).map_err(|_| damaged())?;
        let (not_before, not_after) =
            (cert.not_before().map_err(|_| damaged())?, cert.not_after().map_err(|_| damaged())?);
        Ok(OwnCertificate {
            thumbprint: cert.thumbprint().as_hex_string(),
            common_name: common_name(&cert),
            application_uri,
            not_before: not_before.to_rfc3339(),
            not_after: not_after.to_rfc3339(),
            days_left: days_left(not_after.timestamp()),
            path: path.clone(),
            der,
        })
    }

    /// Makes a new key and certificate for our name, and keeps those before as `own/former.der` and
    /// `private/former.pem`. Sessions show it from their next connection on, and every server has to trust it anew.
    pub fn renew(&self, clock_right: bool) -> Result<OwnCertificate, PkiError> {
        if !clock_right {
            return Err(PkiError::ClockWrong);
        }
        let former = self.own_certificate(clock_right)?;
        let host = former.common_name.rsplit('@').next().unwrap_or_default();
        let names = certificate_names(host, &former.application_uri, None);
        let lock = self.lock()?;
        let (cert, key) = (self.dir.join("own/cert.der"), self.dir.join("private/private.pem"));
        for (from, to, mode) in [(&cert, "own/former.der", 0o644), (&key, "private/former.pem", 0o600)] {
            let bytes = std::fs::read(from).map_err(|source| PkiError::File { path: from.clone(), source })?;
            write_durably(&self.dir.join(to), &bytes, mode)?;
        }
        make(&names, &self.dir.join(NEXT_CERT), &self.dir.join(NEXT_KEY))?;
        self.put_next_in_place()?;
        drop(lock);
        info!(certificate = %cert.display(), "opcua application certificate renewed");
        self.own_certificate(clock_right)
    }

    /// Finishes a renewal, also one that broke off: the certificate is written after its key and put in place after it,
    /// so where it is there the key is, too, in one place or the other.
    fn put_next_in_place(&self) -> Result<(), PkiError> {
        let (cert, key) = (self.dir.join(NEXT_CERT), self.dir.join(NEXT_KEY));
        if !exists(&cert)? {
            return Ok(());
        }
        if exists(&key)? {
            move_durably(&key, &self.dir.join("private/private.pem"))?;
        }
        move_durably(&cert, &self.dir.join("own/cert.der"))
    }

    /// Reads our certificate, or makes it the first time, and gives its ApplicationUri. `clock_right`: a certificate
    /// made before the clock was ever set would never be valid.
    ///
    /// Blocks for the time of an RSA key generation: not for a worker thread.
    pub(crate) fn own(&self, clock_right: bool) -> Result<String, PkiError> {
        let lock = self.lock()?;
        self.put_next_in_place()?;
        let cert_path = self.dir.join("own/cert.der");
        let key_path = self.dir.join("private/private.pem");
        if !exists(&cert_path)? {
            if !clock_right {
                return Err(PkiError::ClockWrong);
            }
            // A key without its certificate is left from a start that broke off: no server has ever seen it.
            let name = host_name();
            let names = certificate_names(&name, &application_uri(&name), None);
            make(&names, &cert_path, &key_path)?;
            info!(certificate = %cert_path.display(), "opcua application certificate made");
        }
        drop(lock);
        if !exists(&key_path)? {
            return Err(PkiError::KeyLost { cert: cert_path, key: key_path });
        }
        PrivateKey::read_pem_file(&key_path).map_err(|_| PkiError::Damaged { path: key_path })?;
        let bytes = std::fs::read(&cert_path).map_err(|source| PkiError::File { path: cert_path.clone(), source })?;
        let damaged = || PkiError::Damaged { path: cert_path.clone() };
        let cert = X509::from_der(&bytes).map_err(|_| damaged())?;
        // The host may have been renamed since: the certificate decides.
        let common_name = cert.common_name().map_err(|_| damaged())?;
        let host = common_name.rsplit('@').next().unwrap_or_default();
        let uri = application_uri(host);
        cert.is_application_uri_valid(&uri).map_err(|_| damaged())?;
        let ends = cert.not_after().map_err(|_| damaged())?;
        let days_left = days_left(ends.timestamp());
        if days_left < WARNING_DAYS {
            warn!(certificate = %cert_path.display(), days_left, "opcua application certificate ends soon");
        }
        Ok(uri)
    }
}

fn days_left(end: i64) -> i64 {
    (end - opcua::types::DateTime::now().as_chrono().timestamp()) / 86_400
}

/// The common name without what a terminal would act on.
pub(super) fn common_name(cert: &X509) -> String {
    let name = cert.common_name().unwrap_or_default();
    name.strip_prefix("CN=").unwrap_or(&name).chars().filter(|c| !c.is_control()).collect()
}

/// Servers compare it with the one in the certificate.
fn application_uri(host: &str) -> String {
    format!("urn:{host}:fieldgate")
}

/// The name of the machine, as far as it can stand in a certificate.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    // A common name has at most 64 characters (RFC 5280, upper bounds).
    let name: String = name.trim().chars().filter(allowed).take(50).collect();
    if name.is_empty() { "gateway".to_owned() } else { name }
}

/// The contents of a certificate for the application `uri` on `host`.
pub(crate) fn certificate_names(host: &str, uri: &str, addresses: Option<Vec<String>>) -> X509Data {
    let addresses = addresses.unwrap_or_else(|| vec![host.to_owned()]);
    X509Data {
        key_size: KEY_BITS,
        common_name: format!("fieldgate@{host}"),
        organization: "Fieldgate".to_owned(),
        organizational_unit: String::new(),
        country: String::new(),
        state: String::new(),
        alt_host_names: X509Data::alt_host_names(uri, Some(addresses), false, false, false),
        certificate_duration_days: DAYS,
    }
}

/// Makes a key and its certificate; the certificate is written last, so that it is never without its key.
pub(crate) fn make(names: &X509Data, cert_path: &Path, key_path: &Path) -> Result<(), PkiError> {
    let key = PrivateKey::new(names.key_size).map_err(|error| PkiError::Making(error.to_string()))?;
    let cert = X509::from_pkey(&key, names).map_err(PkiError::Making)?;
    let cert = cert.to_der().map_err(|_| PkiError::Making("it can't be encoded".to_owned()))?;
    let key = key.to_der().map_err(|error| PkiError::Making(error.to_string()))?;
    write_durably(key_path, pem("PRIVATE KEY", key.as_bytes()).as_bytes(), 0o600)?;
    write_durably(cert_path, &cert, 0o644)
}

/// PEM with lines of 64 as RFC 7468 asks for. (The library ends its lines with CR alone.)
fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    let base64 = ByteString::from(der).as_base64();
    for line in base64.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn makes_the_certificate_once_and_keeps_its_key_private() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path().join("opcua"));
        assert!(matches!(pki.own(false), Err(PkiError::ClockWrong)));
        let uri = pki.own(true).unwrap();
        let cert = std::fs::read(pki.dir.join("own/cert.der")).unwrap();
        let parsed = X509::from_der(&cert).unwrap();
        assert_eq!(parsed.key_length().unwrap(), 2048);
        assert!(uri.starts_with("urn:") && uri.ends_with(":fieldgate"), "{uri}");
        parsed.is_application_uri_valid(&uri).unwrap();
        let years = (parsed.not_after().unwrap() - parsed.not_before().unwrap()).num_days();
        assert_eq!(years, i64::from(DAYS));

        let mode = |path: &str| std::fs::metadata(pki.dir.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(""), mode("private"), mode("private/private.pem")], [0o700, 0o700, 0o600]);

        assert_eq!(pki.own(false).unwrap(), uri);
        assert_eq!(std::fs::read(pki.dir.join("own/cert.der")).unwrap(), cert);
    }

    #[test]
    fn a_renewed_certificate_keeps_its_name_and_the_former_pair_stays_at_hand() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path().to_owned());
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        let first = pki.own_certificate(true).unwrap();
        let first_key = read("private/private.pem");
        assert!((3650..=3653).contains(&first.days_left), "{first:?}");
        assert!(matches!(pki.renew(false), Err(PkiError::ClockWrong)));
        let second = pki.renew(true).unwrap();
        assert_ne!(second.thumbprint, first.thumbprint);
        assert_eq!((&second.application_uri, &second.common_name), (&first.application_uri, &first.common_name));
        assert_eq!((read("own/former.der"), read("private/former.pem")), (first.der, first_key.clone()));
        assert_ne!(read("private/private.pem"), first_key);
        assert_eq!(read("own/cert.der"), second.der);
        let again = X509::from_pem(second.pem().as_bytes()).unwrap();
        assert_eq!(again.to_der().unwrap(), second.der);
    }

    #[test]
    fn a_renewal_that_broke_off_is_finished_or_has_not_begun() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path().to_owned());
        let first = pki.own_certificate(true).unwrap();
        let names = certificate_names("gw", "urn:gw:fieldgate", None);
        let (cert, key) = (dir.path().join(NEXT_CERT), dir.path().join(NEXT_KEY));
        make(&names, &cert, &key).unwrap();
        let (der, pem) = (std::fs::read(&cert).unwrap(), std::fs::read(&key).unwrap());
        // Before its certificate, there is no renewal.
        std::fs::remove_file(&cert).unwrap();
        assert_eq!(pki.own_certificate(true).unwrap().der, first.der);
        // With both; and with the key already in its place.
        for key_moved in [false, true] {
            std::fs::write(&cert, &der).unwrap();
            std::fs::write(if key_moved { dir.path().join("private/private.pem") } else { key.clone() }, &pem).unwrap();
            assert_eq!(pki.own_certificate(true).unwrap().der, der);
            assert_eq!(std::fs::read(dir.path().join("private/private.pem")).unwrap(), pem);
            assert!(!cert.exists() && !key.exists());
        }
    }

    #[test]
    fn says_when_the_key_is_lost_instead_of_making_another() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path().to_owned());
        pki.own(true).unwrap();
        std::fs::remove_file(dir.path().join("private/private.pem")).unwrap();
        assert!(matches!(pki.own(true), Err(PkiError::KeyLost { .. })));
        std::fs::write(dir.path().join("private/private.pem"), "x").unwrap();
        assert!(matches!(pki.own(true), Err(PkiError::Damaged { .. })));
    }
}
