//! The cgroups of a pod: there is a drawing for each driver in [`crate::systemd`] and [`crate::top_cgroup`].

use crisp_executor::cgroup::{CgroupPath, InvalidCgroupPath};
use crisp_executor::ids::PodId;
use serde::{Deserialize, Serialize};

use crate::systemd::slice::scope_name;
use crate::top_cgroup;

/// The cgroup driver. Kubelet and the runtime must use the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// Cgroup parents are paths below the cgroup root; this server makes the cgroups.
    #[default]
    Cgroupfs,
    /// Cgroup parents are slices; systemd makes a scope in them.
    Systemd,
}

impl CgroupDriver {
    /// The name in configuration files and in kubelet.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }
}

/// The slice of pods whose client names none.
const SLICE: &str = "/crisp.slice";
/// Inside the scope of such a pod: systemd would reset limits that are written to the scope's own files.
const POD: &str = "pod";

/// The cgroups of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodCgroups {
    /// systemd's, contains exactly this pod; systemd removes it when it is empty.
    pub scope: Option<CgroupPath>,
    /// The direct parent of the containers' cgroups and the monitor's.
    pub parent: CgroupPath,
    /// Counts and limits the whole pod.
    pub whole: CgroupPath,
}

impl PodCgroups {
    /// # Errors
    /// A path of the client's that is too long for cgroups below it.
    pub(crate) fn of(
        pod: &PodId,
        named: Option<&CgroupPath>,
        driver: CgroupDriver,
    ) -> Result<Self, InvalidCgroupPath> {
        if driver == CgroupDriver::Cgroupfs {
            let parent = named.cloned().unwrap_or_else(|| top_cgroup::parent_of(pod));
            // The names of the pod's own cgroup and of its containers' are of the same length.
            parent.child(pod.as_str())?;
            return Ok(Self { scope: None, whole: parent.clone(), parent });
        }
        let scope_in = |slice: &CgroupPath| slice.child(&scope_name(pod));
        match named {
            Some(slice) => {
                let scope = scope_in(slice)?;
                Ok(Self { parent: scope.clone(), scope: Some(scope), whole: slice.clone() })
            }
            None => {
                let scope = scope_in(&CgroupPath::parse(SLICE)?)?;
                let parent = scope.child(POD)?;
                Ok(Self { scope: Some(scope), whole: parent.clone(), parent })
            }
        }
    }

    /// The cgroup parent in a pod's configuration and its driver, from the parent of its monitor's cgroup.
    pub(crate) fn recognize(pod: &PodId, parent: &CgroupPath) -> (Option<CgroupPath>, CgroupDriver) {
        let named = match parent.parent() {
            Some(slice) if parent.name() == scope_name(pod) => Some(slice),
            _ => None,
        };
        let is = |driver| Self::of(pod, None, driver).is_ok_and(|cgroups| cgroups.parent == *parent);
        match named {
            Some(slice) => (Some(slice), CgroupDriver::Systemd),
            None if is(CgroupDriver::Systemd) => (None, CgroupDriver::Systemd),
            None if is(CgroupDriver::Cgroupfs) => (None, CgroupDriver::Cgroupfs),
            None => (Some(parent.clone()), CgroupDriver::Cgroupfs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroups(named: Option<&str>, driver: CgroupDriver) -> (PodId, PodCgroups) {
        let (pod, named) = (PodId::random(), named.map(|text| CgroupPath::parse(text).unwrap()));
        let cgroups = PodCgroups::of(&pod, named.as_ref(), driver).unwrap();
        let (again, driver_again) = PodCgroups::recognize(&pod, &cgroups.parent);
        assert_eq!((again, driver_again), (named, driver), "recognized by {}", cgroups.parent);
        (pod, cgroups)
    }

    #[test]
    fn a_client_limits_the_cgroup_that_it_names() {
        let (_, one) = cgroups(Some("/kubepods/pod1"), CgroupDriver::Cgroupfs);
        assert_eq!(
            (one.parent.as_str(), one.whole.as_str(), one.scope),
            ("/kubepods/pod1", "/kubepods/pod1", None)
        );
        let (pod, one) = cgroups(Some("/k.slice/k-pod1.slice"), CgroupDriver::Systemd);
        let scope = format!("/k.slice/k-pod1.slice/crisp-{pod}.scope");
        assert_eq!((one.parent.as_str(), one.whole.as_str()), (scope.as_str(), "/k.slice/k-pod1.slice"));
        assert_eq!(one.scope, Some(one.parent));
    }

    #[test]
    fn a_pod_without_a_parent_is_limited_in_a_cgroup_that_is_not_systemds() {
        let (pod, one) = cgroups(None, CgroupDriver::Cgroupfs);
        assert_eq!((one.whole.as_str(), one.scope), (format!("/crisp/{pod}").as_str(), None));
        let (pod, one) = cgroups(None, CgroupDriver::Systemd);
        assert_eq!(one.scope.unwrap().as_str(), format!("/crisp.slice/crisp-{pod}.scope"));
        assert_eq!(one.whole.as_str(), format!("/crisp.slice/crisp-{pod}.scope/pod"));
        assert_eq!(one.parent, one.whole);
    }

    #[test]
    fn a_parent_too_long_for_cgroups_below_it_is_refused() {
        let slice = CgroupPath::parse(&format!("{}.slice", "/x".repeat(1990))).unwrap();
        assert!(PodCgroups::of(&PodId::random(), Some(&slice), CgroupDriver::Systemd).is_err());
        for (length, is_refused) in [(3934, false), (3936, true), (4000, true)] {
            let parent = CgroupPath::parse(&"/x".repeat(length / 2)).unwrap();
            let cgroups = PodCgroups::of(&PodId::random(), Some(&parent), CgroupDriver::Cgroupfs);
            assert_eq!(cgroups.is_err(), is_refused, "{length}");
        }
    }
}
