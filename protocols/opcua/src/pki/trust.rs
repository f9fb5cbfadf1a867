//! Whether a server's certificate is accepted.
//!
//! An exact copy of it in `trusted/` means yes, one in `rejected/` no, whatever lies in `trusted/`. With
//! `first-use`, the first certificate of an endpoint is put into `trusted/` and the endpoint gets a pin; from then
//! on the endpoint is as strict as any other.

use std::path::{Path, PathBuf};

use opcua::crypto::{CertificateStore, X509};
use opcua::types::ByteString;
use tracing::{info, warn};

use super::list::parse;
use super::{Pki, PkiError, exists, write_durably};
use crate::config::Trust;

/// Bytes of a certificate at most; ordinary ones have 1 to 2 KiB.
const MAX_CERTIFICATE: usize = 32_768;
/// Refused certificates that are kept at most: somebody who makes a new one for each connection must not fill the disk.
const MAX_REJECTED: usize = 200;

/// What became of a certificate.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// It lies in `trusted/`.
    Accepted,
    /// It lies in `rejected/`; moved to `accept_at`, it is accepted.
    Refused {
        /// Why, and which command accepts it.
        reason: String,
        /// Where it would lie.
        accept_at: PathBuf,
    },
    /// What the server sent is no certificate.
    Unreadable,
}

impl Pki {
    /// Judges the certificate of the server at `endpoint`. Reads and writes files.
    pub(crate) fn judge(&self, cert: &ByteString, endpoint: &str, trust: Trust) -> Result<Verdict, PkiError> {
        let _one = self.lock()?;
        if cert.len() > MAX_CERTIFICATE {
            return Ok(Verdict::Unreadable);
        }
        let Ok(cert) = X509::from_byte_string(cert) else { return Ok(Verdict::Unreadable) };
        let Ok(der) = cert.to_der() else { return Ok(Verdict::Unreadable) };
        // The library looks for this very name.
        let name = CertificateStore::cert_file_name(&cert);
        if name.contains(['\0', '/']) {
            return Ok(Verdict::Unreadable);
        }
        let (trusted, rejected) = (self.trusted().join(&name), self.rejected().join(&name));
        let thumbprint = cert.thumbprint().as_hex_string();
        if exists(&rejected)? {
            return Ok(refused(&trusted, &thumbprint));
        }
        let pin = self.dir.join("pins").join(pin_name(endpoint));
        if exists(&trusted)? || self.adopt(&der, &trusted)? {
            if trust == Trust::FirstUse && !exists(&pin)? {
                set_pin(&pin, &thumbprint)?;
            }
            return Ok(Verdict::Accepted);
        }
        if trust == Trust::FirstUse && !exists(&pin)? {
            write_durably(&trusted, &der, 0o644)?;
            set_pin(&pin, &thumbprint)?;
            warn!(endpoint, certificate = %trusted.display(), "opcua server certificate pinned at first use");
            return Ok(Verdict::Accepted);
        }
        let failed = |source| PkiError::File { path: self.rejected(), source };
        if std::fs::read_dir(self.rejected()).map_err(failed)?.count() >= MAX_REJECTED {
            let folder = self.rejected();
            let reason = format!(
                "the server's certificate (SHA-1 {thumbprint}) is not trusted, and not kept either: `{}` holds \
                 {MAX_REJECTED} already, remove what nobody will look at",
                folder.display()
            );
            return Ok(Verdict::Refused { reason, accept_at: trusted });
        }
        write_durably(&rejected, &der, 0o644)?;
        Ok(refused(&trusted, &thumbprint))
    }

    /// An administrator may have put the certificate into `trusted/` under a name of their own, or in PEM: then it
    /// gets a copy under the name that the library expects.
    fn adopt(&self, der: &[u8], trusted: &Path) -> Result<bool, PkiError> {
        let failed = |source| PkiError::File { path: self.trusted(), source };
        for entry in std::fs::read_dir(self.trusted()).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            // Whatever else lies there, or can't be read, is not this certificate.
            if parse(&path).and_then(|cert| cert.to_der().ok()).is_some_and(|found| found == der) {
                write_durably(trusted, der, 0o644)?;
                info!(found = %path.display(), certificate = %trusted.display(), "opcua server certificate accepted");
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn refused(trusted: &Path, thumbprint: &str) -> Verdict {
    let reason = format!(
        "the server's certificate (SHA-1 {thumbprint}) is not trusted; compare it with what the server shows, and \
         accept it with: fieldgate opcua trust accept {thumbprint}"
    );
    Verdict::Refused { reason, accept_at: trusted.to_owned() }
}

fn set_pin(pin: &Path, thumbprint: &str) -> Result<(), PkiError> {
    let folder = pin.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|source| PkiError::File { path: folder.to_owned(), source })?;
    write_durably(pin, format!("{thumbprint}\n").as_bytes(), 0o644)
}

/// A file name for an endpoint, different for different ones.
fn pin_name(endpoint: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    endpoint.chars().map(|c| if plain(c) { c.to_string() } else { format!("_{:x}_", u32::from(c)) }).collect()
}

#[cfg(test)]
mod tests {
    use opcua::crypto::{PrivateKey, X509};

    use super::super::own::certificate_names;
    use super::*;

    fn certificate(common_name: &str) -> ByteString {
        let key = PrivateKey::new(2048).unwrap();
        let mut names = certificate_names("plc", "urn:plc", None);
        common_name.clone_into(&mut names.common_name);
        X509::from_pkey(&key, &names).unwrap().as_byte_string()
    }

    fn files(folder: &Path) -> Vec<String> {
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        std::fs::read_dir(folder).unwrap().map(name).collect()
    }

    #[test]
    fn strict_refuses_until_the_certificate_was_accepted_as_told() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path().join("it's here"));
        for name in ["plc", "a'; touch pwned; 'b"] {
            let cert = certificate(name);
            let judge = || pki.judge(&cert, "opc.tcp://plc:4840", Trust::Strict).unwrap();
            let first = judge();
            let Verdict::Refused { reason, accept_at } = &first else { panic!("{first:?}") };
            assert!(!accept_at.exists());
            assert_eq!(judge(), first, "the reason stays the same");
            let (_, thumbprint) = reason.split_once("accept it with: fieldgate opcua trust accept ").unwrap();
            pki.accept(thumbprint).unwrap();
            assert_eq!(judge(), Verdict::Accepted);
        }
        assert_eq!(files(&pki.rejected()), [""; 0]);
    }

    #[test]
    fn first_use_pins_one_certificate_for_each_endpoint() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path().to_owned());
        let (first, second) = (certificate("first"), certificate("second"));
        let judge = |cert, endpoint| pki.judge(cert, endpoint, Trust::FirstUse).unwrap();
        assert_eq!(judge(&first, "opc.tcp://a:4840"), Verdict::Accepted);
        assert_eq!(judge(&first, "opc.tcp://a:4840"), Verdict::Accepted);
        assert!(matches!(judge(&second, "opc.tcp://a:4840"), Verdict::Refused { .. }));
        // Refused once is refused, wherever it shows up.
        assert!(matches!(judge(&second, "opc.tcp://b:4840"), Verdict::Refused { .. }));
        // Removing the trusted copy does not make it the first use again.
        std::fs::remove_file(pki.trusted().join(files(&pki.trusted()).remove(0))).unwrap();
        assert!(matches!(judge(&first, "opc.tcp://a:4840"), Verdict::Refused { .. }));
    }

    #[test]
    fn sessions_that_meet_a_server_at_the_same_time_get_the_same_verdict() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path().to_owned());
        let cert = certificate("plc");
        std::thread::scope(|scope| {
            let judge = || pki.judge(&cert, "opc.tcp://plc:4840", Trust::Strict).unwrap();
            let judges: Vec<_> = (0..16).map(|_| scope.spawn(judge)).collect();
            for verdict in judges {
                assert!(matches!(verdict.join().unwrap(), Verdict::Refused { .. }));
            }
        });
    }

    #[test]
    fn keeps_a_bounded_number_of_refused_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path().to_owned());
        pki.make_folders().unwrap();
        for number in 0..MAX_REJECTED {
            std::fs::write(pki.rejected().join(format!("{number}.der")), "x").unwrap();
        }
        let verdict = pki.judge(&certificate("plc"), "opc.tcp://plc:4840", Trust::Strict).unwrap();
        assert!(matches!(verdict, Verdict::Refused { reason, .. } if reason.contains("holds 200 already")));
        assert_eq!(files(&pki.rejected()).len(), MAX_REJECTED);
    }

    #[test]
    fn takes_a_certificate_that_was_put_there_under_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path().to_owned());
        let cert = certificate("plc");
        pki.make_folders().unwrap();
        std::fs::write(pki.trusted().join("exported from the plc.der"), cert.as_ref()).unwrap();
        std::fs::write(pki.trusted().join("README.txt"), "none").unwrap();
        assert_eq!(pki.judge(&cert, "opc.tcp://plc:4840", Trust::Strict).unwrap(), Verdict::Accepted);
        assert_eq!(files(&pki.trusted()).len(), 3);
        let nonsense = ByteString::from(vec![1, 2, 3]);
        assert_eq!(pki.judge(&nonsense, "opc.tcp://plc:4840", Trust::Strict).unwrap(), Verdict::Unreadable);
    }
}
