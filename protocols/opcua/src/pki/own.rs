//! Our own application certificate: RSA-2048, self-signed, ten years, made once.
//!
//! It is never renewed by itself: every server would have to trust it anew. When its end comes near, that is
//! logged at each start of a session.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use opcua::crypto::{PrivateKey, X509, X509Data};
use opcua::types::ByteString;
use tracing::{info, warn};

use super::{Pki, PkiError, exists, write_durably};

/// What the policies ask for at least, and what every server takes.
const KEY_BITS: u32 = 2048;
/// Ten years with their leap days.
const DAYS: u32 = 3653;
/// How long before its end the certificate is warned about.
const WARNING_DAYS: i64 = 180;

/// Sessions start at the same time; the certificate is made by one of them.
static MAKING: Mutex<()> = Mutex::new(());

impl Pki {
    /// Reads our certificate, or makes it the first time, and gives its ApplicationUri. `clock_right`: a certificate
    /// made before the clock was ever set would never be valid.
    ///
    /// Blocks for the time of an RSA key generation: not for a worker thread.
    pub(crate) fn own(&self, clock_right: bool) -> Result<String, PkiError> {
        let one = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        self.make_folders()?;
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
        drop(one);
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
        let days_left = (ends.timestamp() - opcua::types::DateTime::now().as_chrono().timestamp()) / 86_400;
        if days_left < WARNING_DAYS {
            warn!(certificate = %cert_path.display(), days_left, "opcua application certificate ends soon");
        }
        Ok(uri)
    }
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
    write_durably(key_path, pem(key.as_bytes()).as_bytes(), 0o600)?;
    write_durably(cert_path, &cert, 0o644)
}

/// A PKCS #8 key in PEM, with lines of 64 as RFC 7468 asks for. (The library ends its lines with CR alone.)
fn pem(der: &[u8]) -> String {
    let mut text = "-----BEGIN PRIVATE KEY-----\n".to_owned();
    let base64 = ByteString::from(der).as_base64();
    for line in base64.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text + "-----END PRIVATE KEY-----\n"
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
