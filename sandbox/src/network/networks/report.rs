//! Reports the things of all networks, for finding orphans.

use crisp_executor::ids::PodId;

use super::Networks;
use crate::network::builtin::{has_name_of_veth, list_links};
use crate::network::report::{NetworkReport, NetworkThing, Standing};
use crate::network::{NetworkError, PortMapping};

impl Networks {
    /// Interfaces, addresses, packet rules and host ports. Blocks.
    pub(crate) fn report(&self) -> NetworkReport {
        let mut report = NetworkReport::default();
        let links = list_links().unwrap_or_else(|error| {
            report.failures.push(error);
            Vec::new()
        });
        for network in self.0.builtins.all() {
            match network.report(&links) {
                Ok(things) => report.things.extend(things),
                Err(error) => report.failures.push(error),
            }
        }
        let seen = report.interfaces();
        let loose = links.iter().filter(|link| has_name_of_veth(link) && !seen.contains(&link.name));
        report.things.extend(loose.map(|link| NetworkThing {
            kind: "interface",
            name: link.name.clone(),
            standing: Standing::Unrecorded { is_on_bridge: false, may_be_lost: false },
        }));
        report.things.extend(self.0.cni.report());
        let ports = self.0.ports.all().into_iter();
        report
            .things
            .extend(ports.flat_map(|(pod, ports)| ports.into_iter().map(move |port| host_port(&pod, &port))));
        report
    }

    /// Removes an interface without a record; succeeds if it does not exist. Blocks.
    pub(crate) fn remove_interface(&self, name: &str) -> Result<(), NetworkError> {
        self.0.builtins.default.remove_interface(name)?;
        self.0.builtins.all().iter().for_each(|network| network.forget_interface(name));
        Ok(())
    }

    /// Removes the packet rules of a built-in network that publish ports for no pod. Blocks.
    pub(crate) fn remove_stray_rules(&self, network: &str) -> Result<(), NetworkError> {
        self.0.builtins.get(network).map_or(Ok(()), |network| network.remove_stray_rules())
    }

    /// Releases the host ports of a removed pod.
    pub(crate) fn release_ports(&self, pod: &PodId) {
        self.0.ports.release(pod);
    }
}

fn host_port(pod: &PodId, port: &PortMapping) -> NetworkThing {
    let place = port.host_ip.map_or_else(String::new, |ip| format!(" on {ip}"));
    let name = format!("{}/{}{place}", port.host_port, port.protocol);
    NetworkThing { kind: "host port", name, standing: Standing::HostPort(pod.clone()) }
}
