//! Where the CA's private keys live.
//!
//! A key is used through [`CaKey`] and never leaves its store otherwise, so that a PKCS #11 token or a TPM can take the
//! place of files. In memory, ring holds a key in a form that it does not wipe; every copy made here is wiped.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use zeroize::Zeroizing;

use crate::CaError;
use crate::durable::{self, Existing};
use crate::encoding::{key_from_pem, key_pem};

/// A private key that can sign, wherever it is.
pub(crate) type CaKey = Box<dyn SigningKey + Send + Sync>;

/// Holds private keys by name.
pub(crate) trait KeyStore {
    /// The key of this name, or `None` when there is none.
    fn load(&self, name: &str) -> Result<Option<CaKey>, CaError>;
    /// A new P-256 key under this name, durable before it returns. Never replaces one.
    fn create(&self, name: &str) -> Result<CaKey, CaError>;
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

/// Keys as files `<name>.key`, PKCS #8 in PEM, mode 0600.
pub(crate) struct FileKeyStore {
    dir: PathBuf,
}

impl FileKeyStore {
    /// Refuses when others can read any key in `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self, CaError> {
        let listing = |source| CaError::Io { action: "list", path: dir.to_owned(), source };
        for entry in fs::read_dir(dir).map_err(listing)? {
            let path = entry.map_err(listing)?.path();
            if path.extension().is_some_and(|extension| extension == "key") {
                let mode = durable::exposed(&path);
                let mode =
                    mode.map_err(|source| CaError::Io { action: "check the mode of", path: path.clone(), source })?;
                if let Some(mode) = mode {
                    return Err(CaError::Exposed { path, mode, wanted: 0o600 });
                }
            }
        }
        Ok(Self { dir: dir.to_owned() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.key"))
    }
}

impl KeyStore for FileKeyStore {
    fn load(&self, name: &str) -> Result<Option<CaKey>, CaError> {
        let path = self.path(name);
        let io = |action| {
            let path = path.clone();
            move |source| CaError::Io { action, path, source }
        };
        if !path.try_exists().map_err(io("look for"))? {
            return Ok(None);
        }
        let text = Zeroizing::new(fs::read(&path).map_err(io("read"))?);
        let key = key_from_pem(&text).and_then(|pkcs8| P256Key::from_pkcs8(&pkcs8));
        match key {
            Some(key) => Ok(Some(Box::new(key))),
            None => Err(CaError::Damaged { path, reason: "doesn't hold a P-256 private key in PKCS #8" }),
        }
    }

    fn create(&self, name: &str) -> Result<CaKey, CaError> {
        let path = self.path(name);
        let (key, pkcs8) = P256Key::generate()?;
        durable::write(&path, key_pem(&pkcs8).as_bytes(), 0o600, Existing::Keep).map_err(|source| CaError::Io {
            action: "write",
            path,
            source,
        })?;
        Ok(Box::new(key))
    }
}
