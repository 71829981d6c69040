//! Capability sets.

use crisp_executor::compile::capabilities::BY_NUMBER;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use super::SpecError;
use crate::container::config::Security;

/// The default capabilities of a container, as in docker and containerd.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// `NET_ADMIN`, `CAP_NET_ADMIN`, in any case.
#[must_use]
pub fn parse(text: &str) -> Option<Capability> {
    let upper = text.to_ascii_uppercase();
    upper.strip_prefix("CAP_").unwrap_or(&upper).parse().ok()
}

/// The bounding set of this server, from the text of `/proc/self/status`. No container can have more.
#[must_use]
pub fn of_host(status: &str) -> Capabilities {
    set(status, "CapBnd:")
}

/// The effective set of this server, from the same text.
#[must_use]
pub fn effective(status: &str) -> Capabilities {
    set(status, "CapEff:")
}

fn set(status: &str, field: &str) -> Capabilities {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    BY_NUMBER.iter().enumerate().filter(|(n, _)| mask >> n & 1 == 1).map(|(_, c)| *c).collect()
}

/// The bounding set that `security` requests.
///
/// ALL is applied first and single names after it, so `drop ALL, add X` is only X, and `add ALL, drop X` is
/// all but X, independent of the order in the request.
///
/// # Errors
/// A capability is requested by name that the host does not have.
pub fn bounding(security: &Security, host: &Capabilities) -> Result<Capabilities, SpecError> {
    if security.privileged {
        return Ok(host.clone());
    }
    let mut set: Capabilities = DEFAULT.iter().copied().filter(|c| host.contains(c)).collect();
    if security.add_capabilities.all {
        set.clone_from(host);
    }
    if security.drop_capabilities.all {
        set.clear();
    }
    for name in &security.add_capabilities.names {
        set.insert(available(name, host)?);
    }
    for name in &security.drop_capabilities.names {
        if let Some(capability) = parse(name) {
            set.remove(&capability);
        }
    }
    for name in &security.ambient_capabilities {
        set.insert(available(name, host)?);
    }
    Ok(set)
}

fn available(name: &str, host: &Capabilities) -> Result<Capability, SpecError> {
    parse(name)
        .filter(|capability| host.contains(capability))
        .ok_or_else(|| SpecError::Capability { name: name.to_owned() })
}

/// All five sets. Inheritable has only the ambient ones: the kernel raises no others (capabilities(7)), and
/// with others in it a process could regain dropped capabilities (CVE-2022-24769).
#[must_use]
pub fn sets(bounding: &Capabilities, security: &Security) -> LinuxCapabilities {
    let ambient: Capabilities = security.ambient_capabilities.iter().filter_map(|c| parse(c)).collect();
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(bounding.clone()))
        .set_effective(Some(bounding.clone()))
        .set_permitted(Some(bounding.clone()))
        .set_inheritable(Some(ambient.clone()))
        .set_ambient(Some(ambient));
    sets
}

#[cfg(test)]
mod tests {
    use super::super::tests::security;
    use super::*;

    fn host() -> Capabilities {
        BY_NUMBER.iter().copied().filter(|c| *c != Capability::SysResource).collect()
    }

    fn of(add: &[&str], drop: &[&str]) -> Result<Capabilities, SpecError> {
        let mut security = security();
        for (names, list) in [(&mut security.add_capabilities, add), (&mut security.drop_capabilities, drop)]
        {
            names.all = list.contains(&"ALL");
            names.names = list.iter().filter(|n| **n != "ALL").map(|n| format!("CAP_{n}")).collect();
        }
        bounding(&security, &host())
    }

    #[test]
    fn the_matrix() {
        assert_eq!(of(&[], &[]).unwrap(), DEFAULT.into_iter().collect());
        assert_eq!(of(&["NET_ADMIN"], &["ALL"]).unwrap(), [Capability::NetAdmin].into());
        assert_eq!(of(&["ALL"], &[]).unwrap(), host());
        assert_eq!(of(&["ALL"], &["SYS_ADMIN"]).unwrap().len(), host().len() - 1);
        assert!(!of(&[], &["KILL"]).unwrap().contains(&Capability::Kill));
        assert!(of(&[], &["ALL"]).unwrap().is_empty());
    }

    #[test]
    fn a_capability_that_the_host_lacks_is_refused() {
        let error = of(&["SYS_RESOURCE"], &[]).unwrap_err().to_string();
        assert!(error.contains("CAP_SYS_RESOURCE"), "{error}");
        let mut privileged = security();
        privileged.privileged = true;
        assert_eq!(bounding(&privileged, &host()).unwrap(), host());
    }

    #[test]
    fn ambient_ones_are_inheritable_and_nothing_else_is() {
        let mut security = security();
        security.ambient_capabilities = vec!["CAP_NET_RAW".into()];
        let sets = sets(&bounding(&security, &host()).unwrap(), &security);
        assert_eq!(sets.inheritable().clone().unwrap(), [Capability::NetRaw].into());
        assert_eq!(sets.ambient(), sets.inheritable());
    }

    #[test]
    fn the_kernels_mask_is_read() {
        let set = of_host("Name:\tx\nCapBnd:\t0000000000000003\n");
        assert_eq!(set, [Capability::Chown, Capability::DacOverride].into());
        assert_eq!(of_host("CapBnd:\t000001ffffffffff\n").len(), 41);
    }
}
