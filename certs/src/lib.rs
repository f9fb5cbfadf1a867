//! The plant's own X.509 CA.
//!
//! Owns: the root and issuing CA and their keys on disk, issuing device and server certificates, the TLS configuration
//! that demands them, and telling who a peer is from its certificate. Does not own: sockets, the registry's storage (a
//! port, [`Registry`]), what an identity may do.
//!
//! Invariants: nothing is issued past its issuer's end; from a request only the public key is taken; a certificate is
//! recorded durably before it is handed out; TLS sessions are never resumed, so that every connection is judged.

mod authority;
mod ca;
mod csr;
mod durable;
mod encoding;
mod error;
mod fingerprint;
mod folder;
mod hex;
mod identify;
mod instant;
mod issue;
mod keystore;
mod making;
mod refused;
mod registry;
mod role;
mod serial;
mod server;
mod template;
mod verifier;

pub use authority::{AuthorityInfo, AuthorityKind};
pub use ca::Ca;
pub use error::{CaError, IssueError};
pub use fingerprint::{Fingerprint, IssuerKey};
pub use hex::InvalidHex;
pub use identify::Peer;
pub use issue::Issued;
pub use refused::Refused;
pub use registry::{CertificateRecord, Registry, RegistryError};
pub use role::{InvalidRole, Role};
pub use serial::Serial;
pub use server::ServerCertificate;
