//! Fields of the Pod as values for its containers: the downward API.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use super::cri::host_memory;
use super::manifest::{Container, FieldPath, Map, Pod, ResourceKind, ResourceRef};

/// The values that a `fieldRef` can refer to.
#[derive(Debug, Clone, Default)]
pub struct PodFields {
    name: String,
    namespace: String,
    uid: String,
    labels: Map,
    annotations: Map,
    service_account: String,
    host_ips: Vec<IpAddr>,
    pod_ips: Vec<IpAddr>,
    is_on_host: bool,
}

impl PodFields {
    /// The fields of a pod that has no addresses yet.
    pub fn of(pod: &Pod, uid: &str) -> Self {
        Self {
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            uid: uid.to_owned(),
            labels: pod.labels.clone(),
            annotations: pod.annotations.clone(),
            service_account: pod.service_account.clone(),
            host_ips: host_ips(),
            pod_ips: Vec::new(),
            is_on_host: pod.host_network,
        }
    }

    /// The same, after the pod has got its addresses.
    pub fn with_addresses(self, pod_ips: Vec<IpAddr>) -> Self {
        Self { pod_ips, ..self }
    }

    /// The first address of the pod itself.
    pub fn own_address(&self) -> Option<IpAddr> {
        self.pod_ips.first().copied()
    }

    /// The value of a field. On the host's network the pod has the host's addresses.
    pub fn text(&self, field: &FieldPath) -> String {
        let pod_ips = if self.is_on_host { &self.host_ips } else { &self.pod_ips };
        let first = |all: &[IpAddr]| all.first().map(ToString::to_string).unwrap_or_default();
        let list = |all: &[IpAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        match field {
            FieldPath::Name => self.name.clone(),
            FieldPath::Namespace => self.namespace.clone(),
            FieldPath::Uid => self.uid.clone(),
            FieldPath::Label(key) => self.labels.get(key).cloned().unwrap_or_default(),
            FieldPath::Annotation(key) => self.annotations.get(key).cloned().unwrap_or_default(),
            FieldPath::Labels => lines(&self.labels),
            FieldPath::Annotations => lines(&self.annotations),
            FieldPath::NodeName => node_name(),
            FieldPath::ServiceAccount => self.service_account.clone(),
            FieldPath::HostIp => first(&self.host_ips),
            FieldPath::HostIps => list(&self.host_ips),
            FieldPath::PodIp => first(pod_ips),
            FieldPath::PodIps => list(pod_ips),
        }
    }
}

/// A request or limit, in units of the divisor, rounded up. A missing limit is the capacity of the host.
/// `own` is the container that gets the value.
pub fn resource(pod: &Pod, own: Option<&Container>, wanted: &ResourceRef) -> u64 {
    let named = |name: &String| pod.all_containers().find(|container| container.name == *name);
    let container = wanted.container.as_ref().map_or(own, named);
    let Some(resources) = container.map(|container| &container.resources) else { return 0 };
    let processors = || std::thread::available_parallelism().map_or(1, |n| n.get() as u64) * 1000;
    let amount = match wanted.kind {
        ResourceKind::CpuLimit => resources.cpu_limit.unwrap_or_else(processors),
        ResourceKind::CpuRequest => resources.cpu_request.unwrap_or(0),
        ResourceKind::MemoryLimit => resources.memory_limit.unwrap_or_else(host_memory),
        ResourceKind::MemoryRequest => resources.memory_request.unwrap_or(0),
    };
    amount.div_ceil(wanted.divisor.max(1))
}

/// In the form of kubelet: one line each, the value in quotes.
fn lines(map: &Map) -> String {
    map.iter().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
}

fn node_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_lowercase()
}

/// The host's source addresses on its default routes. No packet is sent to find them.
fn host_ips() -> Vec<IpAddr> {
    let way_out = |bind: IpAddr, to: IpAddr| {
        let socket = UdpSocket::bind((bind, 0)).ok()?;
        socket.connect((to, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let v4 = way_out(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into());
    let v6 = way_out(Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into());
    let found: Vec<_> = v4.into_iter().chain(v6).collect();
    if found.is_empty() { vec![Ipv4Addr::LOCALHOST.into()] } else { found }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::parse;
    use super::*;

    #[test]
    fn fields_and_amounts_are_those_of_the_pod() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {a: 'x \"y\"', b: z}}\nspec:\n  containers:\n  - {name: a, image: b, resources: {limits: {cpu: 1500m}, requests: {memory: 3Mi}}}\n";
        let pod = parse("p", text).unwrap().pods.remove(0).pod;
        let mut fields = PodFields::of(&pod, "u");
        assert_eq!(fields.text(&FieldPath::Labels), "a=\"x \\\"y\\\"\"\nb=\"z\"");
        assert_eq!(fields.text(&FieldPath::Label("b".into())), "z");
        assert_eq!(fields.text(&FieldPath::Label("c".into())), "");
        assert_eq!(fields.text(&FieldPath::PodIp), "", "it has no network");
        fields.is_on_host = true;
        assert_eq!(fields.text(&FieldPath::PodIp), fields.text(&FieldPath::HostIp));
        fields.is_on_host = false;
        fields.pod_ips = vec![Ipv4Addr::new(10, 1, 1, 1).into(), Ipv6Addr::LOCALHOST.into()];
        assert_eq!(fields.text(&FieldPath::PodIps), "10.1.1.1,::1");
        let amount = |kind, divisor| {
            let wanted = ResourceRef { container: Some("a".into()), kind, divisor };
            resource(&pod, None, &wanted)
        };
        assert_eq!(amount(ResourceKind::CpuLimit, 1000), 2, "rounded up");
        assert_eq!(amount(ResourceKind::CpuLimit, 1), 1500);
        assert_eq!(amount(ResourceKind::MemoryRequest, 1 << 20), 3);
        assert_eq!(amount(ResourceKind::MemoryLimit, 1), host_memory());
    }
}
