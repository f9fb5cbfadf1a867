//! The plant's own X.509 CA.
//!
//! Owns: the root and issuing CAs and their keys on disk, issuing, renewing and replacing certificates, the TLS
//! configuration that demands them, telling who a peer is from its certificate, revocation lists, and what is answered to
//! EST requests. Does not own: sockets, the storage of rows (ports: [`Registry`], [`est::TokenStore`]), what an identity
//! may do.
//!
//! Invariants: nothing is issued past its issuer's end, or while the clock is in doubt; from a request only the public key
//! is taken; a certificate is recorded durably before it is handed out; TLS sessions are never resumed, so that every
//! connection is judged; what is trusted changes as a whole, for the handshakes that follow.
//!
//! | modules | what |
//! |---|---|
//! | `ca`, `making`, `folder`, `authority` | opening and creating the CA; its files |
//! | `rotation`, `trust` | how it changes while it is open; what is trusted at one moment |
//! | `keystore`, [`durable`] | private keys ([`KeyStore`]); files that are there whole or not at all |
//! | `issue`, `csr`, `template`, `server` | certificates for devices and for the gateway's own server |
//! | `verifier`, `identify`, `external`, `refused` | who is let in: in the handshake, after it, others' certificates; why not |
//! | [`est`] | enrolment and renewal by the devices themselves; one-time tokens |
//! | `crl` | revocation lists for others |
//! | [`life`], `floor`, `instant` | shares of a life; what time it is ([`TimeFloor`]); moments in certificates |
//! | `registry`, `role`, `serial`, `fingerprint`, `hex`, `encoding` | rows and the values in them; PEM and base64 |

mod authority;
mod ca;
#[cfg(test)]
mod crash;
mod crl;
mod csr;
pub mod durable;
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
