//! `crisp port`: shows the published ports of a container's pod.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use crisp_proto::runtime::v1::PodSandboxStatusRequest;
use serde_json::{Value, json};

use super::Client;
use super::client::refused;
use super::names::{Names, Target};

/// Show the host addresses of published ports
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp port web               # 80/tcp -> 0.0.0.0:8080
  crisp port web 80            # 0.0.0.0:8080")]
pub struct Port {
    /// Container or pod, as an id, the beginning of an id, or a name; the containers of a pod share its ports
    #[arg(value_name = "CONTAINER")]
    name: String,
    /// Only the addresses of this port, as 80 or 53/udp
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<String>,
}

impl Port {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let names = Names::load(&mut client).await?;
        let pod = match names.either(&self.name)? {
            Target::Container(container) => container.pod_sandbox_id.clone(),
            Target::Pod(pod) => pod.id.clone(),
        };
        let request = PodSandboxStatusRequest { pod_sandbox_id: pod, verbose: true };
        let status = client.runtime.pod_sandbox_status(request).await.map_err(refused)?.into_inner();
        let info: Value =
            status.info.get("info").map_or(Ok(Value::Null), |info| serde_json::from_str(info))?;
        let all = mappings(&info["config"]["port_mappings"]);
        let lines: Vec<String> = match &self.port {
            None => all.iter().map(|(port, host)| format!("{port} -> {host}")).collect(),
            Some(wanted) => of_port(&all, wanted),
        };
        if lines.is_empty()
            && let Some(port) = &self.port
        {
            bail!("port {port} of {} is not published", self.name);
        }
        for line in lines {
            writeln!(std::io::stdout(), "{line}")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The published ports in the free-form part of a pod's status: `0.0.0.0:8080->80/tcp`.
pub fn published(info: &Value) -> Vec<String> {
    let all = mappings(&info["config"]["port_mappings"]);
    all.iter().map(|(port, host)| format!("{host}->{port}")).collect()
}

/// The published ports as docker's inspect has them: `{"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}`; null for
/// a port that is only exposed.
pub fn bindings(info: &Value) -> Value {
    let mut ports = serde_json::Map::new();
    for mapping in info["config"]["port_mappings"].as_array().into_iter().flatten() {
        let Some(port) = container_port(mapping) else { continue };
        let entry = ports.entry(port).or_insert(Value::Null);
        let Some(number) = number(mapping, "host_port") else { continue };
        let ip = mapping["host_ip"].as_str().unwrap_or(ANY);
        let binding = json!({ "HostIp": ip, "HostPort": number.to_string() });
        match entry {
            Value::Array(bindings) => bindings.push(binding),
            entry => *entry = json!([binding]),
        }
    }
    ports.into()
}

/// The address of a port that is published at every one.
const ANY: &str = "0.0.0.0";

/// `80/tcp` and `0.0.0.0:8080`, for each published port.
fn mappings(mappings: &Value) -> Vec<(String, String)> {
    let mapping = |mapping: &Value| {
        let host = match mapping["host_ip"].as_str() {
            None => ANY.to_owned(),
            Some(ip) if ip.contains(':') => format!("[{ip}]"),
            Some(ip) => ip.to_owned(),
        };
        Some((container_port(mapping)?, format!("{host}:{}", number(mapping, "host_port")?)))
    };
    mappings.as_array().into_iter().flatten().filter_map(mapping).collect()
}

fn of_port(all: &[(String, String)], wanted: &str) -> Vec<String> {
    let wanted = if wanted.contains('/') { wanted.to_owned() } else { format!("{wanted}/tcp") };
    all.iter().filter(|(port, _)| *port == wanted).map(|(_, host)| host.clone()).collect()
}

fn container_port(mapping: &Value) -> Option<String> {
    Some(format!("{}/{}", number(mapping, "container_port")?, mapping["protocol"].as_str()?))
}

fn number(mapping: &Value, name: &str) -> Option<u64> {
    mapping[name].as_u64().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_ports_are_shown_and_others_are_not() {
        let given = json!([
            {"protocol": "tcp", "container_port": 80, "host_port": 8080},
            {"protocol": "udp", "container_port": 53, "host_port": 53, "host_ip": "::1"},
            {"protocol": "tcp", "container_port": 81, "host_port": 0},
        ]);
        let all = mappings(&given);
        let pair = |port: &str, host: &str| (port.to_owned(), host.to_owned());
        assert_eq!(all, [pair("80/tcp", "0.0.0.0:8080"), pair("53/udp", "[::1]:53")]);
        let info = json!({"config": {"port_mappings": given}});
        assert_eq!(published(&info), ["0.0.0.0:8080->80/tcp", "[::1]:53->53/udp"]);
        assert_eq!(of_port(&all, "53/udp"), ["[::1]:53"]);
        assert_eq!(of_port(&all, "80"), ["0.0.0.0:8080"]);
        assert_eq!(of_port(&all, "53"), [""; 0]);
        assert!(mappings(&Value::Null).is_empty());
        let shown = json!({
            "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}],
            "53/udp": [{"HostIp": "::1", "HostPort": "53"}],
            "81/tcp": null,
        });
        assert_eq!(bindings(&info), shown);
        assert_eq!(bindings(&Value::Null), json!({}));
    }
}
