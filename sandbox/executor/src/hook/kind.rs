//! The moments at which hooks run, and their time limits.

use std::fmt;
use std::time::Duration;

use oci_spec::runtime::{Hook, Hooks};
use serde::{Deserialize, Serialize};

/// Time limit of a hook without a timeout.
const DEFAULT: Duration = Duration::from_secs(60);
/// Limit for a timeout: an operation must end.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// A moment in the life of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Kind {
    /// In the order of their moments.
    pub const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];
    /// The hooks that run while the start waits, see [`Pause`](super::Pause).
    pub const IN_PAUSE: [Self; 3] = [Self::Prestart, Self::CreateRuntime, Self::CreateContainer];

    /// The name in a spec.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    /// The opposite of [`name`](Self::name).
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The hooks of this moment.
    #[must_use]
    pub fn of(self, hooks: &Hooks) -> &[Hook] {
        let list = match self {
            Self::Prestart => hooks.prestart(),
            Self::CreateRuntime => hooks.create_runtime(),
            Self::CreateContainer => hooks.create_container(),
            Self::StartContainer => hooks.start_container(),
            Self::Poststart => hooks.poststart(),
            Self::Poststop => hooks.poststop(),
        };
        list.as_deref().unwrap_or_default()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How long a hook may take.
pub(crate) fn timeout(hook: &Hook) -> Duration {
    let given = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
    given.map_or(DEFAULT, |seconds| Duration::from_secs(seconds).min(LONGEST))
}

/// How long all hooks of these moments may take together.
#[must_use]
pub fn limit(hooks: &Hooks, kinds: &[Kind]) -> Duration {
    kinds.iter().flat_map(|kind| kind.of(hooks)).map(timeout).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_timeout_ends() {
        let of = |timeout| {
            let mut hook = Hook::default();
            hook.set_timeout(timeout);
            super::timeout(&hook)
        };
        assert_eq!((of(None), of(Some(5))), (DEFAULT, Duration::from_secs(5)));
        assert_eq!(of(Some(i64::MAX)), LONGEST);
        let mut hooks = Hooks::default();
        hooks.set_prestart(Some(vec![Hook::default(); 2])).set_poststop(Some(vec![Hook::default()]));
        assert_eq!(limit(&hooks, &Kind::IN_PAUSE), 2 * DEFAULT);
        assert!(Kind::ALL.into_iter().all(|kind| Kind::parse(kind.name()) == Some(kind)));
    }
}
