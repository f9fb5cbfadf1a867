//! The CA's own life: a next issuing CA, the root key that comes and goes, and what somebody should know a year ahead.
//!
//! Each change is made on disk first, in an order in which every interruption leaves the old or the new state, then
//! becomes what is trusted. A rotation: the new key, the root's list signed afresh, and last the new certificate, which
//! is what makes the new CA be there. A key without its certificate is used by the next attempt.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use fieldgate_types::{Secret, UnixMillis};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::authority::{Authority, AuthorityInfo, AuthorityKind, Signer};
use crate::ca::Stores;
use crate::crl::Revoked;
use crate::folder::name;
use crate::instant::rfc3339;
use crate::keystore::{CaKey, P256Key};
use crate::trust::{Listed, Trust};
use crate::{Ca, CaError, ClockLeapt, IssuerKey, life};

/// How long ahead the end of a CA, and a rotation that can't be done, are announced.
pub const ALARM_AHEAD: Duration = Duration::from_hours(8766);

/// The CA was not changed.
#[derive(Debug, Error)]
pub enum RotationError {
    /// No root key to sign with.
    #[error(
        "the root key is not in `{}`, and only it can sign a CA: give it with `fieldgate ca rotate --root-key FILE`, or \
         copy it back as `root-<n>.key` with mode 600 and restart; until then everything goes on with the present CA",
        dir.display()
    )]
    NoRootKey {
        /// The CA's directory.
        dir: PathBuf,
    },
    /// The file holds no private key.
    #[error("the file holds no P-256 private key in PKCS #8 and PEM: give the `root-<n>.key` that was taken away")]
    NotAKey,
    /// It is another's.
    #[error(
        "the key belongs to no root CA of this gateway that is still valid: give the one that was taken away from here"
    )]
    OtherKey,
    /// The store of keys gives none away.
    #[error("the root key can't leave the place where it is kept")]
    NotExportable,
    /// It is the only one that issues.
    #[error("no other issuing CA could take its place: run `fieldgate ca rotate` first")]
    LastIssuing,
    /// There is none.
    #[error("no issuing CA has the key `{issuer}`: `fieldgate ca show` lists them")]
    UnknownIssuing {
        /// What was asked for.
        issuer: IssuerKey,
    },
    /// The clock is in doubt.
    #[error(transparent)]
    Clock(#[from] ClockLeapt),
    /// The CA's files can't be changed.
    #[error(transparent)]
    Ca(#[from] CaError),
}

impl From<rcgen::Error> for RotationError {
    fn from(error: rcgen::Error) -> Self {
        Self::Ca(error.into())
    }
}

/// What somebody should see to, a year before it matters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// What it is about.
    pub kind: AlarmKind,
    /// The CA, by the number in its files' names.
    pub generation: u32,
    /// When it matters. May be past.
    pub at: UnixMillis,
}

/// What an [`Alarm`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlarmKind {
    /// The issuing CA is to be followed by another, and the root key is not here. At: when that is due.
    RootKeyNeeded,
    /// The CA that issues now ends. At: its end, and that of all that it issued.
    IssuingEnds,
    /// A CA that was followed by another ends. At: its end. Devices that have not renewed by then are refused.
    FormerIssuingEnds,
    /// The root ends. At: its end, and that of everything.
    RootEnds,
}

impl AlarmKind {
    /// One of a closed set of words, for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::RootKeyNeeded => "root-key-needed",
            Self::IssuingEnds => "issuing-ends",
            Self::FormerIssuingEnds => "former-issuing-ends",
            Self::RootEnds => "root-ends",
        }
    }
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, generation) = (rfc3339(self.at), self.generation);
        match self.kind {
            AlarmKind::RootKeyNeeded => write!(
                f,
                "issuing CA {generation} is to be followed by another at {at}, and the root key is not here: bring it \
                 for `fieldgate ca rotate --root-key FILE`"
            ),
            AlarmKind::IssuingEnds => {
                write!(f, "issuing CA {generation} ends at {at}, with all that it issued: run `fieldgate ca rotate`")
            }
            AlarmKind::FormerIssuingEnds => {
                write!(f, "issuing CA {generation} ends at {at}: devices that still have its certificates must renew")
            }
            AlarmKind::RootEnds => {
                write!(f, "root CA {generation} ends at {at}, and with it every certificate: plan for a new plant CA")
            }
        }
    }
}

impl Ca {
    /// A new issuing CA signed by the root key that is here. Devices of the former one stay welcome until its end.
    /// The caller then replaces the server certificate ([`Ca::server_certificate_due`] says so) and publishes the bundle.
    pub fn rotate(&self) -> Result<AuthorityInfo, RotationError> {
        let now = self.time.for_issuing()?;
        self.change(|stores, trust| {
            let (root, signer) = trust.root_signer(now).ok_or_else(|| no_root_key(stores))?;
            self.rotated(stores, trust, root.authority.generation, &signer, now)
        })
    }

    /// As [`Self::rotate`], with the root key given for this once in PKCS #8 and PEM. It is not kept.
    pub fn rotate_with_root_key(&self, pem: &[u8]) -> Result<AuthorityInfo, RotationError> {
        let now = self.time.for_issuing()?;
        let key: CaKey = Arc::new(P256Key::from_pem(pem).ok_or(RotationError::NotAKey)?);
        self.change(|stores, trust| {
            let mut roots = trust.roots.iter();
            let found = roots.find_map(|root| Some((root, root.authority.signer_with(&key, now)?)));
            let (root, signer) = found.ok_or(RotationError::OtherKey)?;
            self.rotated(stores, trust, root.authority.generation, &signer, now)
        })
    }

    /// Rotates when half of the issuing CA's life is over and the root key is here; `None` when not. For a call every
    /// hour. That it is due and the key is away is an alarm, not an error.
    pub fn rotate_if_due(&self) -> Result<Option<AuthorityInfo>, RotationError> {
        let now = self.time.for_issuing()?;
        let due = self.rotation_due_at().is_some_and(|due| due <= now);
        if due && self.trust.get().root_signer(now).is_some() { self.rotate().map(Some) } else { Ok(None) }
    }

    /// When half of the issuing CA's life is over. `None` when another one would not live longer, its root ending too.
    pub fn rotation_due_at(&self) -> Option<UnixMillis> {
        due_at(&self.trust.get())
    }

    /// What somebody should see to, in the order of time. Empty for most of twenty years.
    pub fn alarms(&self) -> Vec<Alarm> {
        let now = self.time.now();
        let trust = self.trust.get();
        let soon = |at: UnixMillis| now.plus(ALARM_AHEAD) >= at;
        let mut alarms = Vec::new();
        let newest = trust.newest().map_or(0, |newest| newest.authority.generation);
        if let Some(at) = due_at(&trust).filter(|at| soon(*at) && trust.root_signer(now).is_none()) {
            alarms.push(Alarm { kind: AlarmKind::RootKeyNeeded, generation: newest, at });
        }
        let issuing = trust.issuing.iter().filter(|issuing| issuing.revoked.is_none()).map(|issuing| {
            let current = issuing.authority.generation == newest;
            let kind = if current { AlarmKind::IssuingEnds } else { AlarmKind::FormerIssuingEnds };
            (kind, &issuing.authority)
        });
        let roots = trust.roots.iter().map(|root| (AlarmKind::RootEnds, &root.authority));
        let ends = issuing.chain(roots).map(|(kind, authority)| (kind, authority, authority.info.not_after));
        // One that is over has nothing ahead; the one that should issue is needed all the same.
        let ends = ends.filter(|(kind, authority, at)| {
            soon(*at) && (authority.valid(now) || *kind != AlarmKind::FormerIssuingEnds)
        });
        alarms.extend(ends.map(|(kind, authority, at)| Alarm { kind, generation: authority.generation, at }));
        alarms.sort_by_key(|alarm| alarm.at);
        alarms
    }

    /// The root key in PKCS #8 and PEM, to be kept elsewhere.
    pub fn export_root_key(&self) -> Result<Secret, RotationError> {
        let now = self.time.now();
        self.read(|stores, trust| {
            let (root, _) = trust.root_signer(now).ok_or_else(|| no_root_key(stores))?;
            let key = stores.keys.export(&name(AuthorityKind::Root, root.authority.generation))?;
            Ok(Secret::new(key.ok_or(RotationError::NotExportable)?.as_str()))
        })
    }

    /// Removes every root key from the CA's directory, durably. Everything goes on; the next rotation asks for it. What
    /// a disk holds of a removed file is up to the disk. Give it to somebody first ([`Self::export_root_key`]).
    pub fn remove_root_key(&self) -> Result<(), RotationError> {
        self.change(|stores, trust| {
            let (mut roots, issuing) = trust.parts();
            for (root, _) in &mut roots {
                stores.keys.remove(&name(AuthorityKind::Root, root.generation))?;
                *root = Arc::new(root.with_key(None));
            }
            Ok((self.trust_of(trust, roots, issuing)?, ()))
        })
    }

    /// Keeps the root key again, from PKCS #8 in PEM. Nothing changes when it is here.
    pub fn restore_root_key(&self, pem: &[u8]) -> Result<AuthorityInfo, RotationError> {
        let now = self.time.now();
        let key: CaKey = Arc::new(P256Key::from_pem(pem).ok_or(RotationError::NotAKey)?);
        self.change(|stores, trust| {
            let (mut roots, issuing) = trust.parts();
            let whose = roots.iter_mut().find(|(root, _)| root.signer_with(&key, now).is_some());
            let (root, _) = whose.ok_or(RotationError::OtherKey)?;
            if root.key.is_none() {
                let kept = stores.keys.import(&name(AuthorityKind::Root, root.generation), pem)?;
                *root = Arc::new(root.with_key(Some(kept)));
            }
            let info = root.info.clone();
            Ok((self.trust_of(trust, roots, issuing)?, info))
        })
    }

    /// Revokes an issuing CA whose key may be in other hands: none of its certificates is accepted any more, from the
    /// next handshake on and for good. Another must issue already; the root key must be here to sign the list that says
    /// so. The caller closes the sessions of its devices.
    pub fn revoke_issuing(&self, issuer: &IssuerKey) -> Result<AuthorityInfo, RotationError> {
        let now = self.time.for_issuing()?;
        self.change(|stores, trust| {
            let found = trust.issuing.iter().find(|issuing| issuing.authority.info.issuer_key == *issuer);
            let found = found.ok_or(RotationError::UnknownIssuing { issuer: *issuer })?;
            let others = trust.issuing.iter().filter(|other| other.revoked.is_none() && now < other.ends);
            let mut others = others.filter(|other| other.authority.info.issuer_key != *issuer);
            if !others.any(|other| other.authority.signer(now).is_some()) {
                return Err(RotationError::LastIssuing);
            }
            let (mut roots, issuing) = trust.parts();
            let root = roots.iter_mut().find(|(root, _)| root.has_issued(&found.authority.der));
            let (root, list) = root.ok_or(RotationError::UnknownIssuing { issuer: *issuer })?;
            let signer = root.signer(now).ok_or_else(|| no_root_key(stores))?;
            let mut revoked = list.as_ref().map(|list| list.revoked.clone()).unwrap_or_default();
            let serial = found.authority.info.serial.clone();
            if !revoked.iter().any(|entry| entry.serial == serial) {
                revoked.push(Revoked { serial, since: now, superseded: false });
            }
            let newer = stores.making(&self.gateway).root_list(&signer, revoked, list.as_ref(), now)?;
            *list = Some(newer);
            tracing::warn!(subject = found.authority.info.subject, "issuing CA revoked");
            let info = AuthorityInfo { revoked: Some(now), ..found.authority.info.clone() };
            Ok((self.trust_of(trust, roots, issuing)?, info))
        })
    }

    fn rotated(
        &self,
        stores: &Stores,
        trust: &Trust,
        root: u32,
        signer: &Signer<'_>,
        now: UnixMillis,
    ) -> Result<(Trust, AuthorityInfo), RotationError> {
        let (mut roots, mut issuing) = trust.parts();
        let making = stores.making(&self.gateway);
        let next = issuing.iter().map(|authority| authority.generation).max().unwrap_or(0).saturating_add(1);
        making.prepare_issuing_key(next)?;
        if let Some((_, list)) = roots.iter_mut().find(|(authority, _)| authority.generation == root) {
            let revoked = list.as_ref().map(|list| list.revoked.clone()).unwrap_or_default();
            *list = Some(making.root_list(signer, revoked, list.as_ref(), now)?);
        }
        let made = Arc::new(making.issuing(signer, next, now)?);
        let info = made.info.clone();
        issuing.push(made);
        Ok((self.trust_of(trust, roots, issuing)?, info))
    }

    fn trust_of(&self, before: &Trust, roots: Vec<Listed>, issuing: Vec<Arc<Authority>>) -> Result<Trust, CaError> {
        Trust::new(roots, issuing, Arc::clone(&before.external), &self.provider)
    }

    /// One change at a time: on disk by `change`, then in force.
    pub(crate) fn change<T, E>(&self, change: impl FnOnce(&Stores, &Trust) -> Result<(Trust, T), E>) -> Result<T, E> {
        self.read(|stores, trust| {
            let (trust, result) = change(stores, trust)?;
            self.trust.put(trust);
            Ok(result)
        })
    }

    /// While nothing changes.
    fn read<T, E>(&self, read: impl FnOnce(&Stores, &Trust) -> Result<T, E>) -> Result<T, E> {
        let stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let trust = self.trust.get();
        read(&stores, &trust)
    }
}

fn no_root_key(stores: &Stores) -> RotationError {
    RotationError::NoRootKey { dir: stores.folder.dir.clone() }
}

/// See [`Ca::rotation_due_at`].
fn due_at(trust: &Trust) -> Option<UnixMillis> {
    let newest = trust.newest()?;
    let longest = trust.roots.iter().map(|root| root.authority.info.not_after).max()?;
    (newest.ends < longest).then(|| newest.authority.info.life().at(life::ROTATE))
}
