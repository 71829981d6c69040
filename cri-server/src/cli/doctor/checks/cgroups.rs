//! Cgroups: the hierarchies and controllers of the machine, and the program that makes cgroups.

use std::path::Path;

use crisp_executor::cgroup::{Cgroups, Mode};

use super::Check;
use crate::config::{CgroupDriver, Settings};

/// The controllers that the limits of pods need.
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];
/// Exists where systemd is the init; see sd_booted(3).
const BOOTED: &str = "/run/systemd/system";

pub fn checks(settings: &Settings) -> Vec<Check> {
    match Cgroups::detect() {
        Ok(cgroups) => {
            vec![
                controllers(&cgroups),
                driver(settings.cgroup_driver.value, cgroups.mode(), Path::new(BOOTED)),
            ]
        }
        Err(error) => vec![Check::failed("cgroups", error.to_string())],
    }
}

fn controllers(cgroups: &Cgroups) -> Check {
    let has = cgroups.controllers();
    let missing: Vec<&str> =
        NEEDED.into_iter().filter(|needed| !has.iter().any(|name| name == needed)).collect();
    let text = format!("{}: {}", cgroups.mode().as_str(), has.join(" "));
    match missing[..] {
        [] => Check::good("cgroups", text),
        _ => Check::failed(
            "cgroups",
            format!(
                "{text}; {} is missing: see cgroup_disable of the kernel's command line",
                missing.join(", ")
            ),
        ),
    }
}

fn driver(setting: CgroupDriver, mode: Mode, booted: &Path) -> Check {
    let can_use_systemd = mode == Mode::V2 && booted.is_dir();
    match setting {
        CgroupDriver::Systemd if !can_use_systemd => {
            let text = "systemd, which needs a host with cgroup v2 alone and systemd as its init";
            Check::failed("cgroup driver", text.to_owned())
        }
        CgroupDriver::Cgroupfs if can_use_systemd => {
            let text =
                "cgroupfs, on a host where systemd makes cgroups too: it may undo what it does not know of";
            Check::warning("cgroup driver", text.to_owned())
        }
        CgroupDriver::Auto if can_use_systemd => {
            Check::good("cgroup driver", "systemd, chosen by itself".to_owned())
        }
        CgroupDriver::Auto => Check::good("cgroup driver", "cgroupfs, chosen by itself".to_owned()),
        CgroupDriver::Systemd => Check::good("cgroup driver", "systemd".to_owned()),
        CgroupDriver::Cgroupfs => Check::good("cgroup driver", "cgroupfs".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn a_driver_fits_its_host() {
        let systemd = tempfile::tempdir().unwrap();
        let none = Path::new("/nonexistent");
        let of = |setting, mode, booted: &Path| driver(setting, mode, booted).outcome;
        assert_eq!(of(CgroupDriver::Systemd, Mode::V1, systemd.path()), Outcome::Failed);
        assert_eq!(of(CgroupDriver::Systemd, Mode::V2, none), Outcome::Failed);
        assert_eq!(of(CgroupDriver::Cgroupfs, Mode::V2, systemd.path()), Outcome::Warning);
        assert_eq!(of(CgroupDriver::Auto, Mode::Hybrid, none), Outcome::Good);
    }
}
