//! Limits the bandwidth of a pod.

use rustix::io::Errno;

use super::record::BuiltinRecord;
use crate::network::bandwidth::Bandwidth;
use crate::network::netlink::{Socket, limit_by_name};
use crate::network::{AttachRequest, NetlinkError};

/// The pod receives what the host sends to it, so that is limited on the host. What the pod sends is limited
/// inside it: a container with NET_ADMIN can undo that.
pub(super) fn limit(
    socket: &mut Socket,
    request: &AttachRequest,
    record: &BuiltinRecord,
    Bandwidth { ingress, egress }: Bandwidth,
) -> Result<(), NetlinkError> {
    let ingress = ingress.map_or(Ok(()), |bits| limit_by_name(socket, &record.veth, bits));
    let egress = egress.map_or(Ok(()), |bits| request.netlink.limit(&record.interface, bits));
    match ingress.and(egress) {
        Err(error @ NetlinkError::Refused { errno: Errno::NOENT | Errno::OPNOTSUPP, .. }) => {
            let (pod, name) = (record.pod.short(), format!("{}/{}", record.namespace, record.name));
            tracing::warn!(pod, name, %error, "a pod's bandwidth is not limited, as its annotations ask for: the kernel has no tbf (CONFIG_NET_SCH_TBF)");
            Ok(())
        }
        other => other,
    }
}
