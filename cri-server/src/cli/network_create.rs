//! `crisp network create`.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use crisp_proto::crisp::v1::CreateNetworkRequest;

use super::Client;
use super::client::refused;
use crate::run::image::variables;

/// Make a network: its own bridge, isolated from other networks
#[derive(Debug, clap::Args)]
pub struct Create {
    /// A letter or digit, then letters, digits, '.', '_' and '-'
    name: String,
    /// Address pool in CIDR form, one for IPv4 and one for IPv6 at most [default: free ones]
    #[arg(long = "subnet", value_name = "CIDR")]
    subnets: Vec<String>,
    /// Address of the bridge; needs --subnet [default: the first of the subnet]
    #[arg(long, value_name = "IP", default_value = "", hide_default_value = true)]
    gateway: String,
    /// Part of the subnet for pods that ask for no address; needs --subnet
    #[arg(long, value_name = "CIDR", default_value = "", hide_default_value = true)]
    ip_range: String,
    /// Address that no pod gets, as IP or NAME=IP; needs --subnet
    #[arg(long = "aux-address", value_name = "IP")]
    aux_addresses: Vec<String>,
    /// Label, as KEY=VALUE
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Kind of the network; there is one
    #[arg(long, short, value_parser = ["bridge"], default_value = "bridge", hide_default_value = true)]
    driver: String,
    /// Option in docker's form: mtu=1400, com.docker.network.bridge.enable_icc=false and others
    #[arg(long = "opt", short, value_name = "KEY=VALUE")]
    options: Vec<String>,
    /// Assign IPv6 addresses where the host has IPv6, as without this option
    #[arg(long, conflicts_with = "no_ipv6")]
    ipv6: bool,
    /// Do not assign IPv6 addresses
    #[arg(long)]
    no_ipv6: bool,
    /// MTU of the pods' interfaces [default: that of the route out, at most 1500]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    mtu: u32,
    /// No route to the outside, and no published ports
    #[arg(long)]
    internal: bool,
    /// Destinations that pods reach with their own address, because these have a route back to the pods; repeat
    /// it or put commas between
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    masquerade_except: Vec<String>,
    /// Block traffic between pods of the network; with br_netfilter, published ports are blocked too
    #[arg(long)]
    no_icc: bool,
}

impl Create {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let request = self.request()?;
        let name = request.name.clone();
        client.networks.create_network(request).await.map_err(refused)?;
        writeln!(std::io::stdout(), "{name}")?;
        Ok(ExitCode::SUCCESS)
    }

    fn request(self) -> anyhow::Result<CreateNetworkRequest> {
        let address = |text: String| text.rsplit('=').next().unwrap_or_default().to_owned();
        let mut request = CreateNetworkRequest {
            labels: variables::pairs("--label", &[], &self.labels)?,
            name: self.name,
            subnets: self.subnets,
            no_ipv6: self.no_ipv6,
            mtu: self.mtu,
            internal: self.internal,
            no_icc: self.no_icc,
            masquerade_except: self.masquerade_except,
            gateway: self.gateway,
            ip_range: self.ip_range,
            aux_addresses: self.aux_addresses.into_iter().map(address).collect(),
        };
        self.options.iter().try_for_each(|option| set(&mut request, option))?;
        Ok(request)
    }
}

/// Options of docker's driver. An option without effect here is refused.
fn set(request: &mut CreateNetworkRequest, option: &str) -> anyhow::Result<()> {
    let (key, value) = option.split_once('=').unwrap_or((option, ""));
    match (key, value) {
        ("mtu" | "com.docker.network.driver.mtu", mtu) => match mtu.parse() {
            Ok(mtu) => request.mtu = mtu,
            Err(_) => bail!("--opt {option}: {mtu:?} is no MTU"),
        },
        ("icc" | "com.docker.network.bridge.enable_icc", "false") => request.no_icc = true,
        (
            "icc" | "com.docker.network.bridge.enable_icc" | "com.docker.network.bridge.enable_ip_masquerade",
            "true",
        ) => {}
        ("com.docker.network.bridge.name", _) => bail!("--opt {option}: the bridge is called cr-NAME"),
        ("com.docker.network.bridge.enable_ip_masquerade", _) => {
            bail!("--opt {option}: --masquerade-except names the destinations that see a pod's own address")
        }
        _ => bail!("--opt {option}: not supported: mtu, icc and docker's names for them are"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_options_are_understood_or_refused() {
        let mut request = CreateNetworkRequest::default();
        for option in ["com.docker.network.driver.mtu=1400", "icc=false"] {
            set(&mut request, option).unwrap();
        }
        assert_eq!((request.mtu, request.no_icc), (1400, true));
        for (option, word) in
            [("mtu=x", "no MTU"), ("isolate=true", "not supported"), ("icc=no", "not supported")]
        {
            let error = set(&mut request, option).unwrap_err().to_string();
            assert!(error.contains(option) && error.contains(word), "{error}");
        }
    }
}
