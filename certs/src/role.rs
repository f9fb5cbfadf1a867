//! What a certificate's holder is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What its holder may do by default (DESIGN section 4). Kept in the registry, not in the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// One connection, its own topic tree.
    Device,
    /// A local program: rights by policy alone.
    App,
    /// A nested Fieldgate.
    Gateway,
}

/// The text is not a role.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a role: `device`, `app` or `gateway` is allowed")]
pub struct InvalidRole(String);

impl Role {
    /// As written in configuration, labels and rows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::App => "app",
            Self::Gateway => "gateway",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = InvalidRole;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Device, Self::App, Self::Gateway]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| InvalidRole(text.chars().take(80).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for role in [Role::Device, Role::App, Role::Gateway] {
            assert_eq!(role.to_string().parse(), Ok(role));
            assert_eq!(serde_json::to_string(&role).unwrap(), format!("\"{role}\""));
        }
        assert!("Device".parse::<Role>().is_err());
    }
}
