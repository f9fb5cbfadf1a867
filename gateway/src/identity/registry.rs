//! Devices and their certificates: rows in state.db, and the same in memory for the handshake path.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use fieldgate_certs::{CertificateRecord, IssuerKey, Registry, RegistryError, Role, Serial};
use fieldgate_store::{Put, State, StateError};
use fieldgate_types::{DeviceId, UnixMillis};
use serde::{Deserialize, Serialize};
use thiserror::Error;

const DEVICES: &str = "devices";
const CERTIFICATES: &str = "certificates";

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

type CertificateKey = (IssuerKey, Serial);

#[derive(Default)]
struct Index {
    devices: BTreeMap<DeviceId, DeviceEntry>,
    certificates: HashMap<CertificateKey, CertificateRecord>,
    of_device: HashMap<DeviceId, Vec<CertificateKey>>,
}

impl Index {
    fn put(&mut self, record: CertificateRecord) {
        let key = (record.issuer, record.serial.clone());
        let device = record.device.clone();
        if self.certificates.insert(key.clone(), record).is_none() {
            self.of_device.entry(device).or_default().push(key);
        }
    }

    fn certificates_of(&self, id: &DeviceId) -> impl Iterator<Item = &CertificateRecord> {
        self.of_device.get(id).into_iter().flatten().filter_map(|key| self.certificates.get(key))
    }
}

/// The registry. Look-ups are from memory; changes are durable before they return, and block for an fsync.
pub struct DeviceRegistry {
    state: Arc<State>,
    index: RwLock<Index>,
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
        Ok(Self { state, index: RwLock::new(index) })
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes `id` known before its certificate is issued. A known one without a valid certificate is taken back.
    pub fn add(&self, id: &DeviceId, role: Role, now: UnixMillis) -> Result<DeviceEntry, RegisterError> {
        // Held over the write to disk: two adds of one id must not both succeed.
        let mut index = self.write();
        let valid = |record: &CertificateRecord| record.revoked.is_none() && record.not_after > now;
        if index.certificates_of(id).any(valid) {
            return Err(RegisterError::Exists { id: id.clone() });
        }
        let added = index.devices.get(id).map_or(now, |entry| entry.added);
        let entry = DeviceEntry { id: id.clone(), role, added, revoked: None };
        self.state.commit(&[put(DEVICES, id.as_str().as_bytes(), &entry)?], &[])?;
        index.devices.insert(id.clone(), entry.clone());
        Ok(entry)
    }

    /// Revokes `id` and every certificate of its: durable when this returns, and in force for new connections.
    pub fn revoke(&self, id: &DeviceId, now: UnixMillis) -> Result<DeviceEntry, RegisterError> {
        let mut index = self.write();
        let mut entry = index.devices.get(id).cloned().ok_or_else(|| RegisterError::Unknown { id: id.clone() })?;
        entry.revoked.get_or_insert(now);
        let mut rows = vec![put(DEVICES, id.as_str().as_bytes(), &entry)?];
        let mut ended = Vec::new();
        for record in index.certificates_of(id).filter(|record| record.revoked.is_none()) {
            let record = CertificateRecord { revoked: Some(now), ..record.clone() };
            rows.push(put(CERTIFICATES, &key(&record), &record)?);
            ended.push(record);
        }
        self.state.commit(&rows, &[])?;
        for record in ended {
            index.put(record);
        }
        index.devices.insert(id.clone(), entry.clone());
        Ok(entry)
    }

    /// All devices, by id.
    pub fn devices(&self) -> Vec<DeviceEntry> {
        self.read().devices.values().cloned().collect()
    }

    /// One device.
    pub fn device(&self, id: &DeviceId) -> Option<DeviceEntry> {
        self.read().devices.get(id).cloned()
    }

    /// Whether `id` is known, not revoked, and holds an unrevoked certificate with this SHA-256.
    pub fn in_force(&self, id: &DeviceId, fingerprint: &str) -> bool {
        let index = self.read();
        let known = index.devices.get(id).is_some_and(|entry| entry.revoked.is_none());
        known && index.certificates_of(id).any(|r| r.revoked.is_none() && r.fingerprint.to_string() == fingerprint)
    }

    /// The certificates of a device, newest first.
    pub fn certificates(&self, id: &DeviceId) -> Vec<CertificateRecord> {
        let mut records: Vec<_> = self.read().certificates_of(id).cloned().collect();
        records.sort_by_key(|record| std::cmp::Reverse(record.not_before));
        records
    }
}

impl Registry for DeviceRegistry {
    fn certificate(&self, issuer: &IssuerKey, serial: &Serial) -> Option<CertificateRecord> {
        self.read().certificates.get(&(*issuer, serial.clone())).cloned()
    }

    fn record(&self, certificate: &CertificateRecord) -> Result<(), RegistryError> {
        let row = put(CERTIFICATES, &key(certificate), certificate).map_err(RegistryError::new)?;
        let mut index = self.write();
        self.state.commit(&[row], &[]).map_err(RegistryError::new)?;
        index.put(certificate.clone());
        Ok(())
    }
}

fn key(record: &CertificateRecord) -> Vec<u8> {
    format!("{}/{}", record.issuer, record.serial).into_bytes()
}

fn put(table: &'static str, key: &[u8], row: &impl Serialize) -> Result<Put, serde_json::Error> {
    Ok(Put { table, key: key.to_vec(), value: serde_json::to_vec(row)? })
}
