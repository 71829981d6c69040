//! Packets of pods only pass the host if the host forwards.

use std::fs;
use std::path::{Path, PathBuf};

use crate::network::NetworkError;
use crate::network::error::file;

const IPV4: &str = "/proc/sys/net/ipv4/ip_forward";
const IPV6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
const IPV6_INTERFACES: &str = "/proc/sys/net/ipv6/conf";

/// Turns forwarding on, where it is off.
pub(super) fn enable(ipv6: bool) -> Result<(), NetworkError> {
    set(IPV4, "1")?;
    if ipv6 && !is(IPV6, "1") {
        keep_router_advertisements();
        set(IPV6, "1")?;
    }
    Ok(())
}

/// A host that forwards ignores router advertisements unless the setting is 2: it would lose its own address
/// and default route some minutes later.
fn keep_router_advertisements() {
    for interface in fs::read_dir(IPV6_INTERFACES).into_iter().flatten().flatten() {
        let setting = PathBuf::from(format!("{}/accept_ra", interface.path().display()));
        if is(&setting, "1")
            && let Err(error) = fs::write(&setting, "2")
        {
            let setting = setting.display();
            tracing::warn!(%setting, %error, "cannot keep the host's IPv6 routes from routers; set it to 2");
        }
    }
}

fn is(path: impl AsRef<Path>, value: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|now| now.trim() == value)
}

/// Writes a setting of the kernel.
pub(super) fn set(path: &str, value: &str) -> Result<(), NetworkError> {
    // Read first, so that a correct setting needs no write: /proc/sys may be read-only.
    if is(path, value) {
        return Ok(());
    }
    fs::write(path, value).map_err(file("write", Path::new(path)))
}
