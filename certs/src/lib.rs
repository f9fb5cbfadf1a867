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
#[cfg(test)]
mod crash;
mod crl;
mod csr;
mod durable;
mod encoding;
mod error;
pub mod est;
mod external;
mod fingerprint;
mod floor;
mod folder;
mod hex;
mod identify;
mod instant;
mod issue;
mod keystore;
pub mod life;
mod making;
mod refused;
mod registry;
mod role;
mod rotation;
mod serial;
mod server;
mod template;
mod trust;
mod verifier;

pub use authority::{AuthorityInfo, AuthorityKind};
pub use ca::Ca;
pub use crl::{LIST_LIFE, RevocationList, Revoked};
pub use error::{CaError, IssueError};
pub use external::{ExternalCa, ExternalError, ExternalName, ExternalTrust, Holder};
pub use fingerprint::{Fingerprint, IssuerKey};
pub use floor::{ClockLeapt, LEAP, Reading, STEADY, Standing, TimeFloor};
pub use hex::InvalidHex;
pub use identify::{Origin, Peer};
pub use issue::Issued;
pub use keystore::{CaKey, FileKeyStore, KeyStore};
pub use life::{Life, Stage};
pub use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};
pub use refused::{HandshakeRefusal, Refused};
pub use registry::{CertificateKey, CertificateRecord, Registry, RegistryError, SUPERSEDE_GRACE};
pub use role::{InvalidRole, Role};
pub use rotation::{ALARM_AHEAD, Alarm, AlarmKind, RotationError};
pub use serial::Serial;
pub use server::ServerCertificate;
