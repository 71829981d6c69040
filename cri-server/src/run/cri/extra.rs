//! Applies the annotation `crisp/container` to the request for a container.

use crisp_proto::runtime::v1::{CdiDevice, ContainerConfig, Device};

use crisp_runtime_service::spec::copy_up::COPY_UP;
use crisp_runtime_service::spec::ulimits::ULIMITS;

use super::super::manifest::Extra;

/// Applies it. Its values replace those of the Pod's fields.
pub fn apply(config: &mut ContainerConfig, extra: &Extra) {
    config.devices.extend(extra.devices.iter().map(|device| Device {
        container_path: device.container.clone(),
        host_path: device.host.clone(),
        permissions: device.permissions.clone(),
    }));
    config.cdi_devices.extend(extra.cdi_devices.iter().map(|name| CdiDevice { name: name.clone() }));
    if !extra.copy_up.is_empty() {
        let places = serde_json::json!(extra.copy_up).to_string();
        config.annotations.insert(COPY_UP.to_owned(), places);
    }
    if !extra.ulimits.is_empty() {
        let limits = serde_json::json!(extra.ulimits).to_string();
        config.annotations.insert(ULIMITS.to_owned(), limits);
    }
    let Some(linux) = &mut config.linux else { return };
    if let (Some(user), Some(security)) = (&extra.user, &mut linux.security_context)
        && security.run_as_user.is_none()
    {
        security.run_as_username.clone_from(user);
    }
    let Some(resources) = &mut linux.resources else { return };
    let replace = |field: &mut i64, value: Option<i64>| *field = value.unwrap_or(*field);
    replace(&mut resources.cpu_quota, extra.cpu_quota);
    replace(&mut resources.cpu_period, extra.cpu_period);
    replace(&mut resources.memory_swap_limit_in_bytes, extra.memory_swap);
    replace(&mut resources.oom_score_adj, extra.oom_score_adj);
    resources.cpuset_cpus = extra.cpuset_cpus.clone().unwrap_or_default();
    resources.cpuset_mems = extra.cpuset_mems.clone().unwrap_or_default();
    let pids = extra.pids_limit.map(|most| if most <= 0 { "max".to_owned() } else { most.to_string() });
    let reservation = extra.memory_reservation.map(|bytes| bytes.to_string());
    let files = [("pids.max", pids), ("memory.low", reservation)];
    resources.unified.extend(files.into_iter().filter_map(|(file, text)| Some((file.to_owned(), text?))));
}

#[cfg(test)]
mod tests {
    use crisp_proto::runtime::v1::{
        LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext,
    };

    use super::*;

    fn applied(extra: &Extra) -> (LinuxContainerResources, LinuxContainerSecurityContext) {
        let resources = LinuxContainerResources { cpu_shares: 2, oom_score_adj: 1000, ..Default::default() };
        let linux = LinuxContainerConfig {
            resources: Some(resources),
            security_context: Some(LinuxContainerSecurityContext::default()),
        };
        let mut config = ContainerConfig { linux: Some(linux), ..ContainerConfig::default() };
        apply(&mut config, extra);
        let linux = config.linux.unwrap();
        (linux.resources.unwrap(), linux.security_context.unwrap())
    }

    #[test]
    fn only_what_is_said_is_replaced() {
        let (resources, security) = applied(&Extra::default());
        assert_eq!((resources.cpu_shares, resources.oom_score_adj, resources.unified.len()), (2, 1000, 0));
        assert!(security.run_as_username.is_empty());
        let extra = Extra {
            user: Some("www-data".into()),
            oom_score_adj: Some(0),
            pids_limit: Some(0),
            memory_reservation: Some(7),
            ..Extra::default()
        };
        let (resources, security) = applied(&extra);
        assert_eq!((resources.cpu_shares, resources.oom_score_adj), (2, 0));
        assert_eq!(
            (resources.unified["pids.max"].as_str(), resources.unified["memory.low"].as_str()),
            ("max", "7")
        );
        assert_eq!(security.run_as_username, "www-data");
    }
}
