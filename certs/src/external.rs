//! Trust beyond our own CA: certificates of other CAs with an explicit map from their names to ids, and single
//! certificates by their SHA-256. Nothing of it unless configured.
//!
//! An external CA is one certificate, and vouches for what it signed itself: chains below it are not followed, because the
//! map is by issuer. A name that the map doesn't have is nobody; the comparison is exact (DNS names without regard to
//! case), there are no patterns.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use fieldgate_types::DeviceId;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::authority::{Authority, AuthorityKind};
use crate::encoding::certificates_from_pem;
use crate::trust::anchor;
use crate::{CaError, Fingerprint, Refused, Role};

/// How an external CA names a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExternalName {
    /// A URI among the subject's alternative names.
    Uri(String),
    /// A DNS name among them.
    Dns(String),
    /// The subject's common name.
    Cn(String),
}

/// Who is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The id.
    pub device: DeviceId,
    /// What its holder is.
    pub role: Role,
}

/// A CA that is not ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalCa {
    /// Its certificate, PEM.
    pub certificate_pem: String,
    /// Who is who.
    pub names: Vec<(ExternalName, Holder)>,
}

/// All trust beyond our own CA. The default is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExternalTrust {
    /// CAs with their maps.
    pub authorities: Vec<ExternalCa>,
    /// Single certificates, self-signed ones too.
    pub pins: Vec<(Fingerprint, Holder)>,
}

/// The configuration of external trust makes no sense.
#[derive(Debug, Error)]
pub enum ExternalError {
    /// Not one CA certificate.
    #[error("external CA number {number} is not one CA certificate in PEM: {reason}")]
    NotACa {
        /// Counted from 1.
        number: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// It is one of ours.
    #[error("external CA number {number} is a CA of this gateway: its devices are in the registry, leave it out")]
    Own {
        /// Counted from 1.
        number: usize,
    },
    /// Two ids for one name or pin.
    #[error("`{name}` stands for `{one}` and for `{other}`: leave one out")]
    Twice {
        /// The name or fingerprint.
        name: String,
        /// An id.
        one: DeviceId,
        /// Another.
        other: DeviceId,
    },
    /// What is trusted could not be put together.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The TLS library refused the certificate.
    #[error("external CA number {number} can't be used")]
    Unusable {
        /// Counted from 1.
        number: usize,
        /// Why.
        source: CaError,
    },
}

pub(crate) struct Other {
    pub(crate) authority: Authority,
    pub(crate) verifier: Arc<dyn ClientCertVerifier>,
    names: BTreeMap<ExternalName, Holder>,
}

/// What was configured, checked and ready.
#[derive(Default)]
pub(crate) struct External {
    others: Vec<Other>,
    pins: BTreeMap<Fingerprint, Holder>,
}

impl ExternalTrust {
    /// Whether it makes sense by itself; that none of its CAs is ours can only be known to [`crate::Ca::trust_others`].
    pub fn check(&self) -> Result<(), ExternalError> {
        External::new(self.clone(), &Arc::new(rustls::crypto::ring::default_provider())).map(drop)
    }

    /// Everybody who is meant by a name or a pin; the same one several times where several are his.
    pub fn holders(&self) -> impl Iterator<Item = &Holder> {
        let mapped = self.authorities.iter().flat_map(|ca| ca.names.iter().map(|(_, holder)| holder));
        mapped.chain(self.pins.iter().map(|(_, holder)| holder))
    }
}

impl External {
    pub(crate) fn new(trust: ExternalTrust, provider: &Arc<CryptoProvider>) -> Result<Self, ExternalError> {
        let mut external = Self::default();
        for (at, other) in trust.authorities.into_iter().enumerate() {
            let number = at + 1;
            let not_a_ca = |reason| ExternalError::NotACa { number, reason };
            let der = match certificates_from_pem(other.certificate_pem.as_bytes()).as_deref() {
                Some([only]) => only.clone(),
                Some([]) | None => return Err(not_a_ca("there is none")),
                Some(_) => return Err(not_a_ca("there are several; give each with its own map")),
            };
            let authority = Authority::new(AuthorityKind::Issuing, 0, der, None, "".as_ref())
                .map_err(|_| not_a_ca("it is no certificate, or not a CA's"))?;
            let verifier =
                anchor(&authority.der, provider).map_err(|source| ExternalError::Unusable { number, source })?;
            let mut names = BTreeMap::new();
            for (name, holder) in other.names {
                put(&mut names, name.folded(), holder, |name| name.text().to_owned())?;
            }
            external.others.push(Other { authority, verifier, names });
        }
        for (fingerprint, holder) in trust.pins {
            put(&mut external.pins, fingerprint, holder, Fingerprint::to_string)?;
        }
        Ok(external)
    }

    pub(crate) fn authorities(&self) -> impl Iterator<Item = &Other> {
        self.others.iter()
    }

    pub(crate) fn pin(&self, fingerprint: &Fingerprint) -> Option<&Holder> {
        self.pins.get(fingerprint)
    }

    /// The external CA that signed `leaf`, and whom its map has for any name of it: all names that it has must mean the
    /// same one. Two certificates of one CA, the older and the newer, have their maps together.
    pub(crate) fn holder(&self, leaf: &X509Certificate<'_>) -> Result<(&Other, &Holder), Refused> {
        let issuers: Vec<&Other> = self.others.iter().filter(|other| other.authority.has_signed(leaf)).collect();
        if issuers.is_empty() {
            return Err(Refused::Foreign);
        }
        let names = names_of(leaf)?;
        let meant = |other: &'_ &Other| names.iter().any(|name| other.names.contains_key(name));
        let mut holders = issuers.iter().flat_map(|other| names.iter().filter_map(|name| other.names.get(name)));
        let holder = holders.next().ok_or(Refused::Unmapped)?;
        if holders.any(|other| other != holder) {
            return Err(Refused::Ambiguous);
        }
        let lasting = issuers.iter().filter(|other| meant(other)).max_by_key(|other| other.authority.info.not_after);
        lasting.map(|issuer| (*issuer, holder)).ok_or(Refused::Unmapped)
    }
}

impl ExternalName {
    fn text(&self) -> &str {
        match self {
            Self::Uri(text) | Self::Dns(text) | Self::Cn(text) => text,
        }
    }

    fn folded(self) -> Self {
        match self {
            Self::Dns(name) => Self::Dns(name.to_ascii_lowercase()),
            Self::Uri(_) | Self::Cn(_) => self,
        }
    }
}

fn put<K: Ord>(
    map: &mut BTreeMap<K, Holder>,
    key: K,
    holder: Holder,
    text: impl Fn(&K) -> String,
) -> Result<(), ExternalError> {
    match map.entry(key) {
        Entry::Vacant(free) => {
            free.insert(holder);
            Ok(())
        }
        Entry::Occupied(taken) if *taken.get() == holder => Ok(()),
        Entry::Occupied(taken) => {
            let (name, one) = (text(taken.key()), taken.get().device.clone());
            Err(ExternalError::Twice { name, one, other: holder.device })
        }
    }
}

/// The names by which a CA may have meant the holder. Several common names are none (RFC 6125, 2.3: which one counts
/// can't be known).
fn names_of(leaf: &X509Certificate<'_>) -> Result<Vec<ExternalName>, Refused> {
    let alternative = leaf
        .subject_alternative_name()
        .map_err(|_| Refused::Malformed("an extension occurs twice or can't be read"))?;
    let mut names = Vec::new();
    for name in alternative.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::URI(uri) => names.push(ExternalName::Uri((*uri).to_owned())),
            GeneralName::DNSName(name) => names.push(ExternalName::Dns((*name).to_owned()).folded()),
            _ => {}
        }
    }
    let mut common = leaf.subject().iter_common_name();
    if let (Some(name), None) = (common.next(), common.next())
        && let Ok(name) = name.as_str()
    {
        names.push(ExternalName::Cn(name.to_owned()));
    }
    Ok(names)
}
