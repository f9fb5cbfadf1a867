//! What can go wrong with the CA itself and with issuing.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

use fieldgate_types::UnixMillis;
use thiserror::Error;

use crate::instant::rfc3339;
use crate::{ClockLeapt, RegistryError};

/// The CA can't be opened, created or used for TLS.
#[derive(Debug, Error)]
pub enum CaError {
    /// A file operation failed.
    #[error("can't {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Group or world can reach a key.
    #[error("`{}` has mode {mode:04o}, others could reach a private key: run `chmod {wanted:o} {}`", path.display(), path.display())]
    Exposed {
        /// The key file or its directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        wanted: u32,
    },
    /// Somebody else owns a key, and could read it.
    #[error("`{}` belongs to user {owner}, this runs as user {own}: run `chown {own} {}`, or run as user {owner}", path.display(), path.display())]
    Owner {
        /// The key file or its directory.
        path: PathBuf,
        /// The user id that owns it.
        owner: u32,
        /// The user id of this process.
        own: u32,
    },
    /// A store of keys other than files failed.
    #[error("the store of keys failed for `{name}`")]
    KeyStore {
        /// The key.
        name: String,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A file of the CA doesn't hold what it should.
    #[error("`{}` {reason}: restore the directory from a back-up", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Nothing can be issued: no issuing CA with a key, and no root key to make one.
    #[error(
        "no issuing CA in `{}` is valid and has its key, and the root key, which could sign a new one, is not there: \
         restore `*.key` from a back-up",
        dir.display()
    )]
    NoIssuingKey {
        /// The CA's directory.
        dir: PathBuf,
    },
    /// A key can't be made or used, or a certificate not be signed.
    #[error("the cryptography library refused: {0}")]
    Crypto(#[from] rcgen::Error),
    /// The TLS library refused the configuration.
    #[error("the TLS library refused the configuration")]
    Tls(#[from] rustls::Error),
    /// The TLS library refused the trusted roots.
    #[error("the TLS library refused the trusted roots")]
    Roots(#[from] rustls::server::VerifierBuilderError),
}

/// A certificate was not issued.
#[derive(Debug, Error)]
pub enum IssueError {
    /// The issuing CA's time is over.
    #[error("the issuing CA expired at {}: run `fieldgate ca rotate`", rfc3339(*not_after))]
    IssuerExpired {
        /// When.
        not_after: UnixMillis,
    },
    /// The clock is in doubt.
    #[error(transparent)]
    Clock(#[from] ClockLeapt),
    /// A validity of less than a second.
    #[error("a validity of less than one second makes no certificate: give a longer one")]
    NoLifetime,
    /// The signing request can't be read.
    #[error(
        "the request is not a PKCS #10 certificate signing request in PEM or DER: make one with `openssl req -new`"
    )]
    NotARequest,
    /// Whoever made the request doesn't hold its private key, or it was damaged on the way.
    #[error("the request's signature is wrong: make it anew with the device's own key")]
    BadSignature,
    /// The key in the request is not one to be relied on for years.
    #[error("the key in the request is {found}: use P-256, P-384, Ed25519 or RSA of 2048 to 4096 bits")]
    WeakKey {
        /// What it is.
        found: String,
    },
    /// A name is not a DNS name.
    #[error("`{0}` is neither a DNS name nor an IP address: correct `names` under `[broker]`")]
    BadName(String),
    /// A server certificate without a name.
    #[error("a server certificate needs at least one name or address")]
    NoNames,
    /// The registry didn't take the row.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A key can't be made or a certificate not be signed.
    #[error("the cryptography library refused: {0}")]
    Crypto(#[from] rcgen::Error),
    /// The TLS library refused the server's key.
    #[error("the TLS library refused the server's key")]
    Tls(#[from] rustls::Error),
}
