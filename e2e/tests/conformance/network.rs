//! The pod's network.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use crisp_e2e::registry::free_port;
use crisp_e2e::{Result, request};
use k8s_cri::v1::{
    ContainerConfig, DnsConfig, LinuxContainerSecurityContext, NamespaceMode, PodSandboxConfig, PortMapping,
    Protocol,
};

use crate::cri::{Cri, Pod, secured};

promises! {
    a_pods_addresses_are_its_own: Kubernetes, ["PodSandboxStatus.network", "PodSandboxNetworkStatus.ip",
        "PodSandboxNetworkStatus.additional_ips", "PodIP.ip"],
        "The addresses in a pod's status are those of its interface, and no other pod has them";
    containers_talk_over_localhost: Kubernetes, ["NamespaceOption.network"],
        "Containers of a pod reach each other by localhost";
    pods_talk_by_address: Kubernetes, ["PodSandboxNetworkStatus.ip"],
        "A pod reaches another by its address";
    an_address_outlives_a_container: Kubernetes, ["PodSandboxNetworkStatus.ip"],
        "A pod keeps its address while its containers end and start";
    the_nodes_network_is_the_nodes: Kubernetes, ["NamespaceOption.network"],
        "A pod with hostNetwork has the node's network and hostname, and no address in its status";
    dns_settings_are_the_pods: Kubernetes, ["PodSandboxConfig.dns_config", "DNSConfig.servers", "DNSConfig.searches",
        "DNSConfig.options"],
        "Every container's /etc/resolv.conf has the pod's servers, searches and options";
    without_dns_settings_the_nodes_are_used: Kubernetes, ["PodSandboxConfig.dns_config"],
        "Without DNS settings a pod on the node's network has the node's resolv.conf";
    a_host_port_leads_to_the_pod: Kubernetes, ["PodSandboxConfig.port_mappings", "PortMapping.container_port",
        "PortMapping.host_port", "PortMapping.protocol"],
        "A host port leads to the pod's port";
    a_host_port_of_udp_leads_to_the_pod: Kubernetes, ["PortMapping.protocol"],
        "A host port of UDP leads to the pod's port";
    a_host_address_limits_a_port: Kubernetes, ["PortMapping.host_ip"],
        "A host port with a host address is reached at that address alone";
    a_stopped_pod_gives_its_port_back: Cri, ["StopPodSandbox"],
        "After a pod is stopped another one gets its host port";
    a_port_that_is_not_published_stays_closed: Kubernetes, ["PortMapping.host_port"],
        "A container port without a host port is not opened on the node";
}

/// A container that serves a text over HTTP.
fn server(cri: &Cri, text: &str) -> ContainerConfig {
    cri.shell(&format!("mkdir /w; echo {text} > /w/index.html; exec httpd -f -p 80 -h /w"))
}

async fn address(cri: &mut Cri, pod: &str) -> Result<String> {
    Ok(cri.pod_status(pod).await?.network.ok_or("no network in the status")?.ip)
}

fn fetch(address: &str) -> String {
    format!("for i in $(seq 50); do wget -q -O - http://{address}/ && exit 0; sleep 0.1; done; exit 1")
}

async fn a_pods_addresses_are_its_own(cri: &mut Cri) -> Result<()> {
    let mut all = Vec::new();
    for _ in 0..2 {
        let (pod, id) = cri.running().await?;
        let network = cri.pod_status(&pod.id).await?.network.ok_or("no network in the status")?;
        let addresses: Vec<String> =
            [network.ip].into_iter().chain(network.additional_ips.into_iter().map(|more| more.ip)).collect();
        let shown = cri.sh(&id, "ip addr show eth0").await?;
        for address in &addresses {
            assert!(address.parse::<std::net::IpAddr>().is_ok(), "{address}");
            assert!(shown.contains(&format!(" {address}/")), "{address} is not in {shown}");
        }
        all.extend(addresses);
    }
    let unique: std::collections::BTreeSet<&String> = all.iter().collect();
    assert_eq!(unique.len(), all.len(), "{all:?}");
    Ok(())
}

async fn containers_talk_over_localhost(cri: &mut Cri) -> Result<()> {
    let config = server(cri, "over localhost");
    let (pod, _id) = cri.running_as(&config).await?;
    let config = cri.shell(&fetch("127.0.0.1"));
    assert_eq!(cri.output_in(&pod, &config).await?, "over localhost\n");
    Ok(())
}

async fn pods_talk_by_address(cri: &mut Cri) -> Result<()> {
    let config = server(cri, "from pod to pod");
    let (pod, _id) = cri.running_as(&config).await?;
    let address = address(cri, &pod.id).await?;
    let config = cri.shell(&fetch(&address));
    assert_eq!(cri.output(&config).await?, "from pod to pod\n");
    Ok(())
}

async fn an_address_outlives_a_container(cri: &mut Cri) -> Result<()> {
    let (pod, first) = cri.running().await?;
    let before = address(cri, &pod.id).await?;
    cri.stop(&first, 0).await?;
    cri.remove_container(&first).await?;
    let config = cri.shell("ip -4 addr show eth0 | grep -o 'inet [0-9.]*'");
    assert_eq!(cri.output_in(&pod, &config).await?, format!("inet {before}\n"));
    assert_eq!(address(cri, &pod.id).await?, before);
    Ok(())
}

/// A pod on the node's network.
fn on_the_node(cri: &Cri) -> PodSandboxConfig {
    let mut config = cri.sandbox_with(request::namespaces(NamespaceMode::Node, NamespaceMode::Container));
    config.hostname.clear();
    config
}

/// A container on the node's network.
fn there(config: ContainerConfig) -> ContainerConfig {
    let namespace_options = Some(request::namespaces(NamespaceMode::Node, NamespaceMode::Container));
    secured(config, LinuxContainerSecurityContext { namespace_options, ..Default::default() })
}

async fn the_nodes_network_is_the_nodes(cri: &mut Cri) -> Result<()> {
    let config = on_the_node(cri);
    let pod = cri.run(&config).await?;
    let config = there(cri.shell("readlink /proc/self/ns/net; hostname"));
    let ours = std::fs::read_link("/proc/self/ns/net")?;
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    assert_eq!(cri.output_in(&pod, &config).await?, format!("{}\n{name}", ours.display()));
    assert_eq!(cri.pod_status(&pod.id).await?.network.unwrap_or_default().ip, "");
    Ok(())
}

async fn dns_settings_are_the_pods(cri: &mut Cri) -> Result<()> {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let mut config = cri.sandbox();
    config.dns_config = Some(DnsConfig {
        servers: words(&["10.96.0.10", "10.96.0.11"]),
        searches: words(&["ns.svc.cluster.local", "cluster.local"]),
        options: words(&["ndots:5", "edns0"]),
    });
    let pod = cri.run(&config).await?;
    for _ in 0..2 {
        let config = cri.shell("cat /etc/resolv.conf");
        let text = cri.output_in(&pod, &config).await?;
        let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        lines.sort_unstable();
        let expected = [
            "nameserver 10.96.0.10",
            "nameserver 10.96.0.11",
            "options ndots:5 edns0",
            "search ns.svc.cluster.local cluster.local",
        ];
        assert_eq!(lines, expected);
    }
    Ok(())
}

async fn without_dns_settings_the_nodes_are_used(cri: &mut Cri) -> Result<()> {
    let config = on_the_node(cri);
    let pod = cri.run(&config).await?;
    let config = there(cri.shell("cat /etc/resolv.conf"));
    let is = cri.output_in(&pod, &config).await?;
    let should = std::fs::read_to_string("/etc/resolv.conf")?;
    let servers = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("nameserver")).map(ToOwned::to_owned).collect()
    };
    assert!(!servers(&should).is_empty(), "the node has no servers");
    assert_eq!(servers(&is), servers(&should));
    Ok(())
}

/// A pod with one published port.
async fn published(cri: &mut Cri, mapping: PortMapping) -> Result<Pod> {
    let mut config = cri.sandbox();
    config.port_mappings = vec![mapping];
    Ok(cri.run(&config).await?)
}

/// Fetches the text at an address of the node; tries until it is served.
async fn fetch_from(host: &str, port: u16) -> Result<String> {
    let mut last = String::new();
    for _ in 0..50 {
        match ask_once(host, port) {
            Ok(text) if !text.is_empty() => return Ok(text),
            Ok(_) => "an empty answer".clone_into(&mut last),
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(last.into())
}

fn ask_once(host: &str, port: u16) -> Result<String> {
    let address = format!("{host}:{port}").parse()?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned())
}

/// An address of the node that is not on its loopback interface.
fn outer_address() -> Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // This sends no packet.
    socket.connect("192.0.2.1:9")?;
    Ok(socket.local_addr()?.ip().to_string())
}

async fn a_host_port_leads_to_the_pod(cri: &mut Cri) -> Result<()> {
    let port = free_port()?;
    let pod =
        published(cri, PortMapping { container_port: 80, host_port: port.into(), ..Default::default() })
            .await?;
    let config = server(cri, "published");
    cri.launch(&pod, &config).await?;
    assert_eq!(fetch_from("127.0.0.1", port).await?, "published\n");
    if let Ok(outer) = outer_address() {
        assert_eq!(fetch_from(&outer, port).await?, "published\n");
    }
    Ok(())
}

async fn a_host_port_of_udp_leads_to_the_pod(cri: &mut Cri) -> Result<()> {
    let port = free_port()?;
    let mapping = PortMapping {
        protocol: Protocol::Udp.into(),
        container_port: 5353,
        host_port: port.into(),
        ..Default::default()
    };
    let pod = published(cri, mapping).await?;
    let config = cri.shell("exec sleep 1000");
    let id = cri.launch(&pod, &config).await?;
    // No program listens there, and the pod's kernel counts that.
    let count = "grep ^Udp: /proc/net/snmp | tail -n 1";
    let before = cri.sh(&id, count).await?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    for _ in 0..50 {
        socket.send_to(b"a datagram", ("127.0.0.1", port))?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let no_ports = |line: &str| line.split_whitespace().nth(2).and_then(|word| word.parse::<u32>().ok());
        if no_ports(&cri.sh(&id, count).await?) > no_ports(&before) {
            return Ok(());
        }
    }
    Err("no datagram came through".into())
}

async fn a_host_address_limits_a_port(cri: &mut Cri) -> Result<()> {
    let port = free_port()?;
    let mapping = PortMapping {
        container_port: 80,
        host_port: port.into(),
        host_ip: "127.0.0.1".into(),
        ..Default::default()
    };
    let pod = published(cri, mapping).await?;
    let config = server(cri, "published");
    cri.launch(&pod, &config).await?;
    assert_eq!(fetch_from("127.0.0.1", port).await?, "published\n");
    let Ok(outer) = outer_address() else {
        crisp_skip::unsupported!(Device("interface with a default route"));
    };
    assert!(ask_once(&outer, port).is_err());
    Ok(())
}

async fn a_stopped_pod_gives_its_port_back(cri: &mut Cri) -> Result<()> {
    let port = free_port()?;
    let mapping = PortMapping { container_port: 80, host_port: port.into(), ..Default::default() };
    let first = published(cri, mapping.clone()).await?;
    let config = server(cri, "first");
    cri.launch(&first, &config).await?;
    assert_eq!(fetch_from("127.0.0.1", port).await?, "first\n");
    cri.stop_pod(&first.id).await?;
    let second = published(cri, mapping).await?;
    let config = server(cri, "second");
    cri.launch(&second, &config).await?;
    assert_eq!(fetch_from("127.0.0.1", port).await?, "second\n");
    Ok(())
}

async fn a_port_that_is_not_published_stays_closed(cri: &mut Cri) -> Result<()> {
    let port = free_port()?;
    let mapping = PortMapping { container_port: port.into(), ..Default::default() };
    let pod = published(cri, mapping).await?;
    let config = cri.shell(&format!("mkdir /w; echo x > /w/index.html; exec httpd -f -p {port} -h /w"));
    cri.launch(&pod, &config).await?;
    let inside = cri.shell(&fetch(&format!("127.0.0.1:{port}")));
    assert_eq!(cri.output_in(&pod, &inside).await?, "x\n");
    assert!(ask_once("127.0.0.1", port).is_err());
    Ok(())
}
