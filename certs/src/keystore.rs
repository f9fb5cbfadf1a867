//! Where the CA's private keys live.
//!
//! A key is used through [`CaKey`], so that a PKCS #11 token or a TPM can take the place of files; only [`KeyStore::export`]
//! gives one away, and a store may refuse that. In memory, ring holds a key in a form that it does not wipe; every copy
//! made here is wiped.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use zeroize::Zeroizing;

use crate::CaError;
use crate::durable::{self, Existing};
use crate::encoding::{key_from_pem, key_pem};

/// A private key that can sign, wherever it is.
pub type CaKey = Arc<dyn SigningKey + Send + Sync>;

/// Holds private keys by name. Names are made of lower-case letters, digits and `-`.
pub trait KeyStore: Send + Sync {
    /// The key of this name, or `None` when there is none.
    fn load(&self, name: &str) -> Result<Option<CaKey>, CaError>;
    /// A new P-256 key under this name, durable before it returns. Never replaces one.
    fn create(&self, name: &str) -> Result<CaKey, CaError>;
    /// Keeps a P-256 key that was kept elsewhere, durable before it returns. `pkcs8`: PEM. Never replaces one.
    fn import(&self, name: &str, pkcs8: &[u8]) -> Result<CaKey, CaError>;
    /// The key in PKCS #8 and PEM, `None` when it isn't there, or never leaves this store.
    fn export(&self, name: &str) -> Result<Option<Zeroizing<String>>, CaError>;
    /// Forgets the key, durable before it returns. None of this name is no error.
    fn remove(&self, name: &str) -> Result<(), CaError>;
}

/// A P-256 key in memory.
pub(crate) struct P256Key(EcdsaKeyPair);

impl P256Key {
    /// A new key, and its PKCS #8 form.
    pub(crate) fn generate() -> Result<(Self, Zeroizing<Vec<u8>>), rcgen::Error> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|_| rcgen::Error::RingUnspecified)?;
        let pkcs8 = Zeroizing::new(document.as_ref().to_vec());
        let key = Self::from_pkcs8(&pkcs8).ok_or(rcgen::Error::CouldNotParseKeyPair)?;
        Ok((key, pkcs8))
    }

    /// From PKCS #8 in PEM.
    pub(crate) fn from_pem(text: &[u8]) -> Option<Self> {
        key_from_pem(text).and_then(|pkcs8| Self::from_pkcs8(&pkcs8))
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Option<Self> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &SystemRandom::new()).ok().map(Self)
    }
}

impl PublicKeyData for P256Key {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for P256Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.0.sign(&SystemRandom::new(), message).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

impl fmt::Debug for P256Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("P256Key(…)")
    }
}

/// Keys as files `<name>.key`, PKCS #8 in PEM, mode 0600, in a directory of mode 0700, all of them the owner's.
#[derive(Debug)]
pub struct FileKeyStore {
    dir: PathBuf,
}

impl FileKeyStore {
    /// Refuses when group or world can enter `dir` or read any key in it, or somebody else owns one.
    pub fn open(dir: &Path) -> Result<Self, CaError> {
        check_private(dir, 0o700)?;
        let listing = |source| CaError::Io { action: "list", path: dir.to_owned(), source };
        for entry in fs::read_dir(dir).map_err(listing)? {
            let path = entry.map_err(listing)?.path();
            if path.extension().is_some_and(|extension| extension == "key") {
                check_private(&path, 0o600)?;
            }
        }
        Ok(Self { dir: dir.to_owned() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.key"))
    }

    /// What the file holds.
    fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, CaError> {
        let path = self.path(name);
        match fs::read(&path) {
            Ok(text) => Ok(Some(Zeroizing::new(text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CaError::Io { action: "read", path, source }),
        }
    }

    fn write(&self, name: &str, text: &str) -> Result<(), CaError> {
        let path = self.path(name);
        durable::write(&path, text.as_bytes(), 0o600, Existing::Keep).map_err(|source| CaError::Io {
            action: "write",
            path,
            source,
        })
    }
}

/// `wanted`: the mode that the message asks for.
pub(crate) fn check_private(path: &Path, wanted: u32) -> Result<(), CaError> {
    let access = durable::access(path).map_err(|source| CaError::Io {
        action: "check the mode of",
        path: path.to_owned(),
        source,
    })?;
    if access.exposed() {
        return Err(CaError::Exposed { path: path.to_owned(), mode: access.mode, wanted });
    }
    let own = rustix::process::geteuid().as_raw();
    if access.owner != own {
        return Err(CaError::Owner { path: path.to_owned(), owner: access.owner, own });
    }
    Ok(())
}

const NOT_A_KEY: &str = "doesn't hold a P-256 private key in PKCS #8";

impl KeyStore for FileKeyStore {
    fn load(&self, name: &str) -> Result<Option<CaKey>, CaError> {
        let Some(text) = self.read(name)? else { return Ok(None) };
        match P256Key::from_pem(&text) {
            Some(key) => Ok(Some(Arc::new(key))),
            None => Err(CaError::Damaged { path: self.path(name), reason: NOT_A_KEY }),
        }
    }

    fn create(&self, name: &str) -> Result<CaKey, CaError> {
        let (key, pkcs8) = P256Key::generate()?;
        self.write(name, &key_pem(&pkcs8))?;
        Ok(Arc::new(key))
    }

    fn import(&self, name: &str, pkcs8: &[u8]) -> Result<CaKey, CaError> {
        let damaged = || CaError::Damaged { path: self.path(name), reason: NOT_A_KEY };
        let der = key_from_pem(pkcs8).ok_or_else(damaged)?;
        let key = P256Key::from_pkcs8(&der).ok_or_else(damaged)?;
        self.write(name, &key_pem(&der))?;
        Ok(Arc::new(key))
    }

    fn export(&self, name: &str) -> Result<Option<Zeroizing<String>>, CaError> {
        let Some(text) = self.read(name)? else { return Ok(None) };
        match key_from_pem(&text) {
            Some(pkcs8) => Ok(Some(key_pem(&pkcs8))),
            None => Err(CaError::Damaged { path: self.path(name), reason: NOT_A_KEY }),
        }
    }

    fn remove(&self, name: &str) -> Result<(), CaError> {
        let path = self.path(name);
        durable::remove(&path).map_err(|source| CaError::Io { action: "remove", path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_somebody_else_is_refused_with_the_command_that_helps() {
        let dir = tempfile::tempdir().unwrap();
        let own = rustix::process::geteuid().as_raw();
        // Whoever may give a file away does; to anybody else the directory of `root` is somebody else's.
        let path = if own == 0 {
            let path = dir.path().join("root-1.key");
            durable::write(&path, b"", 0o600, Existing::Keep).unwrap();
            std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
            path
        } else {
            PathBuf::from("/root")
        };
        let error = check_private(&path, 0o600).unwrap_err();
        let owner = if own == 0 { 12_345 } else { 0 };
        assert!(matches!(error, CaError::Owner { .. }), "{error}");
        assert!(error.to_string().contains(&format!("belongs to user {owner}")), "{error}");
        assert!(error.to_string().contains(&format!("run `chown {own} {}`", path.display())), "{error}");
    }

    #[test]
    fn a_key_goes_out_and_comes_back_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileKeyStore { dir: dir.path().to_owned() };
        let key = store.create("root-1").unwrap();
        let text = store.export("root-1").unwrap().unwrap();
        assert!(store.import("root-1", text.as_bytes()).is_err());
        store.remove("root-1").unwrap();
        store.remove("root-1").unwrap();
        assert!(store.load("root-1").unwrap().is_none() && store.export("root-1").unwrap().is_none());
        let again = store.import("root-1", text.as_bytes()).unwrap();
        assert_eq!(again.der_bytes(), key.der_bytes());
        assert_eq!(durable::access(&store.path("root-1")).unwrap().mode, 0o600);
        assert!(store.import("root-2", b"no key").is_err());
    }
}
