//! Devices, their certificates and their enrolment tokens: rows in state.db, and the same in memory for the handshake
//! path, which never waits for a disk: changes come one after the other, are made on disk first, and only then in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use fieldgate_certs::est::{TokenHash, TokenRecord, TokenStore};
use fieldgate_certs::{CertificateKey, CertificateRecord, Holder, IssuerKey, Registry, RegistryError, Role, Serial};
use fieldgate_store::{Delete, Put, State, StateError};
use fieldgate_types::{Current, DeviceId, UnixMillis};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::wanted::Wanted;

const DEVICES: &str = "devices";
const CERTIFICATES: &str = "certificates";
const TOKENS: &str = "tokens";

/// A leaf device, program or nested gateway that has been added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceEntry {
    /// Its id.
    pub id: DeviceId,
    /// Its role.
    pub role: Role,
    /// When it was first added.
    pub added: UnixMillis,
    /// When it was revoked; a device that was added again is not.
    pub revoked: Option<UnixMillis>,
    /// How long its certificates are good, where that was said for it alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validity: Option<Duration>,
    /// Whether it is known by the configuration, with a certificate that is not ours, and not by having been added.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub external: bool,
    /// Groups that it was enrolled into, besides those that list it in the configuration.
    #[serde(default)]
    pub groups: BTreeSet<String>,
}

/// Why a device can't be added or revoked.
#[derive(Debug, Error)]
pub enum RegisterError {
    /// It has a certificate that works.
    #[error("device `{id}` has a valid certificate already; `fieldgate device revoke {id}` ends it")]
    Exists {
        /// Which.
        id: DeviceId,
    },
    /// It has a certificate that works, as something else.
    #[error("device `{id}` has a valid certificate as {role}; `fieldgate device revoke {id}` ends it")]
    OtherRole {
        /// Which.
        id: DeviceId,
        /// As what.
        role: Role,
    },
    /// Nobody has that id.
    #[error("device `{id}` is not known; `fieldgate device list` shows those that are")]
    Unknown {
        /// Which.
        id: DeviceId,
    },
    /// The row could not be written.
    #[error("the registry can't be written")]
    State(#[from] StateError),
    /// The row could not be encoded or decoded.
    #[error("a registry row is damaged")]
    Row(#[from] serde_json::Error),
}

/// A certificate for a device that may have none.
#[derive(Debug, Error)]
#[error("device `{0}` is not known, or was revoked meanwhile")]
struct NotAdmitted(DeviceId);

#[derive(Default)]
struct Index {
    devices: BTreeMap<DeviceId, DeviceEntry>,
    certificates: HashMap<CertificateKey, CertificateRecord>,
    of_device: HashMap<DeviceId, Vec<CertificateKey>>,
    tokens: BTreeMap<DeviceId, TokenRecord>,
    owners: HashMap<TokenHash, DeviceId>,
}

impl Index {
    fn put(&mut self, record: CertificateRecord) {
        let key = record.key();
        let device = record.device.clone();
        if self.certificates.insert(key.clone(), record).is_none() {
            self.of_device.entry(device).or_default().push(key);
        }
    }

    fn put_token(&mut self, token: TokenRecord) {
        self.remove_token(&token.device);
        self.owners.insert(token.hash, token.device.clone());
        self.tokens.insert(token.device.clone(), token);
    }

    fn remove_token(&mut self, id: &DeviceId) {
        if let Some(token) = self.tokens.remove(id) {
            self.owners.remove(&token.hash);
        }
    }

    /// The role of those certificates of `id` that work.
    fn valid_as(&self, id: &DeviceId, now: UnixMillis) -> Option<Role> {
        let valid = |record: &&CertificateRecord| record.revoked.is_none() && record.not_after > now;
        self.certificates_of(id).find(valid).map(|record| record.role)
    }

    fn certificates_of(&self, id: &DeviceId) -> impl Iterator<Item = &CertificateRecord> {
        self.of_device.get(id).into_iter().flatten().filter_map(|key| self.certificates.get(key))
    }
}

/// The registry. Look-ups are from memory; changes are durable before they return, and block for an fsync.
pub struct DeviceRegistry {
    state: Arc<State>,
    /// Held for the whole of a change, the disk included. Look-ups don't wait for it.
    changes: Mutex<()>,
    /// Written to for as long as it takes in memory.
    index: RwLock<Index>,
    /// Who is known by the configuration, which is the registry of these: rows say of them only that they are revoked.
    external: Current<BTreeMap<DeviceId, DeviceEntry>>,
}

impl fmt::Debug for DeviceRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceRegistry").field("devices", &self.read().devices.len()).finish_non_exhaustive()
    }
}

impl DeviceRegistry {
    /// Reads all rows.
    pub fn open(state: Arc<State>) -> Result<Self, RegisterError> {
        let mut index = Index::default();
        for (_, row) in state.scan(DEVICES)? {
            let entry: DeviceEntry = serde_json::from_slice(&row)?;
            index.devices.insert(entry.id.clone(), entry);
        }
        for (_, row) in state.scan(CERTIFICATES)? {
            let record: CertificateRecord = serde_json::from_slice(&row)?;
            index.put(record);
        }
        for (_, row) in state.scan(TOKENS)? {
            let token: TokenRecord = serde_json::from_slice(&row)?;
            index.put_token(token);
        }
        Ok(Self { state, changes: Mutex::new(()), index: RwLock::new(index), external: Current::default() })
    }

    /// Knows `holders` too, since `now`: those of the configuration, with certificates that are not ours.
    pub fn with_external<'a>(self, holders: impl Iterator<Item = &'a Holder>, now: UnixMillis) -> Self {
        self.set_external(holders, now);
        self
    }

    /// From now on the configuration knows these, and nobody else.
    pub fn set_external<'a>(&self, holders: impl Iterator<Item = &'a Holder>, now: UnixMillis) {
        let before = self.external.get();
        let entry = |Holder { device, role }: &Holder| {
            let (id, role) = (device.clone(), *role);
            (
                id.clone(),
                DeviceEntry {
                    id,
                    role,
                    added: before.get(device).map_or(now, |known| known.added),
                    revoked: None,
                    validity: None,
                    groups: BTreeSet::new(),
                    external: true,
                },
            )
        };
        self.external.set(holders.map(entry).collect());
    }

    /// Whether `id` was added and not revoked.
    pub fn registered(&self, id: &DeviceId) -> bool {
        self.read().devices.get(id).is_some_and(|entry| entry.revoked.is_none())
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// One change at a time: two adds of one id must not both succeed.
    fn change(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes `id` known before its certificate is issued. A known one without a valid certificate is taken back.
    pub fn add(&self, id: &DeviceId, wanted: &Wanted, now: UnixMillis) -> Result<DeviceEntry, RegisterError> {
        let _change = self.change();
        if self.read().valid_as(id, now).is_some() {
            return Err(RegisterError::Exists { id: id.clone() });
        }
        self.enter(id, wanted, now)
    }

    /// The row of `id`, if it has one.
    pub fn row(&self, id: &DeviceId) -> Option<DeviceEntry> {
        self.read().devices.get(id).cloned()
    }

    /// Takes back what [`DeviceRegistry::add`] has `entered`, of which no certificate came: `id` is again what it was
    /// `before`. Nothing happens where somebody has changed it since.
    pub fn take_back(&self, entered: &DeviceEntry, before: Option<DeviceEntry>) -> Result<(), RegisterError> {
        let _change = self.change();
        let id = &entered.id;
        if self.row(id).as_ref() != Some(entered) {
            return Ok(());
        }
        if let Some(before) = before {
            self.state.commit(&[put(DEVICES, id.as_str().as_bytes(), &before)?], &[])?;
            self.write().devices.insert(id.clone(), before);
        } else {
            self.state.commit(&[], &[Delete { table: DEVICES, key: id.as_str().as_bytes().to_vec() }])?;
            self.write().devices.remove(id);
        }
        Ok(())
    }

    /// Makes `id` known before its token is made; one with a valid certificate too, since it may have lost the key.
    /// Without a role it stays what it is, or becomes a device.
    pub fn admit(&self, id: &DeviceId, role: Option<Role>, now: UnixMillis) -> Result<DeviceEntry, RegisterError> {
        let _change = self.change();
        let known = self.device(id);
        let role = role.or(known.as_ref().map(|entry| entry.role)).unwrap_or(Role::Device);
        let present = self.read().valid_as(id, now).filter(|present| *present != role);
        if let Some(role) = present {
            return Err(RegisterError::OtherRole { id: id.clone(), role });
        }
        // It stays in its groups, whatever became of its certificates.
        let groups = known.as_ref().map(|entry| entry.groups.clone()).unwrap_or_default();
        match known.filter(|entry| entry.revoked.is_none() && entry.role == role) {
            Some(entry) => Ok(entry),
            None => self.enter(id, &Wanted { groups, ..Wanted::as_role(role) }, now),
        }
    }

    fn enter(&self, id: &DeviceId, wanted: &Wanted, now: UnixMillis) -> Result<DeviceEntry, RegisterError> {
        let Wanted { role, validity, groups } = wanted.clone();
        let added = self.device(id).map_or(now, |entry| entry.added);
        let entry = DeviceEntry { id: id.clone(), role, added, revoked: None, validity, groups, external: false };
        self.state.commit(&[put(DEVICES, id.as_str().as_bytes(), &entry)?], &[])?;
        self.write().devices.insert(id.clone(), entry.clone());
        Ok(entry)
    }

    /// Revokes `id`, every certificate of its and its token: durable when this returns, and in force for new connections.
    pub fn revoke(&self, id: &DeviceId, now: UnixMillis) -> Result<DeviceEntry, RegisterError> {
        let _change = self.change();
        let mut entry = self.device(id).ok_or_else(|| RegisterError::Unknown { id: id.clone() })?;
        entry.revoked.get_or_insert(now);
        let mut rows = vec![put(DEVICES, id.as_str().as_bytes(), &entry)?];
        let mut ended = self.certificates(id);
        ended.retain(|record| record.revoked.is_none());
        for record in &mut ended {
            record.revoked = Some(now);
            rows.push(put(CERTIFICATES, &row_key(&record.key()), record)?);
        }
        let token = Delete { table: TOKENS, key: id.as_str().as_bytes().to_vec() };
        self.state.commit(&rows, &[token])?;
        let mut index = self.write();
        for record in ended {
            index.put(record);
        }
        index.remove_token(id);
        index.devices.insert(id.clone(), entry.clone());
        Ok(entry)
    }

    /// Marks the certificate of `key` as replaced, its successor having been used at `now`. Nothing is written when it
    /// was before.
    pub fn supersede(&self, key: &CertificateKey, now: UnixMillis) -> Result<(), RegisterError> {
        let _change = self.change();
        let Some(mut record) = self.certificate(&key.issuer, &key.serial) else { return Ok(()) };
        if record.supersede(now) {
            self.state.commit(&[put(CERTIFICATES, &row_key(key), &record)?], &[])?;
            self.write().put(record);
        }
        Ok(())
    }

    /// Whether the certificate of `key` is there and not marked as replaced yet.
    pub fn to_supersede(&self, key: &CertificateKey) -> bool {
        self.read().certificates.get(key).is_some_and(|record| record.superseded.is_none())
    }

    /// SHA-256 of the certificates that others have replaced and whose grace is over, while they last.
    pub fn superseded(&self, now: UnixMillis) -> BTreeSet<String> {
        let over = |record: &&CertificateRecord| {
            record.superseded.is_some_and(|since| since <= now) && record.revoked.is_none() && record.not_after > now
        };
        self.read().certificates.values().filter(over).map(|record| record.fingerprint.to_string()).collect()
    }

    /// All devices, by id.
    pub fn devices(&self) -> Vec<DeviceEntry> {
        let mut all = BTreeMap::clone(&self.external.get());
        all.extend(self.read().devices.iter().map(|(id, entry)| (id.clone(), entry.clone())));
        all.into_values().collect()
    }

    /// How many devices are known and not revoked.
    pub fn count(&self) -> usize {
        let known = self.read();
        let external = self.external.get();
        let here = known.devices.values().filter(|entry| entry.revoked.is_none()).count();
        here + external.keys().filter(|id| !known.devices.contains_key(*id)).count()
    }

    /// One device.
    pub fn device(&self, id: &DeviceId) -> Option<DeviceEntry> {
        let row = self.read().devices.get(id).cloned();
        row.or_else(|| self.external.get().get(id).cloned())
    }

    /// The groups that `id` was enrolled into; none for one that is revoked.
    pub fn groups(&self, id: &str) -> BTreeSet<String> {
        let known = self.read();
        let entry = known.devices.get(id).filter(|entry| entry.revoked.is_none());
        entry.map(|entry| entry.groups.clone()).unwrap_or_default()
    }

    /// Whether `id` was enrolled into `group`, and is not revoked.
    pub fn in_group(&self, id: &str, group: &str) -> bool {
        self.read().devices.get(id).is_some_and(|entry| entry.revoked.is_none() && entry.groups.contains(group))
    }

    /// Whether `id` is known, not revoked, and holds an unrevoked certificate with this SHA-256; of one that the
    /// configuration knows no certificate is here.
    pub fn in_force(&self, id: &DeviceId, fingerprint: &str) -> bool {
        let index = self.read();
        if self.external.get().contains_key(id) {
            return !index.devices.contains_key(id);
        }
        let known = index.devices.get(id).is_some_and(|entry| entry.revoked.is_none());
        known && index.certificates_of(id).any(|r| r.revoked.is_none() && r.fingerprint.to_string() == fingerprint)
    }

    /// The certificates of a device, newest first.
    pub fn certificates(&self, id: &DeviceId) -> Vec<CertificateRecord> {
        let mut records: Vec<_> = self.read().certificates_of(id).cloned().collect();
        records.sort_by_key(|record| std::cmp::Reverse(record.not_before));
        records
    }

    /// Every certificate there is.
    pub fn all_certificates(&self) -> Vec<CertificateRecord> {
        self.read().certificates.values().cloned().collect()
    }

    /// Of each device that is not revoked the certificate that lasts longest.
    pub fn lasting(&self) -> Vec<CertificateRecord> {
        let index = self.read();
        let known = index.devices.values().filter(|entry| entry.revoked.is_none());
        let lasting = known.filter_map(|entry| {
            let valid = index.certificates_of(&entry.id).filter(|record| record.revoked.is_none());
            valid.max_by_key(|record| record.not_after)
        });
        lasting.cloned().collect()
    }
}

impl Registry for DeviceRegistry {
    fn certificate(&self, issuer: &IssuerKey, serial: &Serial) -> Option<CertificateRecord> {
        let key = CertificateKey { issuer: *issuer, serial: serial.clone() };
        self.read().certificates.get(&key).cloned()
    }

    fn record(&self, certificate: &CertificateRecord) -> Result<(), RegistryError> {
        let _change = self.change();
        // It may have been revoked since somebody began to issue this.
        if self.device(&certificate.device).is_none_or(|entry| entry.revoked.is_some()) {
            return Err(RegistryError::new(NotAdmitted(certificate.device.clone())));
        }
        let row = put(CERTIFICATES, &row_key(&certificate.key()), certificate).map_err(RegistryError::new)?;
        self.state.commit(&[row], &[]).map_err(RegistryError::new)?;
        self.write().put(certificate.clone());
        Ok(())
    }

    fn validity(&self, device: &DeviceId) -> Option<Duration> {
        self.read().devices.get(device)?.validity
    }

    fn barred(&self, device: &DeviceId) -> Option<UnixMillis> {
        self.read().devices.get(device)?.revoked
    }
}

impl TokenStore for DeviceRegistry {
    fn token(&self, device: &DeviceId) -> Option<TokenRecord> {
        self.read().tokens.get(device).cloned()
    }

    fn owner(&self, hash: &TokenHash) -> Option<DeviceId> {
        self.read().owners.get(hash).cloned()
    }

    fn keep(&self, token: &TokenRecord) -> Result<(), RegistryError> {
        let _change = self.change();
        let row = put(TOKENS, token.device.as_str().as_bytes(), token).map_err(RegistryError::new)?;
        self.state.commit(&[row], &[]).map_err(RegistryError::new)?;
        self.write().put_token(token.clone());
        Ok(())
    }
}

fn row_key(key: &CertificateKey) -> Vec<u8> {
    format!("{}/{}", key.issuer, key.serial).into_bytes()
}

fn put(table: &'static str, key: &[u8], row: &impl Serialize) -> Result<Put, serde_json::Error> {
    Ok(Put { table, key: key.to_vec(), value: serde_json::to_vec(row)? })
}

#[cfg(test)]
mod tests {
    use fieldgate_certs::{Fingerprint, SUPERSEDE_GRACE};
    use fieldgate_types::{ManualClock, UnixMillis};

    use super::*;

    const NOW: UnixMillis = UnixMillis(2_200_000_000_000);

    fn opened(folder: &std::path::Path) -> DeviceRegistry {
        let clock = Arc::new(ManualClock::new(NOW));
        DeviceRegistry::open(Arc::new(State::open(&folder.join("state.db"), clock).unwrap())).unwrap()
    }

    fn id(id: &str) -> DeviceId {
        DeviceId::new(id).unwrap()
    }

    fn certificate(device: &str, serial: u8) -> CertificateRecord {
        CertificateRecord {
            issuer: IssuerKey::of(b"issuer"),
            serial: Serial::from_bytes(&[serial]),
            device: id(device),
            role: Role::Device,
            fingerprint: Fingerprint::of(&[serial]),
            not_before: NOW,
            not_after: NOW.plus(Duration::from_hours(24)),
            revoked: None,
            replaces: None,
            superseded: None,
        }
    }

    #[test]
    fn a_replaced_certificate_is_superseded_once_and_for_good() {
        let folder = tempfile::tempdir().unwrap();
        let registry = opened(folder.path());
        registry.add(&id("press-1"), &Wanted::as_role(Role::Device), NOW).unwrap();
        let old = certificate("press-1", 1);
        let new = CertificateRecord { replaces: Some(old.key()), ..certificate("press-1", 2) };
        registry.record(&old).unwrap();
        registry.record(&new).unwrap();
        assert!(registry.to_supersede(&old.key()));
        registry.supersede(&old.key(), NOW).unwrap();
        registry.supersede(&old.key(), NOW.plus(Duration::from_secs(5))).unwrap();
        assert!(!registry.to_supersede(&old.key()));
        drop(registry);
        let registry = opened(folder.path());
        let read = registry.certificate(&old.issuer, &old.serial).unwrap();
        assert_eq!(read.superseded, Some(NOW.plus(SUPERSEDE_GRACE)));
        assert_eq!(registry.certificate(&new.issuer, &new.serial), Some(new));
    }

    #[test]
    fn revoking_takes_the_token_and_what_was_being_issued() {
        let folder = tempfile::tempdir().unwrap();
        let registry = opened(folder.path());
        registry.admit(&id("press-1"), None, NOW).unwrap();
        let hash = TokenHash::of("secret");
        let token = TokenRecord {
            device: id("press-1"),
            role: Role::Device,
            validity: None,
            hash,
            expires: NOW.plus(Duration::from_secs(1)),
            used: None,
        };
        registry.keep(&token).unwrap();
        assert_eq!((registry.token(&id("press-1")), registry.owner(&hash)), (Some(token), Some(id("press-1"))));
        registry.revoke(&id("press-1"), NOW).unwrap();
        registry.record(&certificate("press-1", 1)).unwrap_err();
        registry.record(&certificate("nobody", 2)).unwrap_err();
        drop(registry);
        let registry = opened(folder.path());
        assert_eq!((registry.token(&id("press-1")), registry.owner(&hash)), (None, None));
        assert_eq!(registry.barred(&id("press-1")), Some(NOW));
        registry.admit(&id("press-1"), None, NOW).unwrap();
        assert_eq!(registry.barred(&id("press-1")), None, "a token takes it back");
    }

    #[test]
    fn a_device_of_the_configuration_is_in_force_until_it_is_revoked_and_then_never_again() {
        let folder = tempfile::tempdir().unwrap();
        let holder = Holder { device: id("corp-1"), role: Role::App };
        let known = |registry: DeviceRegistry| registry.with_external([&holder].into_iter(), NOW);
        let registry = known(opened(folder.path()));
        assert!(registry.in_force(&id("corp-1"), "any") && !registry.in_force(&id("corp-2"), "any"));
        assert!(!registry.registered(&id("corp-1")));
        let entry = registry.device(&id("corp-1")).unwrap();
        assert_eq!(
            (entry.role, entry.external, entry.revoked, registry.devices()),
            (Role::App, true, None, vec![entry.clone()])
        );
        registry.revoke(&id("corp-1"), NOW).unwrap();
        for registry in [registry, known(opened(folder.path()))] {
            assert!(!registry.in_force(&id("corp-1"), "any"));
            assert_eq!(registry.barred(&id("corp-1")), Some(NOW));
            assert_eq!(registry.devices()[0].revoked, Some(NOW));
        }
        // Out of the configuration it is a revoked device like others.
        let registry = opened(folder.path());
        assert!(!registry.in_force(&id("corp-1"), "any") && registry.device(&id("corp-1")).is_some());
    }

    #[test]
    fn what_was_added_in_vain_is_taken_back_unless_it_was_changed_since() {
        let folder = tempfile::tempdir().unwrap();
        let registry = opened(folder.path());
        let wanted = Wanted::as_role(Role::Device);
        let entered = registry.add(&id("press-1"), &wanted, NOW).unwrap();
        registry.take_back(&entered, None).unwrap();
        assert_eq!(registry.device(&id("press-1")), None);

        let entered = registry.add(&id("press-1"), &wanted, NOW).unwrap();
        let revoked = registry.revoke(&id("press-1"), NOW).unwrap();
        registry.take_back(&entered, None).unwrap();
        assert_eq!(registry.device(&id("press-1")), Some(revoked.clone()), "revoked by somebody else meanwhile");

        let again = registry.add(&id("press-1"), &wanted, NOW).unwrap();
        assert_eq!(again.revoked, None);
        registry.take_back(&again, Some(revoked.clone())).unwrap();
        drop(registry);
        assert_eq!(opened(folder.path()).device(&id("press-1")), Some(revoked), "revoked as before, on disk too");
    }

    #[test]
    fn a_token_changes_no_role_under_a_valid_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let registry = opened(folder.path());
        let wanted = Wanted { validity: Some(Duration::from_secs(9)), ..Wanted::as_role(Role::Device) };
        registry.add(&id("press-1"), &wanted, NOW).unwrap();
        registry.record(&certificate("press-1", 1)).unwrap();
        assert_eq!(registry.admit(&id("press-1"), None, NOW).unwrap().validity, Some(Duration::from_secs(9)));
        assert_eq!(registry.validity(&id("press-1")), Some(Duration::from_secs(9)));
        let refused = registry.admit(&id("press-1"), Some(Role::App), NOW).unwrap_err();
        assert!(matches!(refused, RegisterError::OtherRole { role: Role::Device, .. }), "{refused}");
        let later = NOW.plus(Duration::from_hours(48));
        assert_eq!(registry.admit(&id("press-1"), Some(Role::App), later).unwrap().role, Role::App);
    }

    #[test]
    fn groups_last_over_restarts_and_tokens_and_end_with_the_revocation() {
        let folder = tempfile::tempdir().unwrap();
        let registry = opened(folder.path());
        let wanted = Wanted { groups: BTreeSet::from(["presses".to_owned()]), ..Wanted::as_role(Role::Device) };
        registry.add(&id("press-1"), &wanted, NOW).unwrap();
        drop(registry);
        let registry = opened(folder.path());
        assert!(registry.in_group("press-1", "presses") && !registry.in_group("press-1", "mills"));
        assert!(!registry.in_group("press-2", "presses"));
        registry.revoke(&id("press-1"), NOW).unwrap();
        assert!(!registry.in_group("press-1", "presses") && registry.groups("press-1").is_empty());
        registry.admit(&id("press-1"), None, NOW).unwrap();
        assert_eq!(registry.groups("press-1"), wanted.groups, "taken back as what it was");
        registry.add(&id("press-1"), &Wanted::as_role(Role::Device), NOW).unwrap();
        assert!(registry.groups("press-1").is_empty(), "added anew as something else");
    }

    #[test]
    fn rows_of_the_first_format_have_no_groups() {
        let row = r#"{"id":"press-1","role":"device","added":1,"revoked":null}"#;
        let entry: DeviceEntry = serde_json::from_str(row).unwrap();
        assert!(entry.groups.is_empty() && entry.validity.is_none());
    }
}
