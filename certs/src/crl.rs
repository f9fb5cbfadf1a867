//! Revocation lists (RFC 5280, section 5), for others: the registry decides here, and a list that is stale or missing
//! never stops the plant.
//!
//! Every issuing CA that has its key signs one from the registry's rows, good for seven days. A root's list names the
//! issuing CAs that it has revoked, is good until the root's end, and lies on disk: it is what makes such a revocation
//! last, and its key may be away for years.

use std::time::Duration;

use fieldgate_types::UnixMillis;
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::authority::{Authority, AuthorityKind, Signer};
use crate::encoding::list_pem;
use crate::instant::{date_time, from_seconds, whole_seconds};
use crate::template::backdated;
use crate::{Ca, CertificateRecord, IssueError, IssuerKey, Serial};

/// How long an issuing CA's list is good. Signed afresh every day, so that six days of failures go unnoticed.
pub const LIST_LIFE: Duration = Duration::from_hours(7 * 24);

/// A certificate on a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Its number.
    pub serial: Serial,
    /// Since when it is not good any more.
    pub since: UnixMillis,
    /// Whether another took its place, and nothing is wrong with it otherwise.
    pub superseded: bool,
}

/// A signed revocation list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationList {
    /// Whose it is.
    pub kind: AuthorityKind,
    /// The generation of the CA that signed it, as in the names of files.
    pub generation: u32,
    /// What registry rows call that CA.
    pub issuer: IssuerKey,
    /// Grows with each list of one CA.
    pub number: u64,
    /// When the next one is due, at the latest.
    pub next_update: UnixMillis,
    /// What is on it.
    pub revoked: Vec<Revoked>,
    /// The list itself.
    pub der: Vec<u8>,
}

impl RevocationList {
    /// The list itself, in PEM.
    pub fn pem(&self) -> String {
        list_pem(&self.der)
    }

    /// `issuing-1.crl`: what it is called as a file.
    pub fn file_name(&self) -> String {
        format!("{}-{}.crl", self.kind.as_str(), self.generation)
    }

    /// Reads what `authority` signed; `None` when it didn't.
    pub(crate) fn read(der: Vec<u8>, authority: &Authority) -> Option<Self> {
        let (rest, list) = CertificateRevocationList::from_der(&der).ok()?;
        let (_, own) = X509Certificate::from_der(&authority.der).ok()?;
        if !rest.is_empty() || list.issuer().as_raw() != own.subject().as_raw() {
            return None;
        }
        list.verify_signature(own.public_key()).ok()?;
        let number = list.crl_number().and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
        let next_update = from_seconds(list.next_update()?.timestamp());
        let revoked = list.iter_revoked_certificates().map(|entry| Revoked {
            serial: Serial::from_bytes(entry.raw_serial()),
            since: from_seconds(entry.revocation_date.timestamp()),
            superseded: entry.reason_code().is_some_and(|(_, reason)| reason.0 == 4),
        });
        let revoked = revoked.collect();
        let (kind, generation, issuer) = (authority.info.kind, authority.generation, authority.info.issuer_key);
        Some(Self { kind, generation, issuer, number, next_update, revoked, der })
    }
}

impl Signer<'_> {
    /// Signs a list. Its number is the time, or `after` and one when that is more.
    pub(crate) fn sign_list(
        &self,
        mut revoked: Vec<Revoked>,
        now: UnixMillis,
        next_update: UnixMillis,
        after: Option<u64>,
    ) -> Result<RevocationList, rcgen::Error> {
        let info = &self.authority.info;
        let number = after.map_or(now.0, |after| now.0.max(after.saturating_add(1)));
        revoked.sort_by(|one, other| one.serial.cmp(&other.serial));
        let entries = revoked.iter().map(|entry| RevokedCertParams {
            serial_number: SerialNumber::from_slice(entry.serial.as_bytes()),
            revocation_time: date_time(entry.since),
            // "Unspecified" is said by saying nothing (RFC 5280, 5.3.1).
            reason_code: entry.superseded.then_some(RevocationReason::Superseded),
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            // Receivers' clocks may be behind, as with certificates.
            this_update: date_time(backdated(now).max(info.not_before)),
            next_update: date_time(next_update),
            crl_number: SerialNumber::from_slice(&number.to_be_bytes()),
            issuing_distribution_point: None,
            revoked_certs: entries.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let der = self.sign_list_params(&params)?;
        let (kind, generation, issuer) = (info.kind, self.authority.generation, info.issuer_key);
        Ok(RevocationList { kind, generation, issuer, number, next_update, revoked, der })
    }
}

impl Ca {
    /// A list of each issuing CA that has its key and is not over, signed now, newest CA first; `rows` are the
    /// registry's, all of them. A certificate stays on the list for a week after its end, since it must have been seen
    /// there once (RFC 5280, 3.3).
    ///
    /// Signs once per CA: 10,000 revoked certificates make 400 KB. Not for an async worker.
    pub fn revocation_lists<'a>(
        &self,
        rows: impl IntoIterator<Item = &'a CertificateRecord>,
    ) -> Result<Vec<RevocationList>, IssueError> {
        let now = self.time.for_issuing()?;
        let trust = self.trust.get();
        let mut all: Vec<(IssuerKey, Revoked)> = Vec::new();
        for row in rows.into_iter().filter(|row| row.not_after.plus(LIST_LIFE) >= now) {
            let superseded = row.superseded.filter(|since| *since <= now);
            if let Some(since) = row.revoked.or(superseded) {
                let entry = Revoked { serial: row.serial.clone(), since, superseded: row.revoked.is_none() };
                all.push((row.issuer, entry));
            }
        }
        let mut lists = Vec::new();
        for signer in trust.issuing.iter().rev().filter_map(|issuing| issuing.authority.signer(now)) {
            let own = signer.authority.info.issuer_key;
            let revoked = all.iter().filter(|(issuer, _)| *issuer == own).map(|(_, entry)| entry.clone()).collect();
            let next = whole_seconds(now.plus(LIST_LIFE));
            lists.push(signer.sign_list(revoked, now, next, None)?);
        }
        Ok(lists)
    }

    /// The list of each root that is not over, as it lies in the CA's directory.
    pub fn root_revocation_lists(&self) -> Vec<RevocationList> {
        let now = self.time.now();
        let trust = self.trust.get();
        trust.roots.iter().filter(|root| root.authority.valid(now)).filter_map(|root| root.list.clone()).collect()
    }
}
