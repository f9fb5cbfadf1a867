//! Hashes of passwords: argon2id in the PHC string format, one in a file.

use std::fmt;

use argon2::password_hash::phc::{self, Ident};
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Argon2, Params};
use ring::rand::{SecureRandom, SystemRandom};
use thiserror::Error;

/// The most that checking one password may cost: memory in KiB, passes, lanes. Two are checked at a time.
const MOST: (u32, u32, u32) = (64 << 10, 10, 4);
const VERSION: u32 = 0x13;

/// The hash of a password. Not printed: it can be guessed against.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(phc::PasswordHash);

/// Why a text is no hash that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadHash {
    /// No PHC string of argon2id.
    #[error("is no argon2id hash")]
    Form,
    /// Checking it would cost too much.
    #[error("asks for more than 64 MiB, 10 passes or 4 lanes")]
    Cost,
}

/// A password can't be hashed.
#[derive(Debug, Error)]
pub enum HashError {
    /// The machine gives no random numbers.
    #[error("the machine gives no random numbers")]
    Random,
    /// argon2 says no.
    #[error("the password can't be hashed: {0}")]
    Argon2(#[from] argon2::password_hash::Error),
}

impl PasswordHash {
    /// Reads a PHC string; space around it is ignored.
    pub fn parse(text: &str) -> Result<Self, BadHash> {
        let hash = phc::PasswordHash::new(text.trim()).map_err(|_| BadHash::Form)?;
        let argon2id = Ident::new("argon2id").map_err(|_| BadHash::Form)?;
        let whole = hash.salt.is_some() && hash.hash.is_some() && hash.version == Some(VERSION);
        if hash.algorithm != argon2id || !whole {
            return Err(BadHash::Form);
        }
        let params = Params::try_from(&hash).map_err(|_| BadHash::Form)?;
        let (memory, passes, lanes) = MOST;
        if params.m_cost() > memory || params.t_cost() > passes || params.p_cost() > lanes {
            return Err(BadHash::Cost);
        }
        Ok(Self(hash))
    }

    /// Hashes a password with a new salt: 19 MiB, two passes, one lane.
    pub fn make(password: &[u8]) -> Result<Self, HashError> {
        Self::with(Argon2::default(), password)
    }

    /// The hash of nobody's password, which costs as much as this one.
    pub fn of_nobody(&self) -> Result<Self, HashError> {
        let mut password = [0; 16];
        SystemRandom::new().fill(&mut password).map_err(|_| HashError::Random)?;
        let params = Params::try_from(&self.0)?;
        Self::with(Argon2::from(params), &password)
    }

    fn with(argon2: Argon2<'_>, password: &[u8]) -> Result<Self, HashError> {
        let mut salt = [0; 16];
        SystemRandom::new().fill(&mut salt).map_err(|_| HashError::Random)?;
        Ok(Self(argon2.hash_password_with_salt(password, &salt)?))
    }

    /// Whether this is its password. Computes for tens of milliseconds.
    pub fn is_of(&self, password: &[u8]) -> bool {
        Argon2::default().verify_password(password, &self.0).is_ok()
    }

    /// What checking costs: memory in KiB times passes.
    pub(super) fn cost(&self) -> u64 {
        Params::try_from(&self.0).map_or(0, |params| u64::from(params.m_cost()) * u64::from(params.t_cost()))
    }

    /// The PHC string.
    pub fn expose(&self) -> String {
        self.0.to_string()
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_password_from_others_and_survives_its_file() {
        let made = PasswordHash::make(b"secret").unwrap();
        let read = PasswordHash::parse(&format!("{}\n", made.expose())).unwrap();
        assert!(read.is_of(b"secret") && !read.is_of(b"Secret") && !read.is_of(b""));
        let nobody = read.of_nobody().unwrap();
        assert_eq!((nobody.cost(), nobody.is_of(b"secret")), (read.cost(), false));
        assert!(!format!("{read:?}").contains('$'));
    }

    #[test]
    fn reads_what_the_reference_implementation_writes() {
        // printf secret | argon2 saltsaltsalt -id -t 2 -m 12 -p 1 -l 32 -e
        let theirs = "$argon2id$v=19$m=4096,t=2,p=1$c2FsdHNhbHRzYWx0$";
        let salt = b"saltsaltsalt";
        let mut output = [0; 32];
        let params = Params::new(4096, 2, 1, Some(32)).unwrap();
        Argon2::from(params).hash_password_into(b"secret", salt, &mut output).unwrap();
        let text = format!("{theirs}{}", phc::Output::new(&output).unwrap());
        assert!(PasswordHash::parse(&text).unwrap().is_of(b"secret"));
    }

    #[test]
    fn refuses_other_hashes_and_ruinous_ones() {
        let good = PasswordHash::make(b"x").unwrap().expose();
        for (text, why) in [
            (String::new(), BadHash::Form),
            ("secret".to_owned(), BadHash::Form),
            (good.replace("argon2id", "argon2i"), BadHash::Form),
            (good.replace("v=19", "v=16"), BadHash::Form),
            (good.rsplit_once('$').unwrap().0.to_owned(), BadHash::Form),
            (good.replace("m=19456", "m=1048576"), BadHash::Cost),
            (good.replace("t=2", "t=1000"), BadHash::Cost),
        ] {
            assert_eq!(PasswordHash::parse(&text).err(), Some(why), "{text}");
        }
    }
}
