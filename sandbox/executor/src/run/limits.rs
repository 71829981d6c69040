//! Resource limits, as far as this host lets us raise them.

use std::fmt;

use rustix::io::Errno;

use super::error::{At, Stage, StageError};
use super::report::Reporter;
use crate::plan::Rlimit;
use crate::sys::{Limit, limit};

/// Names of RLIMIT_ numbers as getrlimit(2) has them on x86-64 and arm64.
const NAMES: [&str; 16] = [
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
];

struct Name(u32);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.get(self.0 as usize) {
            Some(name) => write!(f, "RLIMIT_{name}"),
            None => write!(f, "resource limit {}", self.0),
        }
    }
}

/// Sets all limits. What would take CAP_SYS_RESOURCE to raise is clamped to the hard limit in force.
pub(crate) fn apply(limits: &[Rlimit], reporter: &Reporter) -> Result<(), StageError> {
    for &Rlimit { resource, soft, hard } in limits {
        let wanted = Limit { soft, hard };
        match limit(resource, Some(wanted)) {
            Ok(_) => {}
            Err(Errno::PERM) => {
                let now = limit(resource, None).at(Stage::Limit, Name(resource))?;
                let clamped = clamp(wanted, now);
                limit(resource, Some(clamped)).at(Stage::Limit, Name(resource))?;
                let (name, hard) = (Name(resource), clamped.hard);
                reporter.note(
                    Stage::Limit,
                    format!("{name}: not permitted above {hard} without CAP_SYS_RESOURCE"),
                );
            }
            Err(errno) => return Err(StageError::new(Stage::Limit, errno, Name(resource))),
        }
    }
    Ok(())
}

/// Raises the hard limits that are below those of `limits`, for a process that will not have the right to. Soft
/// ones stay: the setup is not to be kept from what it does. What cannot be raised is left to [`apply`].
pub(crate) fn raise(limits: &[Rlimit]) -> Result<(), StageError> {
    for &Rlimit { resource, hard, .. } in limits {
        let now = limit(resource, None).at(Stage::Limit, Name(resource))?;
        if hard > now.hard {
            let _ = limit(resource, Some(Limit { hard, ..now }));
        }
    }
    Ok(())
}

fn clamp(wanted: Limit, now: Limit) -> Limit {
    let hard = wanted.hard.min(now.hard);
    Limit { soft: wanted.soft.min(hard), hard }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_never_rises_above_the_hard_one_in_force() {
        let now = Limit { soft: 10, hard: 20 };
        assert_eq!(clamp(Limit { soft: 30, hard: u64::MAX }, now), Limit { soft: 20, hard: 20 });
        assert_eq!(clamp(Limit { soft: 5, hard: 15 }, now), Limit { soft: 5, hard: 15 });
        assert_eq!(Name(7).to_string(), "RLIMIT_NOFILE");
        assert_eq!(Name(99).to_string(), "resource limit 99");
    }
}
