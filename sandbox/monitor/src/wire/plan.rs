//! Plans in messages to a monitor: bytes in the message's body, or in a memfd when they are too large for it.
//!
//! Protocol 2 writes MessagePack with field names: a reader ignores unknown fields, and uses the default for
//! missing ones. Protocol 3 has the plan in the body. Protocol 4 knows hooks. Protocol 1 is [`v1`](super::v1).

use crisp_executor::plan::{CgroupJoin, Plan, Process};
use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::message::Descriptors;
use super::{EncodeError, Failure, Malformed, PROTOCOL, codec, v1};

/// The first protocol with the form of [`to_bytes`].
const NAMED_FIELDS: u16 = 2;
/// The first protocol with plans in the body.
const IN_BODY: u16 = 3;
/// The first protocol whose monitors do not ignore hooks.
const WITH_HOOKS: u16 = 4;
/// Longest plan in a body; with a seccomp program one is some ten kilobytes.
const LONGEST_IN_BODY: usize = 64 << 10;
/// Longest plan. One is some ten kilobytes, most of it a seccomp program.
const LONGEST: u64 = 16 << 20;

/// An encoded plan.
#[derive(Debug)]
pub(super) enum Encoded {
    Body(Vec<u8>),
    Memory(OwnedFd),
}

impl Encoded {
    fn new(name: &std::ffi::CStr, bytes: Vec<u8>, protocol: u16) -> Result<Self, EncodeError> {
        if protocol >= IN_BODY && bytes.len() <= LONGEST_IN_BODY {
            return Ok(Self::Body(bytes));
        }
        in_memory(name, &bytes).map(Self::Memory)
    }

    /// Its part in a body, and the message's first descriptor.
    pub(super) fn split(self) -> (Vec<u8>, Option<OwnedFd>) {
        match self {
            Self::Body(bytes) => (bytes, None),
            Self::Memory(file) => (Vec::new(), Some(file)),
        }
    }

    /// The opposite of [`split`](Self::split).
    pub(super) fn join(body: Vec<u8>, fds: &mut Descriptors) -> Result<Self, Malformed> {
        if body.is_empty() { Ok(Self::Memory(fds.next("the plan")?)) } else { Ok(Self::Body(body)) }
    }
}

pub(super) fn encode(plan: &Plan, protocol: u16) -> Result<Encoded, EncodeError> {
    if protocol < WITH_HOOKS && plan.hooks.is_some() {
        return Err(EncodeError::Unsupported { protocol, what: "hooks" });
    }
    let bytes =
        if protocol < NAMED_FIELDS { codec::to_bytes(&v1::Plan::of(plan)?)? } else { to_bytes(plan)? };
    Encoded::new(c"crisp-plan", bytes, protocol)
}

pub(super) fn decode(plan: &Encoded, protocol: u16) -> Result<Plan, Failure> {
    read(plan, protocol)
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
) -> Result<Encoded, EncodeError> {
    let bytes = if protocol < NAMED_FIELDS {
        codec::to_bytes(&v1::ExecPlan::of(process, cgroup)?)?
    } else {
        to_bytes(&ExecRef { process, cgroup })?
    };
    Encoded::new(c"crisp-exec", bytes, protocol)
}

pub(super) fn decode_exec(plan: &Encoded, protocol: u16) -> Result<(Process, CgroupJoin), Failure> {
    let Exec { process, cgroup } = read(plan, protocol)?;
    Ok((process, cgroup))
}

fn read<T: DeserializeOwned>(plan: &Encoded, protocol: u16) -> Result<T, Failure> {
    if protocol < NAMED_FIELDS {
        return Err(Failure::Version { monitor: PROTOCOL, client: protocol });
    }
    match plan {
        Encoded::Body(bytes) => Ok(from_bytes(bytes)?),
        Encoded::Memory(file) => Ok(from_bytes(&read_whole(file)?)?),
    }
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

/// The whole content of a memfd.
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
