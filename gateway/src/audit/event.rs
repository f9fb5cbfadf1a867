//! What is worth a line, typed: so that a line can't be forgotten or misspelt.

use fieldgate_certs::Fingerprint;
use fieldgate_protocol::Status;
use fieldgate_types::{DeviceId, UnixMillis};
use serde::Serialize;
use serde_json::Value as Json;

/// Something that somebody may ask about later.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The gateway began.
    Started {
        /// Which version.
        version: &'static str,
    },
    /// The gateway ended in order.
    Stopped,
    /// A device was added and a certificate issued.
    DeviceAdded {
        /// Which.
        device: DeviceId,
        /// As what.
        role: String,
        /// Serial number of the certificate, hex.
        serial: String,
    },
    /// A one-time token was made for a device.
    TokenMade {
        /// For which.
        device: DeviceId,
        /// As what.
        role: String,
        /// Until when it is good.
        expires: UnixMillis,
    },
    /// A token for the API was made.
    ApiTokenMade {
        /// Its name.
        token: DeviceId,
        /// What it opens.
        scope: &'static str,
        /// Until when it is good.
        expires: UnixMillis,
    },
    /// A token for the API is good no more.
    ApiTokenRevoked {
        /// Its name.
        token: DeviceId,
    },
    /// Somebody changed something through the admin address; what, is a line of its own.
    ApiChange {
        /// With which token.
        token: DeviceId,
        /// From where.
        peer: String,
        /// What was asked: method and path as in the table of routes.
        route: String,
        /// HTTP status of the answer.
        status: u16,
    },
    /// A request at the admin address was refused.
    ApiRefused {
        /// With which token, where it is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<DeviceId>,
        /// From where.
        peer: String,
        /// What was asked: method and path as in the table of routes.
        route: String,
        /// In words.
        reason: String,
    },
    /// Requests with unknown tokens were refused at the admin address, after one from there that was a line of its own.
    ApiRefusedMore {
        /// From where; none for all addresses beyond those that are told apart.
        #[serde(skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
        /// How many, in a minute.
        count: u64,
        /// In words.
        reason: String,
    },
    /// An account of the console was made.
    AccountMade {
        /// Its name.
        account: DeviceId,
        /// What it may do.
        role: &'static str,
        /// By whom, from where.
        by: String,
    },
    /// The password of an account of the console was set; its sessions are over.
    AccountPassword {
        /// Its name.
        account: DeviceId,
        /// By whom, from where.
        by: String,
    },
    /// An account of the console was removed; its sessions are over.
    AccountRemoved {
        /// Its name.
        account: DeviceId,
        /// By whom, from where.
        by: String,
    },
    /// Somebody signed in to the console.
    ConsoleSignIn {
        /// Who.
        account: DeviceId,
        /// From where.
        peer: String,
    },
    /// Somebody signed out.
    ConsoleSignOut {
        /// Who.
        account: DeviceId,
        /// From where.
        peer: String,
    },
    /// Somebody changed something in the console; what, is a line of its own.
    ConsoleChange {
        /// Who.
        account: DeviceId,
        /// From where.
        peer: String,
        /// What was asked: method and path.
        route: String,
        /// HTTP status of the answer.
        status: u16,
    },
    /// The console let somebody not in, or not do something.
    ConsoleRefused {
        /// Who, where that is known; at the sign-in who they say they are.
        #[serde(skip_serializing_if = "Option::is_none")]
        account: Option<DeviceId>,
        /// From where.
        peer: String,
        /// What was asked: method and path as in the table of routes.
        route: String,
        /// In words.
        reason: String,
    },
    /// A device got a certificate with its token.
    DeviceEnrolled {
        /// Which.
        device: DeviceId,
        /// From where.
        peer: String,
        /// Serial number of the certificate, hex.
        serial: String,
    },
    /// A device renewed its certificate.
    DeviceRenewed {
        /// Which.
        device: DeviceId,
        /// From where.
        peer: String,
        /// Serial number of the new certificate, hex.
        serial: String,
        /// Serial number of the one before.
        replaces: String,
    },
    /// No certificate was given over EST.
    EnrolmentRefused {
        /// Who it claims, or proves, to be.
        #[serde(skip_serializing_if = "Option::is_none")]
        device: Option<DeviceId>,
        /// From where.
        peer: String,
        /// In words.
        reason: String,
    },
    /// Certificates were refused to somebody unknown, after lines of their own for the first of them.
    EnrolmentRefusedMore {
        /// From where; none for all addresses beyond those that are told apart.
        #[serde(skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
        /// How many, in a minute.
        count: u64,
        /// In words.
        reason: String,
    },
    /// A device was revoked.
    DeviceRevoked {
        /// Which.
        device: DeviceId,
    },
    /// A new issuing CA was made.
    CaRotated {
        /// Its number.
        generation: u32,
        /// Serial number of its certificate, hex.
        serial: String,
        /// Whether by itself, at half of the former one's life.
        due: bool,
    },
    /// Somebody got the root key.
    RootKeyExported,
    /// The root key was removed.
    RootKeyRemoved,
    /// Messages that were kept aside go to the upstream once more.
    QuarantineRetried {
        /// How many.
        records: usize,
    },
    /// Messages that were kept aside were let go of.
    QuarantineDropped {
        /// How many.
        records: usize,
    },
    /// Somebody got all that a back-up holds.
    BackupTaken,
    /// This data directory was made of a back-up.
    Restored {
        /// When the back-up was taken.
        taken: UnixMillis,
        /// The boot counter from there on.
        boot: u64,
    },
    /// A connection was refused.
    ConnectionRefused {
        /// Who it was, where that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// From where.
        peer: String,
        /// In words.
        reason: String,
    },
    /// Connections of somebody unknown were refused, after lines of their own for the first of them.
    ConnectionRefusedMore {
        /// From where; none for all addresses beyond those that are told apart.
        #[serde(skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
        /// How many, in a minute.
        count: u64,
        /// In words.
        reason: String,
    },
    /// A publish was refused.
    PublishRefused {
        /// Whose.
        device: String,
        /// Where to.
        topic: String,
        /// In words.
        reason: String,
    },
    /// A subscription was refused.
    SubscribeRefused {
        /// Whose.
        device: String,
        /// What.
        filter: String,
        /// In words.
        reason: String,
    },
    /// A command ended.
    Command {
        /// For whom.
        device: DeviceId,
        /// What.
        name: String,
        /// Request id.
        rid: String,
        /// How it ended.
        status: String,
        /// Why not.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A live session was ended by the gateway: its right to be here was over.
    SessionEnded {
        /// Whose.
        device: String,
        /// In words.
        reason: String,
    },
    /// The configuration differs from the one of the last start, or from what this version made of it.
    ConfigurationChanged {
        /// SHA-256 over the digests of all sections.
        digest: Fingerprint,
        /// Which sections.
        sections: Vec<String>,
        /// Rights that came.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        policies_added: Vec<String>,
        /// Rights that went.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        policies_removed: Vec<String>,
        /// Rights that came or went and are not listed here.
        #[serde(skip_serializing_if = "Option::is_none")]
        policies_more: Option<usize>,
    },
    /// A reload of the configuration was asked for, and nothing was changed.
    ReloadRefused {
        /// `SIGHUP`, `api`
        by: String,
        /// In words.
        reason: String,
        /// What is wrong in the file, the first few.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        problems: Vec<String>,
    },
    /// A method of a field device was called, or was to be.
    FieldCall {
        /// Whose method.
        device: DeviceId,
        /// Which.
        method: String,
        /// What it was given.
        arguments: Json,
        /// `upstream`, `admin`, or the id of a program here.
        by: String,
        /// How it ended.
        status: Status,
        /// Why not.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Somebody wanted a point of a field device to have another value.
    FieldWrite {
        /// Whose point.
        device: DeviceId,
        /// Which.
        point: String,
        /// What was read just before, where it could be.
        #[serde(skip_serializing_if = "Option::is_none")]
        old: Option<Json>,
        /// What was asked for.
        new: Json,
        /// `upstream`, `admin`, or the id of a program here.
        by: String,
        /// How it ended.
        status: Status,
        /// Why not.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// So many lines had no room, or could not be written.
    LinesLost {
        /// How many.
        count: u64,
    },
    /// A crash or a power cut had left part of a line at the end of the log. It was cut off.
    LineTorn {
        /// How long it was.
        bytes: u64,
    },
    /// Lines that had been written are not at the end of the log any more: the chain is broken here.
    LinesMissing {
        /// The first that is missing.
        from: u64,
        /// The last that was there.
        to: u64,
    },
    /// A line at the end of the log is not the one that was written: the chain is broken here.
    LineRewritten {
        /// Its number.
        line: u64,
    },
}
