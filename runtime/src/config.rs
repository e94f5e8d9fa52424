//! Configuration files of daemons, and the context file by which a user reaches a cluster.
//!
//! What a daemon's configuration holds is the daemon's affair: here it is only read and explained.
use crate::files;
pub use crate::files::{FileError, write_private};
use crate::identity::Bundle;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Why a configuration could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its content: not TOML, an unknown key, a wrong value.
    #[error("{}:{line}: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// Nobody said where the context file is.
    #[error(
        "neither MLCTL_CONFIG nor HOME is set, so there is no place to look for a context file; set MLCTL_CONFIG"
    )]
    NoHome,
    /// It cannot be written as TOML.
    #[error("cannot write {} as TOML: {message}", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
}

/// Reads a TOML file. `T` carries `#[serde(deny_unknown_fields)]`, so that a mistyped key is an error that names it.
///
/// # Errors
/// [`ConfigError`] with the path, and the line where the content is at fault.
pub fn load_toml<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    parse(path, &files::read_text(path)?)
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        ConfigError::Content {
            path: path.to_owned(),
            line: 1 + text.as_bytes()[..start]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count(),
            message: error.message().trim().replace('\n', "; "),
        }
    })
}

/// What a user needs to reach a cluster: where it is and who they are. It holds their private key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextFile {
    /// The user's name, for people; the certificate decides.
    pub name: String,
    /// The cluster's id.
    pub cluster: String,
    /// Coordinators as `host:port`.
    pub addresses: Vec<String>,
    /// The cluster's CA certificate, PEM.
    pub ca: String,
    /// The user's certificate, PEM.
    pub cert: String,
    /// The user's private key, PEM.
    pub key: String,
}

impl std::fmt::Debug for ContextFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContextFile")
            .field("name", &self.name)
            .field("cluster", &self.cluster)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl ContextFile {
    /// A context for the user that `bundle` belongs to.
    pub fn new(name: &str, addresses: Vec<String>, bundle: &Bundle) -> Self {
        Self {
            name: name.to_owned(),
            cluster: bundle.cluster.clone(),
            addresses,
            ca: bundle.ca_pem.clone(),
            cert: bundle.cert_pem.clone(),
            key: bundle.key_pem.clone(),
        }
    }

    /// Reads a context file.
    ///
    /// # Errors
    /// When it is missing, readable by anybody but its owner, or not a context file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        parse(path, &files::read_private(path)?)
    }

    /// Writes it, readable by its owner only, whole or not at all.
    ///
    /// # Errors
    /// When the system refuses; an old file is then as it was.
    pub fn write(&self, path: &Path) -> Result<(), ConfigError> {
        let text = toml::to_string(self).map_err(|error| ConfigError::Encode {
            path: path.to_owned(),
            message: error.to_string(),
        })?;
        Ok(write_private(path, text.as_bytes())?)
    }

    /// `$MLCTL_CONFIG`, else `~/.config/mlctl/context.toml`.
    ///
    /// # Errors
    /// [`ConfigError::NoHome`] when neither variable says where.
    pub fn default_path() -> Result<PathBuf, ConfigError> {
        place(std::env::var_os("MLCTL_CONFIG"), std::env::var_os("HOME"))
    }

    /// The identity in it, as TLS wants it.
    pub fn bundle(&self) -> Bundle {
        Bundle {
            ca_pem: self.ca.clone(),
            cert_pem: self.cert.clone(),
            key_pem: self.key.clone(),
            cluster: self.cluster.clone(),
        }
    }
}

/// Where the context file is. An empty variable counts as unset.
fn place(config: Option<OsString>, home: Option<OsString>) -> Result<PathBuf, ConfigError> {
    let set = |value: Option<OsString>| value.filter(|value| !value.is_empty()).map(PathBuf::from);
    set(config)
        .or_else(|| set(home).map(|home| home.join(".config/mlctl/context.toml")))
        .ok_or(ConfigError::NoHome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        listen: String,
        beat_ms: u32,
    }

    /// Loads `text`; the error, if any, without the folder.
    fn load(text: &str) -> Result<Sample, String> {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, text).expect("written");
        let folder = format!("{}/", dir.path().display());
        load_toml(&path).map_err(|error| error.to_string().replace(&folder, ""))
    }

    #[test]
    fn errors_name_the_file_the_line_and_the_key() {
        let good = load("listen = 'a:1'\nbeat_ms = 5").expect("good");
        assert_eq!(
            good,
            Sample {
                listen: "a:1".into(),
                beat_ms: 5
            }
        );
        for (text, start, word) in [
            (
                "listen = 'a:1'\nbeat_ms = 5\nbeet_ms = 6\n",
                "agent.toml:3: ",
                "beet_ms",
            ),
            ("listen = 'a:1'\nbeat_ms = -5\n", "agent.toml:2: ", "-5"),
            ("\n\nlisten = \n", "agent.toml:3: ", ""),
            ("listen = 'a:1'\n", "agent.toml:1: ", "beat_ms"),
            (
                "listen = 'a'\nlisten = 'b'\n",
                "agent.toml:2: ",
                "duplicate",
            ),
        ] {
            let error = load(text).expect_err(text);
            assert!(
                error.starts_with(start) && error.contains(word),
                "{text:?}: {error}"
            );
            assert!(!error.contains('\n'), "one line: {error:?}");
        }
        let missing =
            load_toml::<Sample>(Path::new("/nonexistent/agent.toml")).expect_err("missing");
        assert_eq!(
            missing.to_string(),
            "/nonexistent/agent.toml does not exist"
        );
    }

    #[test]
    fn a_context_file_survives_and_stays_private() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("mlctl/context.toml");
        let bundle = Bundle {
            ca_pem: "-----BEGIN\nA\n".into(),
            cert_pem: "B".into(),
            key_pem: "S3CRET".into(),
            cluster: "c1".into(),
        };
        let context = ContextFile::new("ada", vec!["127.0.0.1:7070".into()], &bundle);
        context.write(&path).expect("written");
        let read = ContextFile::read(&path).expect("read");
        assert_eq!(read, context);
        assert_eq!(read.bundle(), bundle);
        assert!(!format!("{context:?} {bundle:?}").contains("S3CRET"));
        for mode in [0o640, 0o604, 0o660] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
            let refused = ContextFile::read(&path).expect_err("exposed").to_string();
            assert!(refused.contains("chmod 600"), "{refused}");
        }
    }

    #[test]
    fn the_default_path_follows_the_environment() {
        let os = |text: &str| Some(OsString::from(text));
        for (config, home, want) in [
            (os("/x/c.toml"), os("/home/ada"), Some("/x/c.toml")),
            (
                os(""),
                os("/home/ada"),
                Some("/home/ada/.config/mlctl/context.toml"),
            ),
            (
                None,
                os("/home/ada"),
                Some("/home/ada/.config/mlctl/context.toml"),
            ),
            (None, os(""), None),
            (None, None, None),
        ] {
            assert_eq!(place(config, home).ok(), want.map(PathBuf::from));
        }
    }
}
