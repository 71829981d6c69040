//! `crisp port`: shows the published ports of a pod.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use crisp_proto::runtime::v1::PodSandboxStatusRequest;
use serde_json::Value;

use super::Client;
use super::client::refused;
use super::names::Names;

/// Show the host addresses of a pod's published ports
#[derive(Debug, clap::Args)]
pub struct Port {
    /// Pod, as an id, the beginning of an id, or a name
    pod: String,
    /// Only this port of the pod, as 80 or 53/udp
    port: Option<String>,
}

impl Port {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let pod = Names::load(&mut client).await?.pod(&self.pod)?.id.clone();
        let request = PodSandboxStatusRequest { pod_sandbox_id: pod, verbose: true };
        let status = client.runtime.pod_sandbox_status(request).await.map_err(refused)?.into_inner();
        let info: Value =
            status.info.get("info").map_or(Ok(Value::Null), |info| serde_json::from_str(info))?;
        let lines = lines(&info["config"]["port_mappings"], self.port.as_deref());
        if lines.is_empty()
            && let Some(port) = &self.port
        {
            bail!("port {port} of {} is not published", self.pod);
        }
        for line in lines {
            writeln!(std::io::stdout(), "{line}")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The published ports in the free-form part of a pod's status: `0.0.0.0:8080->80/tcp`.
pub fn published(info: &Value) -> Vec<String> {
    let lines = lines(&info["config"]["port_mappings"], None);
    let turned = lines.iter().filter_map(|line| line.split_once(" -> "));
    turned.map(|(port, host)| format!("{}->{port}", host.replace('*', "0.0.0.0"))).collect()
}

/// `80/tcp -> 0.0.0.0:8080`, for each published port.
fn lines(mappings: &Value, wanted: Option<&str>) -> Vec<String> {
    let line = |mapping: &Value| {
        let number = |name: &str| mapping[name].as_u64().filter(|port| *port != 0);
        let port = format!("{}/{}", number("container_port")?, mapping["protocol"].as_str()?);
        let wanted = wanted
            .map(|wanted| if wanted.contains('/') { wanted.to_owned() } else { format!("{wanted}/tcp") });
        if wanted.is_some_and(|wanted| wanted != port) {
            return None;
        }
        let host = match mapping["host_ip"].as_str() {
            None => "*".to_owned(),
            Some(ip) if ip.contains(':') => format!("[{ip}]"),
            Some(ip) => ip.to_owned(),
        };
        Some(format!("{port} -> {host}:{}", number("host_port")?))
    };
    mappings.as_array().into_iter().flatten().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn published_ports_are_shown_and_others_are_not() {
        let mappings = json!([
            {"protocol": "tcp", "container_port": 80, "host_port": 8080},
            {"protocol": "udp", "container_port": 53, "host_port": 53, "host_ip": "::1"},
            {"protocol": "tcp", "container_port": 81, "host_port": 0},
        ]);
        assert_eq!(lines(&mappings, None), ["80/tcp -> *:8080", "53/udp -> [::1]:53"]);
        let info = json!({"config": {"port_mappings": mappings.clone()}});
        assert_eq!(published(&info), ["0.0.0.0:8080->80/tcp", "[::1]:53->53/udp"]);
        assert_eq!(lines(&mappings, Some("53/udp")), ["53/udp -> [::1]:53"]);
        assert_eq!(lines(&mappings, Some("80")), ["80/tcp -> *:8080"]);
        assert_eq!(lines(&mappings, Some("53")), [""; 0]);
        assert_eq!(lines(&Value::Null, None), [""; 0]);
    }
}
