//! AppArmor: whether the host has it, its loaded profiles, and the default profile of containers.
//!
//! ```text
//!  unspecified, RuntimeDefault --default_profile()--> crisp-default, loaded at its first use
//!  Localhost                   --loaded_profile()---> the name, if the kernel knows it
//! ```
//!
//! A host without AppArmor runs containers without a profile, unless one is requested by name.

mod parser;
mod profile;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The profile of containers that do not request another one.
pub const DEFAULT_PROFILE: &str = "crisp-default";

/// The kernel's files, below the root, that show whether AppArmor is enabled, the loaded profiles, and the
/// profile of this process.
const ENABLED: &str = "sys/module/apparmor/parameters/enabled";
const PROFILES: &str = "sys/kernel/security/apparmor/profiles";
const OWN_PROFILE: &str = "proc/self/attr/current";

/// The reason why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AppArmorError {
    #[error("profile {name:?} is asked for, but AppArmor is not enabled on this host")]
    NotEnabled { name: String },
    #[error("profile {name:?} is not loaded on this host: load it with apparmor_parser")]
    NotLoaded { name: String },
    #[error(
        "AppArmor is enabled on this host, but apparmor_parser is missing, so the default profile {DEFAULT_PROFILE:?} cannot be loaded: install it (package apparmor), or ask for the profile type Unconfined"
    )]
    NoParser,
    #[error("cannot load the default profile {DEFAULT_PROFILE:?}: {parser}: {problem}", parser = parser.display())]
    Parser { parser: PathBuf, problem: String },
}

/// AppArmor of one host.
#[derive(Debug)]
pub struct AppArmor {
    root: PathBuf,
    enabled: bool,
    /// The default profile is loaded once per server, so that it is this version's.
    default_loaded: Mutex<bool>,
}

impl AppArmor {
    /// The AppArmor of this host.
    #[must_use]
    pub fn of_host() -> Self {
        Self::below(Path::new("/"))
    }

    /// The AppArmor of the host whose /sys, /proc, /etc and /usr are below `root`.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        let enabled = std::fs::read_to_string(root.join(ENABLED)).is_ok_and(|text| text.trim() == "Y");
        Self { root: root.to_owned(), enabled, default_loaded: Mutex::new(false) }
    }

    /// Whether the kernel has AppArmor and it is enabled.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The name of the default profile, loaded into the kernel; None on a host without AppArmor.
    /// Blocking, up to half a minute at its first use.
    ///
    /// # Errors
    /// [`AppArmorError::NoParser`], or the parser's error.
    pub fn default_profile(&self) -> Result<Option<&'static str>, AppArmorError> {
        if !self.enabled {
            return Ok(None);
        }
        let mut loaded = self.default_loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if !*loaded {
            match parser::find(&self.root) {
                Some(parser) => {
                    let text = profile::text(&self.root, self.own_profile().as_deref());
                    parser::load(&parser, &text)?;
                }
                // Loaded by the administrator, or by an earlier server.
                None if self.knows(DEFAULT_PROFILE) == Some(true) => {}
                None => return Err(AppArmorError::NoParser),
            }
            *loaded = true;
        }
        Ok(Some(DEFAULT_PROFILE))
    }

    /// Returns `name` after it has checked that the kernel has the profile: otherwise the exec of the
    /// container would fail.
    ///
    /// # Errors
    /// [`AppArmorError::NotEnabled`], [`AppArmorError::NotLoaded`].
    pub fn loaded_profile<'n>(&self, name: &'n str) -> Result<&'n str, AppArmorError> {
        if !self.enabled {
            return Err(AppArmorError::NotEnabled { name: name.to_owned() });
        }
        if name == DEFAULT_PROFILE {
            return self.default_profile().map(|_| name);
        }
        match self.knows(name) {
            // If securityfs is not mounted, only the exec shows it.
            None | Some(true) => Ok(name),
            Some(false) => Err(AppArmorError::NotLoaded { name: name.to_owned() }),
        }
    }

    /// Whether the kernel has the profile; None when its list cannot be read.
    fn knows(&self, name: &str) -> Option<bool> {
        let list = std::fs::read_to_string(self.root.join(PROFILES)).ok()?;
        Some(list.lines().any(|line| line.rsplit_once(" (").is_some_and(|(known, _)| known == name)))
    }

    /// The profile of this process, for example one that systemd sets for the server.
    fn own_profile(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.root.join(OWN_PROFILE)).ok()?;
        let (name, _mode) = text.trim().rsplit_once(" (")?;
        let plain = !name.is_empty() && !name.contains(['"', '\n']);
        plain.then(|| name.to_owned())
    }
}
