//! rdma: handles and objects of network adapters with remote memory access. The file is the same in v1 and v2.

use oci_spec::runtime::LinuxRdma;

use super::dir::Dir;
use super::error::CgroupError;
use super::resources::{RdmaLimit, invalid};

pub(super) fn apply(dir: &Dir, limits: &[RdmaLimit]) -> Result<(), CgroupError> {
    for RdmaLimit { device, handles, objects } in limits {
        let value = |name: &str, limit: &Option<u32>| limit.map(|limit| format!(" {name}={limit}"));
        let values = [value("hca_handle", handles), value("hca_object", objects)];
        let values: String = values.into_iter().flatten().collect();
        if !values.is_empty() {
            dir.write("rdma.max", &format!("{device}{values}"))?;
        }
    }
    Ok(())
}

impl RdmaLimit {
    pub(super) fn from_spec(device: &str, limit: &LinuxRdma) -> Result<Self, CgroupError> {
        // It is the first word of what is written.
        if device.is_empty() || device.contains(char::is_whitespace) {
            return Err(invalid("linux.resources.rdma", format!("{device:?} is not the name of a device")));
        }
        Ok(Self { device: device.to_owned(), handles: limit.hca_handles(), objects: limit.hca_objects() })
    }
}
