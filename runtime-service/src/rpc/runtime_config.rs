//! RuntimeConfig: which cgroup driver kubelet has to use.

use crisp_proto::runtime::v1::{
    CgroupDriver as Answer, LinuxRuntimeConfiguration, RuntimeConfigRequest, RuntimeConfigResponse,
};

use crisp_sandbox::CgroupDriver;

use super::{Reply, ServiceState};

pub(super) fn call(service: &ServiceState, _request: RuntimeConfigRequest) -> Reply<RuntimeConfigResponse> {
    let driver = match service.pods.cgroup_driver() {
        CgroupDriver::Cgroupfs => Answer::Cgroupfs,
        CgroupDriver::Systemd => Answer::Systemd,
    };
    Ok(RuntimeConfigResponse { linux: Some(LinuxRuntimeConfiguration { cgroup_driver: driver.into() }) })
}
