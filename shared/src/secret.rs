//! Secrets by reference. A configuration names where a secret is (`env:NAME` or `file:/path`), never the
//! secret itself; what was read is held in [`secrecy`] types, which print nothing.

use std::fmt;

use secrecy::SecretString;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// Where a secret is to be found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SecretRef {
    /// The value of an environment variable.
    Env(String),
    /// The contents of a file, without a trailing line break.
    File(String),
}

/// Why a secret could not be read. Names the place, never the value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The environment variable does not exist or is not Unicode.
    #[error("environment variable {0} is not set; set it, or point at a file with \"file:/path\"")]
    Env(String),
    /// The file cannot be read.
    #[error("file {0} cannot be read: {1}")]
    File(String, std::io::Error),
    /// The secret is empty, which would verify anybody's signature.
    #[error("{0} is empty; a secret needs at least one character")]
    Empty(String),
}

impl SecretRef {
    /// Reads the secret.
    ///
    /// # Errors
    /// The variable or file is missing, unreadable or empty.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        let value = match self {
            Self::Env(name) => std::env::var(name).map_err(|_| SecretError::Env(name.clone()))?,
            Self::File(path) => {
                std::fs::read_to_string(path).map_err(|e| SecretError::File(path.clone(), e))?
            }
        };
        let value = value.trim_end_matches(['\r', '\n']);
        if value.is_empty() {
            return Err(SecretError::Empty(self.to_string()));
        }
        Ok(SecretString::from(value))
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{path}"),
        }
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.to_owned())),
            // The text may be the secret itself, pasted here by mistake: it is not repeated.
            _ => Err(D::Error::custom("a secret is given by reference: \"env:NAME\" or \"file:/path\"")),
        }
    }
}
