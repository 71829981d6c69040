//! Plans on their way to a monitor: bytes in a memfd, as they outgrow a message.
//!
//! Protocol 2 writes MessagePack with field names: a reader leaves out fields that it does not know,
//! and takes the default for those that are missing. Protocol 1 is [`v1`](super::v1).

use crisp_executor::plan::{CgroupJoin, Plan, Process};
use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{EncodeError, Malformed};
use super::{Failure, PROTOCOL, codec, v1};

/// The first protocol with the form that [`to_bytes`] writes.
const NAMED_FIELDS: u16 = 2;
/// Longest plan. One is some ten kilobytes, most of it a seccomp program.
const LONGEST: u64 = 16 << 20;

pub(super) fn encode(plan: &Plan, protocol: u16) -> Result<OwnedFd, EncodeError> {
    let bytes =
        if protocol < NAMED_FIELDS { codec::to_bytes(&v1::Plan::of(plan)?)? } else { to_bytes(plan)? };
    in_memory(c"crisp-plan", &bytes)
}

pub(super) fn decode(file: &OwnedFd, protocol: u16) -> Result<Plan, Failure> {
    read(file, protocol)
}

/// The plan of an exec.
#[derive(Serialize)]
struct ExecRef<'a> {
    process: &'a Process,
    cgroup: &'a CgroupJoin,
}

#[derive(Deserialize)]
pub(super) struct Exec {
    pub(super) process: Process,
    pub(super) cgroup: CgroupJoin,
}

pub(super) fn encode_exec(
    process: &Process,
    cgroup: &CgroupJoin,
    protocol: u16,
) -> Result<OwnedFd, EncodeError> {
    let bytes = if protocol < NAMED_FIELDS {
        codec::to_bytes(&v1::ExecPlan::of(process, cgroup)?)?
    } else {
        to_bytes(&ExecRef { process, cgroup })?
    };
    in_memory(c"crisp-exec", &bytes)
}

pub(super) fn decode_exec(file: &OwnedFd, protocol: u16) -> Result<(Process, CgroupJoin), Failure> {
    let Exec { process, cgroup } = read(file, protocol)?;
    Ok((process, cgroup))
}

fn read<T: DeserializeOwned>(file: &OwnedFd, protocol: u16) -> Result<T, Failure> {
    if protocol < NAMED_FIELDS {
        return Err(Failure::Version { monitor: PROTOCOL, client: protocol });
    }
    Ok(from_bytes(&read_whole(file)?)?)
}

pub(super) fn to_bytes(plan: &impl Serialize) -> Result<Vec<u8>, EncodeError> {
    rmp_serde::to_vec_named(plan).map_err(|error| EncodeError::Format { reason: error.to_string() })
}

pub(super) fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    rmp_serde::from_slice(bytes).map_err(|error| Malformed { reason: format!("the plan: {error}") })
}

fn in_memory(name: &std::ffi::CStr, bytes: &[u8]) -> Result<OwnedFd, EncodeError> {
    let fill = || {
        let file = memfd_create(name, MemfdFlags::CLOEXEC)?;
        let mut left = bytes;
        while !left.is_empty() {
            match rustix::io::write(&file, left) {
                Ok(written) => left = &left[written..],
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(file)
    };
    fill().map_err(|errno| EncodeError::Memory { errno })
}

/// All that a memfd holds.
fn read_whole(file: &OwnedFd) -> Result<Vec<u8>, Failure> {
    let failed =
        |errno: Errno| Failure::System { action: "read the plan".to_owned(), errno: errno.raw_os_error() };
    let malformed = |reason: String| Failure::Malformed { reason };
    let size = u64::try_from(rustix::fs::fstat(file).map_err(failed)?.st_size).unwrap_or(0);
    if size > LONGEST {
        return Err(malformed(format!("a plan of {size} bytes is longer than {LONGEST}")));
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pread(file, &mut bytes[done..], done as u64) {
            Ok(0) => return Err(malformed("the plan is cut short".into())),
            Ok(got) => done += got,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(bytes)
}
