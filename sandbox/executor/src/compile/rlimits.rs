//! `process.rlimits`.

use oci_spec::runtime::{PosixRlimit, PosixRlimitType};

use super::CompileError;
use super::field::invalid;
use crate::plan;

pub(super) fn rlimits(given: &[PosixRlimit]) -> Result<Vec<plan::Rlimit>, CompileError> {
    let mut limits: Vec<plan::Rlimit> = Vec::with_capacity(given.len());
    for (i, limit) in given.iter().enumerate() {
        let (soft, hard) = (limit.soft(), limit.hard());
        if soft > hard {
            let reason = format!("{}: soft limit {soft} is above the hard limit {hard}", limit.typ());
            return Err(invalid(format!("process.rlimits[{i}]"), reason));
        }
        let resource = number(limit.typ());
        if limits.iter().any(|l| l.resource == resource) {
            return Err(invalid(format!("process.rlimits[{i}]"), format!("{} is given twice", limit.typ())));
        }
        limits.push(plan::Rlimit { resource, soft, hard });
    }
    Ok(limits)
}

/// The number of a limit in asm-generic/resource.h; the same on all 64-bit machines that containers run on.
fn number(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}
