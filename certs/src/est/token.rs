//! One-time tokens: with one, a device that has no certificate gets its first, or one that let its own expire the next.
//!
//! A token has 160 random bits, so its SHA-256 can be kept without salt and stretching, and nobody guesses it; the limit
//! on wrong attempts keeps noise and load down. It is bound to one id, is good for 24 hours and for one certificate.
//! Rows are the caller's ([`TokenStore`]).

use std::fmt;
use std::time::Duration;

use fieldgate_types::{DeviceId, Secret, UnixMillis};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::instant::rfc3339;
use crate::{ClockLeapt, Fingerprint, RegistryError, Role, TimeFloor};

/// How long a token is good.
pub const TOKEN_LIFE: Duration = Duration::from_hours(24);

/// A token as it is kept: not the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// For whom.
    pub device: DeviceId,
    /// What its holder will be.
    pub role: Role,
    /// For how long its certificate will be good, when not for the general time.
    pub validity: Option<Duration>,
    /// SHA-256 of the token.
    pub hash: TokenHash,
    /// Until when it is good.
    pub expires: UnixMillis,
    /// When it was used.
    pub used: Option<UnixMillis>,
}

/// SHA-256 of a token. Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenHash(Fingerprint);

impl TokenHash {
    /// Of what somebody presents as a token.
    pub fn of(token: &str) -> Self {
        Self(Fingerprint::of(token.as_bytes()))
    }

    /// Whether both are of one token; takes as long whether they are or not.
    pub fn same(&self, other: &Self) -> bool {
        self.0.0.ct_eq(&other.0.0).into()
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where tokens are kept. One per device: a new one takes the place of the one before.
pub trait TokenStore: Send + Sync {
    /// The token of this device, used and expired ones too. From memory.
    fn token(&self, device: &DeviceId) -> Option<TokenRecord>;
    /// Whose this token is, used and expired ones too. From memory; for the audit log alone.
    fn owner(&self, hash: &TokenHash) -> Option<DeviceId>;
    /// Keeps the row of its device. Durable before it returns.
    fn keep(&self, token: &TokenRecord) -> Result<(), RegistryError>;
}

/// A token that was just made. It can't be shown again.
#[derive(Debug, Clone)]
pub struct Token {
    /// To be given to the device's owner.
    pub secret: Secret,
    /// As it is kept.
    pub record: TokenRecord,
}

/// No token was made.
#[derive(Debug, Error)]
pub enum TokenError {
    /// The clock is in doubt: when would it expire?
    #[error(transparent)]
    Clock(#[from] ClockLeapt),
    /// The system has no random numbers to give.
    #[error("the system gives no random numbers, no token was made")]
    Random,
    /// The store did not take the row.
    #[error(transparent)]
    Store(#[from] RegistryError),
}

/// Letters and digits that are not taken for one another; 32 of them, so that a byte's five lower bits choose one.
const LETTERS: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz023456789";
/// 32 letters of 5 bits.
const LENGTH: usize = 32;

/// A secret of 160 random bits, as every token is; `None` where the system has no random numbers to give.
pub fn random_token() -> Option<Secret> {
    let mut bytes = Zeroizing::new([0; LENGTH]);
    SystemRandom::new().fill(&mut *bytes).ok()?;
    let letters = bytes.iter().filter_map(|byte| LETTERS.get(usize::from(byte & 31)));
    Some(Secret::new(letters.map(|letter| char::from(*letter)).collect::<String>()))
}

/// A new token for `device`, kept when this returns. It takes the place of one given before.
pub(super) fn create(
    store: &dyn TokenStore,
    time: &TimeFloor,
    device: &DeviceId,
    role: Role,
    validity: Option<Duration>,
) -> Result<Token, TokenError> {
    let now = time.for_issuing()?;
    let secret = random_token().ok_or(TokenError::Random)?;
    let hash = TokenHash::of(secret.expose());
    let record =
        TokenRecord { device: device.clone(), role, validity, hash, expires: now.plus(TOKEN_LIFE), used: None };
    store.keep(&record)?;
    Ok(Token { secret, record })
}

/// Why a token was not accepted. For the audit log: the one who presents it is told none of this.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TokenRefused {
    /// No token was ever made for this id.
    #[error("there is no token for `{id}`: make one with `fieldgate device token {id}`")]
    None {
        /// Who it claims to be.
        id: DeviceId,
    },
    /// It is not the token of this id.
    #[error("the token of `{id}` was not the one presented: a wrong copy, a guess, or a newer one was made since")]
    Wrong {
        /// Who it claims to be.
        id: DeviceId,
    },
    /// It is the token of another id.
    #[error("the token presented for `{id}` is that of `{owner}`: revoke it by making a new one, if it was stolen")]
    OtherDevice {
        /// Who it claims to be.
        id: DeviceId,
        /// Whose it is.
        owner: DeviceId,
    },
    /// It has been used.
    #[error("the token of `{id}` was used at {}: if that was not the device, revoke it", rfc3339(*at))]
    Used {
        /// Who it claims to be.
        id: DeviceId,
        /// When.
        at: UnixMillis,
    },
    /// It is too old.
    #[error("the token of `{id}` expired at {}: make a new one with `fieldgate device token {id}`", rfc3339(*at))]
    Expired {
        /// Who it claims to be.
        id: DeviceId,
        /// When.
        at: UnixMillis,
    },
    /// Too many wrong ones before it; this one was not looked at.
    #[error("too many wrong tokens for `{id}`: the next is looked at in {} s", wait.as_secs().max(1))]
    Limited {
        /// Who it claims to be.
        id: DeviceId,
        /// How long.
        wait: Duration,
    },
}

impl TokenRefused {
    /// One of a closed set of words, for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::None { .. } => "no-token",
            Self::Wrong { .. } => "wrong-token",
            Self::OtherDevice { .. } => "other-device",
            Self::Used { .. } => "used-token",
            Self::Expired { .. } => "expired-token",
            Self::Limited { .. } => "limited",
        }
    }

    /// Whether it was no token that was ever made.
    pub fn is_of_a_stranger(&self) -> bool {
        match self {
            Self::None { .. } | Self::Wrong { .. } | Self::Limited { .. } => true,
            Self::OtherDevice { .. } | Self::Used { .. } | Self::Expired { .. } => false,
        }
    }

    /// Who it claims to be. Nothing proves it.
    pub fn device(&self) -> &DeviceId {
        match self {
            Self::None { id }
            | Self::Wrong { id }
            | Self::OtherDevice { id, .. }
            | Self::Used { id, .. }
            | Self::Expired { id, .. }
            | Self::Limited { id, .. } => id,
        }
    }
}

/// The row, when `token` is good for `id` now. Doesn't use it up. The same work is done for every answer.
pub(super) fn check(
    store: &dyn TokenStore,
    id: &DeviceId,
    token: &str,
    now: UnixMillis,
) -> Result<TokenRecord, TokenRefused> {
    let presented = TokenHash::of(token);
    let id = || id.clone();
    let owner = store.owner(&presented).filter(|owner| *owner != id());
    let row = store.token(&id());
    // A row that is not there is compared all the same.
    let nothing = TokenHash::of("");
    let same = presented.same(row.as_ref().map_or(&nothing, |row| &row.hash));
    if let Some(owner) = owner {
        return Err(TokenRefused::OtherDevice { id: id(), owner });
    }
    let Some(row) = row else { return Err(TokenRefused::None { id: id() }) };
    if !same {
        return Err(TokenRefused::Wrong { id: id() });
    }
    if let Some(at) = row.used {
        return Err(TokenRefused::Used { id: id(), at });
    }
    if now >= row.expires {
        return Err(TokenRefused::Expired { id: id(), at: row.expires });
    }
    Ok(row)
}
