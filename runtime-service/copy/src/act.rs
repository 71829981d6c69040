//! Makes files as the root user of a pod that has a user namespace.

use crisp_executor::user_namespace::IdMappings;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid, Uid, dumpable_behavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySets, capabilities, set_capabilities, set_thread_res_gid, set_thread_res_uid,
};

/// Gives the calling thread, for good, the ids that this root has on the host, and keeps its capabilities.
/// The kernel lets only these ids make files in a mount with mapped ids; elsewhere the files belong to the
/// container from the beginning.
///
/// Only the effective ids change. The other ids stay those of the host's root, so no process of the pod may
/// send the thread signals or inspect it.
pub(crate) fn as_root_of(users: &IdMappings) -> Result<(), Errno> {
    let exists = |id: Option<u32>| id.ok_or(Errno::OVERFLOW);
    let (uid, gid) = (exists(users.host_uid(0))?, exists(users.host_gid(0))?);
    let (CapabilitySets { permitted, inheritable, .. }, dumpable) =
        (capabilities(None)?, dumpable_behavior()?);
    set_thread_res_gid(Gid::ROOT, Gid::from_raw(gid), Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, Uid::from_raw(uid), Uid::ROOT)?;
    // The change of the user has cleared the effective capabilities.
    set_capabilities(None, CapabilitySets { effective: permitted, permitted, inheritable })?;
    // The change of the user also turns off core dumps for the whole process.
    if dumpable == DumpableBehavior::Dumpable {
        set_dumpable_behavior(dumpable)?;
    }
    Ok(())
}
