//! Making files as the root of a pod that has a user namespace.

use crisp_executor::user_namespace::IdMappings;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid, Uid, dumpable_behavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySets, capabilities, set_capabilities, set_thread_res_gid, set_thread_res_uid,
};

/// Gives the calling thread the ids of that root on the host, for good, and leaves it its rights: in a mount with
/// mapped ids the kernel lets no one else make a file, and elsewhere it is the container's from its begin.
///
/// Only the effective ids: with the others being the host's root's, no process of the pod may send it signals or
/// inspect it.
pub(crate) fn as_root_of(users: &IdMappings) -> Result<(), Errno> {
    let exists = |id: Option<u32>| id.ok_or(Errno::OVERFLOW);
    let (uid, gid) = (exists(users.host_uid(0))?, exists(users.host_gid(0))?);
    let (CapabilitySets { permitted, inheritable, .. }, dumpable) =
        (capabilities(None)?, dumpable_behavior()?);
    set_thread_res_gid(Gid::ROOT, Gid::from_raw(gid), Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, Uid::from_raw(uid), Uid::ROOT)?;
    // The kernel has taken the effective ones with the user.
    set_capabilities(None, CapabilitySets { effective: permitted, permitted, inheritable })?;
    // And denies the whole process core dumps.
    if dumpable == DumpableBehavior::Dumpable {
        set_dumpable_behavior(dumpable)?;
    }
    Ok(())
}
