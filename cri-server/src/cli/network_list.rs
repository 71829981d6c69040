//! `crisp network ls` and `crisp network inspect`.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use crisp_proto::crisp::v1::{ListNetworksRequest, Network};
use serde_json::{Value, json};

use super::client::refused;
use super::filter::{Filters, name_matches};
use super::listing::{Format, RowFormat};
use super::template::Template;
use super::{Client, json};
use crate::table::Table;
use crate::time::shown;

const FILTERS: [&str; 5] = ["name", "driver", "type", "dangling", "label"];
/// Values of --network that are not a network of the server, with docker's names of their drivers.
const WITHOUT_NETWORK: [(&str, &str); 2] = [("host", "host"), ("none", "null")];

/// List networks: created ones, that of the settings, CNI configurations, and host and none
#[derive(Debug, clap::Args)]
pub struct Ls {
    /// Print only names
    #[arg(long, short)]
    quiet: bool,
    /// Only networks with a name, `name=TEXT`, `driver=bridge`, cni, host or null, `type=custom` or builtin,
    /// or without pods, `dangling=true`
    #[arg(long, short, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// `table`, `json`, or a template with Name, ID, Driver, Scope, Internal, IPv6, CreatedAt, Subnets, Pods,
    /// Options, Bridge, File
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "output")]
    format: Option<String>,
    /// Accepted for scripts: a network has no id but its name, which is never cut
    #[arg(long)]
    no_trunc: bool,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Show networks and the pods in them, as JSON
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// A template, as '{{.subnets}}'
    #[arg(long, short, value_name = "TEMPLATE")]
    format: Option<String>,
    #[arg(required = true)]
    names: Vec<String>,
}

impl Ls {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let format = RowFormat::parse(self.format.as_deref())?;
        let filters = Filters::parse(&self.filter, &FILTERS)?;
        filters.check("type", &["custom", "builtin"])?;
        filters.check("dangling", &["true", "false"])?;
        let networks = list(&mut client).await?;
        let networks: Vec<&Network> = networks.iter().filter(|network| is_meant(&filters, network)).collect();
        if self.quiet {
            networks.iter().try_for_each(|network| writeln!(std::io::stdout(), "{}", network.name))?;
        } else if !self.output.print(|| json::list(networks.iter().copied()))? {
            let rows: Vec<Value> = networks.iter().map(|network| row(network)).collect();
            format.print(&rows, || table(&networks))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Inspect {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let template = self.format.as_deref().map(Template::parse).transpose()?;
        let networks = list(&mut client).await?;
        let mut found = Vec::new();
        for name in &self.names {
            match networks.iter().find(|network| network.name == *name) {
                Some(network) => found.push(network),
                None => bail!("there is no network {name}"),
            }
        }
        let documents = json::list(found)?;
        let Some(template) = template else {
            json::print(&documents)?;
            return Ok(ExitCode::SUCCESS);
        };
        for document in documents.as_array().into_iter().flatten() {
            writeln!(std::io::stdout(), "{}", template.render(document)?)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Those of the server, then host and none.
async fn list(client: &mut Client) -> anyhow::Result<Vec<Network>> {
    let listed = client.networks.list_networks(ListNetworksRequest {}).await.map_err(refused)?;
    let mut networks = listed.into_inner().networks;
    for (name, _) in WITHOUT_NETWORK {
        networks.push(Network { name: name.to_owned(), ..Network::default() });
    }
    Ok(networks)
}

/// In docker's words.
fn driver(network: &Network) -> &'static str {
    match (network.bridge.is_empty(), network.file.is_empty()) {
        (false, _) => "bridge",
        (true, false) => "cni",
        (true, true) => WITHOUT_NETWORK.iter().find(|(name, _)| *name == network.name).map_or("", |(_, d)| d),
    }
}

/// Whether it was made by `crisp network create`, which records the time.
fn is_custom(network: &Network) -> bool {
    network.created_at != 0
}

fn is_meant(filters: &Filters, network: &Network) -> bool {
    let is_dangling = is_custom(network) && network.members.is_empty();
    filters.any("name", |wanted| name_matches(&network.name, wanted))
        && filters.any("driver", |wanted| wanted == driver(network))
        && filters.any("type", |wanted| (wanted == "custom") == is_custom(network))
        && filters.labels(|key| network.labels.get(key))
        && filters.any("dangling", |wanted| (wanted == "true") == is_dangling)
}

fn row(network: &Network) -> Value {
    json!({
        "Name": network.name,
        "ID": network.name,
        "Driver": driver(network),
        "Scope": "local",
        "Internal": network.internal,
        "IPv6": network.subnets.iter().any(|subnet| subnet.contains(':')),
        "CreatedAt": if is_custom(network) { shown(network.created_at) } else { String::new() },
        "Subnets": network.subnets,
        "Pods": network.members.len(),
        "Options": options(network),
        "Labels": network.labels,
        "Bridge": network.bridge,
        "File": network.file,
    })
}

fn table(networks: &[&Network]) -> Table {
    let mut table = Table::new(&["NAME", "KIND", "SUBNETS", "PODS", "OPTIONS", "FROM"]);
    for network in networks {
        let (kind, from) = match driver(network) {
            "bridge" => ("built-in", &network.bridge),
            "cni" => ("cni", &network.file),
            _ => ("-", &network.file),
        };
        table.row(vec![
            network.name.clone(),
            kind.to_owned(),
            network.subnets.join(","),
            // The server does not count pods that are in no network.
            if kind == "-" { kind.to_owned() } else { network.members.len().to_string() },
            options(network),
            from.clone(),
        ]);
    }
    table
}

fn options(network: &Network) -> String {
    let mtu = format!("mtu={}", network.mtu);
    let except = format!("masquerade-except={}", network.masquerade_except.join("+"));
    let gateway = format!("gateway={}", network.gateway);
    let range = format!("ip-range={}", network.ip_range);
    let options = [
        (network.is_first, "first"),
        (network.internal, "internal"),
        (network.no_icc, "no-icc"),
        (network.mtu != 0, mtu.as_str()),
        (!network.masquerade_except.is_empty(), except.as_str()),
        (!network.gateway.is_empty(), gateway.as_str()),
        (!network.ip_range.is_empty(), range.as_str()),
    ];
    let set: Vec<&str> = options.into_iter().filter(|(set, _)| *set).map(|(_, option)| option).collect();
    set.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_choose_as_in_docker() {
        let network = |name: &str, bridge: &str, created_at| Network {
            name: name.to_owned(),
            bridge: bridge.to_owned(),
            created_at,
            ..Network::default()
        };
        let all = [
            network("default", "crisp0", 0),
            network("lan", "cr-lan", 7),
            Network { file: "/etc/cni/net.d/10.conflist".to_owned(), ..network("flannel", "", 0) },
            network("host", "", 0),
            network("none", "", 0),
        ];
        for (filter, names) in [
            ("name=a", &["default", "lan", "flannel"][..]),
            ("name=^lan$", &["lan"]),
            ("driver=bridge", &["default", "lan"]),
            ("driver=null", &["none"]),
            ("driver=cni", &["flannel"]),
            ("type=custom", &["lan"]),
            ("type=builtin", &["default", "flannel", "host", "none"]),
            ("dangling=true", &["lan"]),
        ] {
            let filters = Filters::parse(&[filter.to_owned()], &FILTERS).unwrap();
            let chosen = all.iter().filter(|network| is_meant(&filters, network));
            assert_eq!(chosen.map(|network| network.name.as_str()).collect::<Vec<_>>(), names, "{filter}");
        }
    }
}
