//! The built-in network: addresses, connections between pods, host ports, refused requests.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use crisp_e2e::registry::free_port;
use crisp_e2e::{Lab, Machine, Result, Setup, needs, request, says};
use k8s_cri::v1::{
    NamespaceMode, NetworkConfig, PodSandboxStatusRequest, PortMapping, RemovePodSandboxRequest,
    RuntimeConfig, StatusRequest, StopPodSandboxRequest, UpdateRuntimeConfigRequest,
};

/// The first address of the pod, and the others.
async fn addresses(lab: &mut Lab, pod: &str) -> Result<(String, Vec<String>)> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.into(), verbose: false };
    let status =
        lab.client.runtime.pod_sandbox_status(request).await?.into_inner().status.ok_or("no status")?;
    let network = status.network.ok_or("no network")?;
    Ok((network.ip, network.additional_ips.into_iter().map(|more| more.ip).collect()))
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_each_other_by_address() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let (sandbox, pod) = lab.pod("server").await?;
    let serve = "mkdir /w; echo over the bridge > /w/index.html; exec httpd -f -p 80 -h /w";
    lab.client.launch(&pod, &lab.shell(serve), &sandbox).await?;
    let (ip, others) = addresses(&mut lab, &pod).await?;
    assert!(ip.starts_with("10."), "{ip:?}");
    let [ipv6] = &others[..] else { panic!("{others:?}") };
    let line = format!(
        "for i in 1 2 3 4 5 6 7 8 9; do wget -q -O - http://{ip}/ && break; sleep 0.1; done; wget -q -O - http://[{ipv6}]/; ip route | grep -c default; ip -6 route | grep -c default; grep -c $(hostname) /etc/hosts"
    );
    let expected = "over the bridge\nover the bridge\n1\n1\n2\n";
    assert_eq!(lab.output("client", lab.shell(&line)).await?, expected);
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_on_the_hosts_network_sees_its_interfaces() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let mut sandbox = request::pod(&lab.machine, "host");
    let context = sandbox.linux.as_mut().and_then(|l| l.security_context.as_mut()).ok_or("no context")?;
    context.namespace_options = Some(request::namespaces(NamespaceMode::Node, NamespaceMode::Container));
    let pod = lab.client.run_pod(&sandbox).await?;
    let id = lab.client.launch(&pod, &lab.shell("readlink /proc/self/ns/net; hostname"), &sandbox).await?;
    lab.client.wait(&id).await?;
    let ours = std::fs::read_link("/proc/self/ns/net")?;
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    assert_eq!(lab.machine.container_log("host", "main")?, format!("{}\n{name}", ours.display()));
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn host_ports_lead_into_the_pod_and_are_given_once() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let port = free_port()?;
    let mut sandbox = request::pod(&lab.machine, "ports");
    sandbox.port_mappings =
        vec![PortMapping { container_port: 80, host_port: port.into(), ..Default::default() }];
    let pod = lab.client.run_pod(&sandbox).await?;
    let serve = "mkdir /w; echo published > /w/index.html; exec httpd -f -p 80 -h /w";
    lab.client.launch(&pod, &lab.shell(serve), &sandbox).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert!(answer.ends_with("published\n"), "{answer}");
    let mut second = request::pod(&lab.machine, "ports2");
    second.port_mappings.clone_from(&sandbox.port_mappings);
    let refused = lab.client.run_pod(&second).await.expect_err("the port is taken");
    says(&refused, &["host ports", &port.to_string(), "in use by pod", "/ports ("]);
    // No other process of the host gets the port either, also after a restart of the server.
    assert!(TcpListener::bind(("127.0.0.1", port)).is_err());
    lab.machine.kill_server();
    lab.machine.start_server().await?;
    lab.client = lab.machine.client().await?;
    assert!(TcpListener::bind(("127.0.0.1", port)).is_err());
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_are_made_used_and_removed_by_the_command_line() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    // Unique on the machine, because bridges must be.
    let number = std::process::id() % 100_000;
    let (name, subnet) = (format!("e2e{number}"), format!("10.197.{}.0/24", number % 250));
    let crisp = |lab: &Lab, args: &[&str]| -> Result<(bool, String)> {
        let output = lab.machine.crisp(args)?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    };
    assert_eq!(crisp(&lab, &["network", "create", &name, "--subnet", &subnet])?, (true, format!("{name}\n")));
    let (created_twice, error) = crisp(&lab, &["network", "create", &name])?;
    assert!(!created_twice && error.contains("exists: remove it first"), "{error}");

    let mut sandbox = request::pod(&lab.machine, "named");
    let networks = format!(r#"[{{"name":"{name}","interface":"eth0","aliases":["database"]}}]"#);
    sandbox.annotations.insert("crisp/networks".into(), networks);
    let port = free_port()?;
    sandbox.port_mappings =
        vec![PortMapping { container_port: 80, host_port: port.into(), ..Default::default() }];
    let pod = lab.client.run_pod(&sandbox).await?;
    let serve = "mkdir /w; echo by name > /w/index.html; exec httpd -f -p 80 -h /w";
    lab.client.launch(&pod, &lab.shell(serve), &sandbox).await?;
    // A pod without resolver settings uses the network's gateway.
    let mut visitor = request::pod(&lab.machine, "visitor");
    visitor.annotations.insert("crisp/networks".into(), format!("{name}@eth0"));
    visitor.dns_config = None;
    let visitor_pod = lab.client.run_pod(&visitor).await?;
    let visit = "for i in 1 2 3 4 5 6 7 8 9; do wget -q -O - http://database/ && break; sleep 0.1; done; wget -q -O - http://named/";
    let id = lab.client.launch(&visitor_pod, &lab.shell(visit), &visitor).await?;
    lab.client.wait(&id).await?;
    assert_eq!(lab.machine.container_log("visitor", "main")?, "by name\nby name\n");

    let (_, listed) = crisp(&lab, &["network", "ls"])?;
    let line = listed.lines().find(|line| line.starts_with(&name)).ok_or(listed.clone())?;
    assert!(line.contains(&subnet) && line.contains("built-in") && line.contains("   2   "), "{listed}");
    assert!(listed.lines().any(|line| line.starts_with("default") && line.contains("first")), "{listed}");
    let (_, inspected) = crisp(&lab, &["network", "inspect", &name])?;
    assert!(inspected.contains(&format!("\"podSandboxId\": \"{pod}\"")), "{inspected}");
    assert_eq!(crisp(&lab, &["port", "named"])?, (true, format!("80/tcp -> 0.0.0.0:{port}\n")));
    let (removed, error) = crisp(&lab, &["network", "rm", &name])?;
    assert!(!removed && error.contains("is in use by pod") && error.contains("/named ("), "{error}");

    let joiner = lab.client.run_pod(&request::pod(&lab.machine, "joiner")).await?;
    let address = subnet.replace(".0/24", ".77");
    let (joined, text) = crisp(&lab, &["network", "connect", &name, "joiner", "--ip", &address])?;
    assert!(joined && text.starts_with(&format!("net1 {address} ")), "{text}");
    assert!(crisp(&lab, &["network", "inspect", &name])?.1.contains(&joiner));
    assert_eq!(crisp(&lab, &["network", "disconnect", &name, "joiner"])?, (true, String::new()));
    let (left_twice, error) = crisp(&lab, &["network", "disconnect", &name, "joiner"])?;
    assert!(!left_twice && error.contains("the pod is not in it"), "{error}");

    for pod in [&pod, &visitor_pod, &joiner] {
        lab.client.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod.clone() }).await?;
        let request = RemovePodSandboxRequest { pod_sandbox_id: pod.clone() };
        lab.client.runtime.remove_pod_sandbox(request).await?;
    }
    let (quiet, names) = crisp(&lab, &["network", "ls", "-q", "--filter", "type=custom", "--no-trunc"])?;
    assert_eq!((quiet, names), (true, format!("{name}\n")));
    let (_, rows) = crisp(&lab, &["network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Pods}}"])?;
    assert_eq!(rows, format!("default bridge 0\n{name} bridge 0\nhost host 0\nnone null 0\n"));
    let (_, shown) = crisp(&lab, &["network", "inspect", &name, "none", "-f", "{{.name}} {{len .members}}"])?;
    assert_eq!(shown, format!("{name} 0\nnone 0\n"));
    let (removed, error) = crisp(&lab, &["network", "rm", "host"])?;
    assert!(!removed && error.contains("network host cannot be removed"), "{error}");
    let (pruned, error) = crisp(&lab, &["network", "prune"])?;
    assert!(!pruned && error.contains("this removes all created networks that have no pods"), "{error}");
    assert_eq!(crisp(&lab, &["network", "prune", "-f"])?, (true, format!("{name}\n")));
    assert!(!Path::new(&format!("/sys/class/net/cr-{name}")).exists());
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_joins_a_network_with_the_interface_addresses_and_names_that_are_asked_for() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start().await?;
    let number = std::process::id() % 100_000;
    let (name, subnet) = (format!("e2j{number}"), format!("10.196.{}.0/24", number % 250));
    let crisp = |lab: &Lab, args: &[&str]| -> Result<String> {
        let output = lab.machine.crisp(args)?;
        let text = String::from_utf8([output.stdout, output.stderr].concat())?;
        if output.status.success() { Ok(text) } else { Err(format!("{args:?}: {text}").into()) }
    };
    crisp(&lab, &["network", "create", &name, "--subnet", &subnet])?;
    let mut sandbox = request::pod(&lab.machine, "late");
    let networks = r#"[{"name":"default","interface":"eth0","aliases":["cache"]}]"#;
    sandbox.annotations.insert("crisp/networks".into(), networks.into());
    let pod = lab.client.run_pod(&sandbox).await?;
    let serve = "mkdir /w; echo reached > /w/index.html; exec httpd -f -p 80 -h /w";
    lab.client.launch(&pod, &lab.shell(serve), &sandbox).await?;
    let address = subnet.replace(".0/24", ".77");
    let wanted = ["--interface", "lan7", "--mac", "02:00:00:00:00:77", "--ip", &address];
    let names = ["--alias", "database", "--alias", "db"];
    crisp(&lab, &[&["network", "connect", &name, "late"][..], &wanted, &names].concat())?;
    let look = "cat /sys/class/net/lan7/address; ip -4 -o addr show lan7 | grep -o '[0-9.]*/24'";
    let seen = crisp(&lab, &["exec", "main", "sh", "-c", look])?;
    assert_eq!(seen, format!("02:00:00:00:00:77\n{address}/24\n"));
    // From the network that it joined, and from the first one.
    for (visitor, on, names) in
        [("there", Some(format!("{name}@eth0")), "database db late"), ("here", None, "cache late")]
    {
        let mut sandbox = request::pod(&lab.machine, visitor);
        sandbox.dns_config = None;
        sandbox.annotations.extend(on.map(|on| ("crisp/networks".to_owned(), on)));
        let pod = lab.client.run_pod(&sandbox).await?;
        let line = format!(
            "for name in {names}; do for i in $(seq 50); do wget -q -O - http://$name/ && break; sleep 0.1; done; done"
        );
        let id = lab.client.launch(&pod, &lab.shell(&line), &sandbox).await?;
        lab.client.wait(&id).await?;
        let expected = "reached\n".repeat(names.split(' ').count());
        assert_eq!(lab.machine.container_log(visitor, "main")?, expected, "{visitor}");
        lab.client.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod }).await?;
    }
    lab.client.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod }).await?;
    crisp(&lab, &["network", "rm", &name])?;
    lab.close().await
}

fn pod_cidr(cidr: &str) -> UpdateRuntimeConfigRequest {
    let network_config = Some(NetworkConfig { pod_cidr: cidr.to_owned() });
    UpdateRuntimeConfigRequest { runtime_config: Some(RuntimeConfig { network_config }) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_pod_cidr_is_taken_for_pods_by_this_and_later_servers() -> Result<()> {
    needs!("docker-registry", "busybox");
    let mut lab = Lab::start_with(Setup { pool: Some("auto".into()), ..Default::default() }).await?;
    let number = std::process::id() % 250;
    lab.client.runtime.update_runtime_config(pod_cidr("")).await?;
    lab.client.runtime.update_runtime_config(pod_cidr(&format!("10.198.{number}.0/24"))).await?;
    for name in ["before", "after"] {
        let pod = lab.client.run_pod(&request::pod(&lab.machine, name)).await?;
        let (ip, _) = addresses(&mut lab, &pod).await?;
        assert!(ip.starts_with(&format!("10.198.{number}.")), "{name}: {ip}");
        lab.machine.kill_server();
        lab.machine.start_server().await?;
        lab.client = lab.machine.client().await?;
    }
    let refused = lab.client.runtime.update_runtime_config(pod_cidr("10.198.0.1/24")).await;
    let refused = refused.expect_err("it has host bits");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    says(&refused, &["network_config.pod_cidr", "10.198.0.0/24 is meant"]);
    lab.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_overlaps_a_host_route_is_refused() -> Result<()> {
    needs!("ip");
    let setup = Setup { pool: Some("127.0.0.0/16".into()), no_registry: true, ..Default::default() };
    let machine = Machine::start_with(setup).await?;
    let mut client = machine.client().await?;
    let status = client
        .runtime
        .status(StatusRequest { verbose: false })
        .await?
        .into_inner()
        .status
        .ok_or("no status")?;
    let network = status.conditions.iter().find(|c| c.r#type == "NetworkReady").ok_or("no NetworkReady")?;
    assert!(!network.status && network.message.contains("127.0.0.0/16"), "{network:?}");
    machine.close().await
}
