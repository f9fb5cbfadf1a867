//! Adds and revokes devices: the CA, the registry and the audit log in the right order.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fieldgate_certs::est::{self, Desk, Enrolment, Token, TokenError};
use fieldgate_certs::{
    Alarm, AuthorityInfo, Ca, CaError, CertificateKey, CertificateRecord, ExternalError, ExternalTrust, IssueError,
    Issued, Reading, Role, RotationError, Standing,
};
use fieldgate_store::{Put, State, StateError};
use fieldgate_types::{Clock, Current, DeviceId, InvalidDeviceId, Secret, UnixMillis};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::account::Accounts;
use super::api_token::ApiTokens;
use super::lists::Lists;
use super::registry::{DeviceEntry, DeviceRegistry, RegisterError};
use super::wanted::Wanted;
use crate::audit::{Audit, Event, Stranger};
use crate::backup::Snapshot;
use crate::config::Config;
use crate::log::in_full;
use crate::moment::date;

/// Why a device could not be added or revoked.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// The id belongs to something else.
    #[error(
        "`{id}` is a field device, a user or another CA's device of the configuration, or this gateway; ids may not coincide, choose another"
    )]
    Configured {
        /// Which.
        id: DeviceId,
    },
    /// There is no such group.
    #[error("there is no [[group]] named `{0}` in the configuration; a policy could not name it")]
    NoGroup(String),
    /// The registry says no.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The CA says no.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// No token can be made.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// Why the identities of a data directory can't be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// state.db can't be read or written.
    #[error("state.db can't be used: {0}")]
    State(#[from] StateError),
    /// The CA can't be opened.
    #[error("the certificate authority can't be opened: {0}")]
    Ca(#[from] CaError),
    /// Others can't be trusted as configured.
    #[error("[[certs.external]]: {0}")]
    External(#[from] ExternalError),
    /// The registry can't be read.
    #[error("the registry can't be read: {0}")]
    Registry(#[from] RegisterError),
    /// There is no usable name for this gateway.
    #[error("the host name is no gateway id ({0}); set one: [gateway] id = \"…\"")]
    Id(#[from] InvalidDeviceId),
    /// The id of the configuration and the one of the data directory differ.
    #[error(
        "this data directory belongs to gateway `{fixed}`, the configuration says `{configured}`; set the former, or use another data_dir"
    )]
    OtherGateway {
        /// In state.db.
        fixed: DeviceId,
        /// In the configuration.
        configured: DeviceId,
    },
}

/// An id of the configuration is somebody else's.
#[derive(Debug, Error)]
pub enum SharedId {
    /// Of a field device or user.
    #[error(
        "`{0}` is the id of a leaf device or of this gateway, and of a field device or user in the configuration; rename one, or `fieldgate device revoke {0}`"
    )]
    Configured(DeviceId),
    /// Of a device of another CA.
    #[error(
        "`{0}` is the id of a device of this gateway's own CA or of this gateway, and stands in [[certs.external]] or [[certs.pin]]; choose another there"
    )]
    External(DeviceId),
}

/// A device with its certificates, for people and programs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceDetails {
    /// The device.
    #[serde(flatten)]
    pub entry: DeviceEntry,
    /// Its certificates, newest first.
    pub certificates: Vec<CertificateRecord>,
}

/// The CA's certificates and what is due, for people and programs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CaReport {
    /// Every CA certificate, roots first.
    pub authorities: Vec<AuthorityInfo>,
    /// When the next issuing CA is made by itself; absent when none would live longer than this one.
    pub rotation_due: Option<UnixMillis>,
    /// What somebody should see to.
    pub alarms: Vec<Alarm>,
}

/// The CA and the registry of one gateway.
pub struct Authority {
    /// The gateway's own id.
    pub gateway: DeviceId,
    /// The CA.
    pub ca: Ca,
    /// The registry.
    pub registry: Arc<DeviceRegistry>,
    /// Who may ask the API over TCP.
    pub api_tokens: ApiTokens,
    /// Who may sign in to the console.
    pub accounts: Accounts,
    state: Arc<State>,
    audit: Audit,
    est: Enrolment,
    lists: Lists,
    configured: Current<Configured>,
}

/// What of the configuration is asked here.
#[derive(Debug)]
struct Configured {
    validity: Duration,
    /// Ids of field devices, users and other CAs' devices.
    ids: BTreeSet<DeviceId>,
    /// Groups that a device can be enrolled into.
    groups: BTreeSet<String>,
}

impl Configured {
    fn of(config: &Config) -> Self {
        let ids = config.field_devices().chain(config.users()).chain(config.external_devices());
        Self {
            validity: config.certs.device_validity,
            ids: ids.cloned().collect(),
            groups: config.groups.iter().map(|group| group.name.clone()).collect(),
        }
    }
}

impl Authority {
    /// Opens the identities in `config.data_dir`; makes the CA and fixes the gateway's id at the first start.
    pub fn open(config: &Config, state: Arc<State>, audit: Audit, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let gateway = gateway_id(config, &state)?;
        let ca = Ca::open_or_create(&config.data_dir.join("ca"), &gateway, clock)?;
        let external = &config.certs.external;
        ca.trust_others(external.clone())?;
        let registry = DeviceRegistry::open(Arc::clone(&state))?.with_external(external.holders(), ca.time().now());
        let registry = Arc::new(registry);
        let newest = registry.all_certificates().iter().map(|record| record.not_before).max();
        for past in last_time(&state)?.into_iter().chain(newest) {
            ca.time().raise(past);
        }
        Ok(Self {
            gateway,
            ca,
            registry,
            api_tokens: ApiTokens::open(Arc::clone(&state), audit.clone())?,
            accounts: Accounts::open(Arc::clone(&state), audit.clone())?,
            state,
            audit,
            est: Enrolment::new(config.certs.est_validity),
            lists: Lists::new(config.data_dir.join("crl")),
            configured: Current::new(Configured::of(config)),
        })
    }

    /// Other external CAs and pins from now on, for handshakes that follow; or none of it, where they can't be used.
    pub fn trust_others(&self, external: &ExternalTrust) -> Result<(), ExternalError> {
        self.ca.trust_others(external.clone())?;
        self.registry.set_external(external.holders(), self.ca.time().now());
        Ok(())
    }

    /// Another configuration from now on: how long certificates are good, whose ids are taken, which groups there are.
    pub fn configure(&self, config: &Config) {
        self.est.set_validity(config.certs.est_validity);
        self.configured.set(Configured::of(config));
    }

    /// The groups that a device can be enrolled into.
    pub fn groups(&self) -> BTreeSet<String> {
        self.configured.get().groups.clone()
    }

    /// An id is a leaf device's, a field device's or a user's (DESIGN section 4): whether those of `config` are free.
    pub fn refuse_shared_ids(&self, config: &Config) -> Result<(), SharedId> {
        for id in config.field_devices().chain(config.users()) {
            let taken = self.registry.device(id).is_some_and(|entry| entry.revoked.is_none() && !entry.external);
            if taken || *id == self.gateway {
                return Err(SharedId::Configured(id.clone()));
            }
        }
        match config.external_devices().find(|id| self.registry.registered(id) || **id == self.gateway) {
            Some(id) => Err(SharedId::External(id.clone())),
            None => Ok(()),
        }
    }

    /// Registers `id` and issues its certificate: with a new key, or for the public key of `csr`.
    pub fn add(&self, id: &DeviceId, wanted: &Wanted, csr: Option<&[u8]>) -> Result<Issued, AuthorityError> {
        self.refuse_configured(id)?;
        let configured = self.configured.get();
        if let Some(group) = wanted.groups.iter().find(|group| !configured.groups.contains(*group)) {
            return Err(AuthorityError::NoGroup(group.clone()));
        }
        let before = self.registry.row(id);
        let entered = self.registry.add(id, wanted, self.ca.time().now())?;
        let (registry, role) = (&*self.registry, wanted.role);
        let validity = wanted.validity.unwrap_or(configured.validity);
        let issued = match csr {
            None => self.ca.issue(registry, id, role, validity),
            Some(csr) => self.ca.issue_from_csr(registry, csr, id, role, validity),
        };
        let issued = match issued {
            Ok(issued) => issued,
            Err(error) => {
                self.registry.take_back(&entered, before)?;
                return Err(error.into());
            }
        };
        let serial = issued.record.serial.to_string();
        tracing::info!(device = %id, %role, serial, "device added");
        self.audit.record(Event::DeviceAdded { device: id.clone(), role: role.to_string(), serial });
        Ok(issued)
    }

    fn refuse_configured(&self, id: &DeviceId) -> Result<(), AuthorityError> {
        if self.configured.get().ids.contains(id) || *id == self.gateway {
            return Err(AuthorityError::Configured { id: id.clone() });
        }
        Ok(())
    }

    fn desk(&self) -> Desk<'_> {
        Desk { ca: &self.ca, registry: &*self.registry, tokens: &*self.registry }
    }

    /// Registers `id` where it isn't known, takes it back where it was revoked, and makes the one-time token by which it
    /// gets a certificate over EST. Without a role it stays what it is, or becomes a device.
    pub fn token(&self, id: &DeviceId, role: Option<Role>) -> Result<Token, AuthorityError> {
        self.refuse_configured(id)?;
        let entry = self.registry.admit(id, role, self.ca.time().now())?;
        let token = self.est.token(self.desk(), id, entry.role, entry.validity)?;
        tracing::info!(device = %id, role = %entry.role, "enrolment token made");
        let (role, expires) = (entry.role.to_string(), token.record.expires);
        self.audit.record(Event::TokenMade { device: id.clone(), role, expires });
        Ok(token)
    }

    /// Answers an EST request that came from `peer`. Waits for the disk.
    pub fn answer_enrolment(&self, request: &est::Request<'_>, peer: SocketAddr) -> est::Answer {
        let (answer, event) = self.est.answer(self.desk(), request);
        match event {
            Some(est::Event::Enrolled { record }) => {
                let (device, serial) = (record.device, record.serial.to_string());
                tracing::info!(%device, serial, %peer, "device enrolled");
                self.audit.record(Event::DeviceEnrolled { device, peer: peer.to_string(), serial });
            }
            Some(est::Event::Renewed { record, replaces, .. }) => {
                let (device, serial) = (record.device, record.serial.to_string());
                tracing::info!(%device, serial, %peer, "device renewed");
                let replaces = replaces.serial.to_string();
                self.audit.record(Event::DeviceRenewed { device, peer: peer.to_string(), serial, replaces });
            }
            Some(est::Event::Refused { device, reason }) => {
                let (stranger, reason) = (reason.is_of_a_stranger(), in_full(&reason));
                let event = |reason| Event::EnrolmentRefused { device, peer: peer.to_string(), reason };
                if stranger {
                    self.audit.record_stranger(Stranger::Enrolment, peer.ip(), &reason, || event(reason.clone()));
                } else {
                    self.audit.record(event(reason));
                }
            }
            None => {}
        }
        answer
    }

    /// Revokes `id`: durable when this returns. The caller then closes its session, and renews the lists.
    pub fn revoke(&self, id: &DeviceId) -> Result<DeviceEntry, AuthorityError> {
        let entry = self.registry.revoke(id, self.ca.time().now())?;
        tracing::info!(device = %id, "device revoked");
        self.audit.record(Event::DeviceRevoked { device: id.clone() });
        Ok(entry)
    }

    /// Signs the revocation lists anew. They are for others: that it fails is said in the log, and stops nothing.
    pub fn renew_lists(&self) {
        if let Err(error) = self.lists.renew(&self.ca, &self.registry) {
            tracing::error!(error = in_full(&error), "revocation lists are not up to date");
        }
    }

    /// The revocation list of that file name, in DER.
    pub fn list(&self, name: &str) -> Option<Arc<[u8]>> {
        self.lists.get(name)
    }

    /// Notes that the successor of the certificate of `replaced` has arrived: the old one is good for a grace period more.
    /// The disk is left to a thread that may wait; if it fails, the device's next connection tries again.
    pub fn supersede(authority: &Arc<Self>, replaced: CertificateKey) {
        if !authority.registry.to_supersede(&replaced) {
            return;
        }
        let authority = Arc::clone(authority);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = authority.registry.supersede(&replaced, authority.ca.time().now()) {
                tracing::error!(%error, serial = %replaced.serial, "a replaced certificate can't be marked");
            }
        });
    }

    /// Writes down what time it is, for the floor of later runs, while the clock can be believed.
    pub fn note_time(&self) -> Result<(), StateError> {
        let Reading { now, standing: Standing::Sound } = self.ca.time().reading() else { return Ok(()) };
        let put = Put { table: GATEWAY, key: TIME.to_vec(), value: now.0.to_string().into_bytes() };
        self.state.commit(&[put], &[])
    }

    /// The next issuing CA, signed with the root key that is here, or with `root_key` in PEM.
    pub fn rotate(&self, root_key: Option<&[u8]>) -> Result<AuthorityInfo, RotationError> {
        let made = match root_key {
            None => self.ca.rotate(),
            Some(pem) => self.ca.rotate_with_root_key(pem),
        };
        made.inspect(|made| self.rotated(made, false))
    }

    /// The next issuing CA, when half of the present one's life is over and the root key is here.
    pub fn rotate_if_due(&self) -> Result<Option<AuthorityInfo>, RotationError> {
        let made = self.ca.rotate_if_due()?;
        if let Some(made) = &made {
            self.rotated(made, true);
        }
        Ok(made)
    }

    fn rotated(&self, made: &AuthorityInfo, due: bool) {
        let (generation, serial) = (made.generation, made.serial.to_string());
        tracing::info!(generation, due, until = %date(made.not_after), "the issuing CA was followed by the next");
        self.audit.record(Event::CaRotated { generation, serial, due });
    }

    /// The root key in PEM, to be kept elsewhere.
    pub fn export_root_key(&self) -> Result<Secret, RotationError> {
        let key = self.ca.export_root_key()?;
        self.audit.record(Event::RootKeyExported);
        Ok(key)
    }

    /// Removes the root key. Somebody has it, or no CA follows the present one.
    pub fn remove_root_key(&self) -> Result<(), RotationError> {
        self.ca.remove_root_key()?;
        tracing::info!("the root key was removed");
        self.audit.record(Event::RootKeyRemoved);
        Ok(())
    }

    /// What a back-up holds of state.db.
    pub fn snapshot(&self) -> Result<Snapshot, StateError> {
        let (gateway, boot) = (self.gateway.clone(), self.state.boot());
        let state = self.state.snapshot()?;
        self.audit.record(Event::BackupTaken);
        Ok(Snapshot { gateway, boot, state })
    }

    /// The CA's certificates and what is due.
    pub fn report(&self) -> CaReport {
        let (authorities, rotation_due) = (self.ca.authorities(), self.ca.rotation_due_at());
        CaReport { authorities, rotation_due, alarms: self.ca.alarms() }
    }

    /// All devices with their certificates, by id.
    pub fn all_details(&self) -> Vec<DeviceDetails> {
        let details = |entry: DeviceEntry| {
            let certificates = self.registry.certificates(&entry.id);
            DeviceDetails { entry, certificates }
        };
        self.registry.devices().into_iter().map(details).collect()
    }

    /// One device with its certificates.
    pub fn details(&self, id: &DeviceId) -> Result<DeviceDetails, AuthorityError> {
        let entry = self.registry.device(id).ok_or_else(|| RegisterError::Unknown { id: id.clone() })?;
        let certificates = self.registry.certificates(&entry.id);
        Ok(DeviceDetails { entry, certificates })
    }
}

const GATEWAY: &str = "gateway";
const ID: &[u8] = b"id";
const TIME: &[u8] = b"time";

/// What an earlier run wrote down. What can't be read proves nothing.
fn last_time(state: &State) -> Result<Option<UnixMillis>, StateError> {
    let noted = state.get(GATEWAY, TIME)?.and_then(|bytes| String::from_utf8(bytes).ok());
    Ok(noted.and_then(|millis| millis.parse().ok()).map(UnixMillis))
}

/// The configured id, else the host name; fixed in state.db at the first start.
fn gateway_id(config: &Config, state: &State) -> Result<DeviceId, OpenError> {
    let fixed = state.get(GATEWAY, ID)?.and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some(fixed) = fixed {
        let fixed = DeviceId::new(&fixed)?;
        return match &config.id {
            Some(configured) if *configured != fixed => {
                Err(OpenError::OtherGateway { fixed, configured: configured.clone() })
            }
            _ => Ok(fixed),
        };
    }
    let id = if let Some(id) = &config.id {
        id.clone()
    } else {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        DeviceId::new(name.split('.').next().unwrap_or_default())?
    };
    let put = Put { table: GATEWAY, key: ID.to_vec(), value: id.as_str().as_bytes().to_vec() };
    state.commit(&[put], &[])?;
    Ok(id)
}
