//! Who is connected. The broker never decides this: the [`crate::Gate`] reads it from the certificate.

use std::sync::Arc;

use fieldgate_types::UnixMillis;

/// What kind of client somebody is (DESIGN section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// A leaf device: one connection.
    Device,
    /// A local program: several connections, client ids `id` or `id/…`.
    App,
    /// A nested gateway: one connection, no message-rate limit.
    Gateway,
}

/// Somebody whose certificate (or password) was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Device id or user name.
    pub id: Arc<str>,
    /// Kind of client.
    pub role: Role,
    /// Hex SHA-256 of the leaf certificate; `None` for password users.
    pub fingerprint: Option<String>,
    /// End of the certificate: the connection is closed when it passes.
    pub not_after: Option<UnixMillis>,
}

/// Whether somebody may do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow,
    /// No.
    Deny,
}

/// Why somebody is not let in, in words for the audit log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct Refusal {
    /// For people: never secrets.
    pub words: String,
    /// MQTT 5 reason code, where the usual one for the occasion doesn't tell the client what to do.
    pub code: Option<u8>,
    /// The id that is proven all the same.
    pub who: Option<Arc<str>>,
}

impl Refusal {
    /// With these words.
    pub fn new(words: impl Into<String>) -> Self {
        Self { words: words.into(), code: None, who: None }
    }

    /// With these words and a reason code of MQTT 5; on 3.1.1 its nearest equivalent is sent.
    pub fn with_code(code: u8, words: impl Into<String>) -> Self {
        Self { words: words.into(), code: Some(code), who: None }
    }

    /// Of somebody who has proven to be `who`.
    #[must_use]
    pub fn of(self, who: impl Into<Arc<str>>) -> Self {
        Self { who: Some(who.into()), ..self }
    }
}
