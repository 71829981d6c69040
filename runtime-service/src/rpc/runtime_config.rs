//! RuntimeConfig: which cgroup driver kubelet has to use.

use crisp_proto::runtime::v1::{
    CgroupDriver as Answer, LinuxRuntimeConfiguration, RuntimeConfigRequest, RuntimeConfigResponse,
};

use super::{Reply, ServiceState};
use crate::config::CgroupDriver;

pub(super) fn call(service: &ServiceState, _request: RuntimeConfigRequest) -> Reply<RuntimeConfigResponse> {
    let driver = match service.config.cgroup_driver {
        CgroupDriver::Cgroupfs => Answer::Cgroupfs,
        CgroupDriver::Systemd => Answer::Systemd,
    };
    Ok(RuntimeConfigResponse { linux: Some(LinuxRuntimeConfiguration { cgroup_driver: driver.into() }) })
}
