//! `crisp network`: manages networks of pods.

use std::io::Write as _;
use std::process::ExitCode;

use crisp_proto::crisp::v1::{
    ConnectNetworkRequest, DisconnectNetworkRequest, PruneNetworksRequest, RemoveNetworkRequest,
};

use super::Client;
use super::client::refused;
use super::names::Names;
use super::network_create::Create;
use super::network_list::{Inspect, Ls};
use super::prune::Confirmation;
use crate::print;

/// Make, list and remove networks of pods
///
/// A pod gets networks by its annotation "crisp/networks": "lan" for an interface net1 beside eth0, "lan@eth0"
/// for eth0 itself; more in JSON, as [{"name": "lan", "interface": "eth0", "ips": ["10.1.2.7"]}].
#[derive(Debug, clap::Args)]
pub struct Network {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(Create),
    Ls(Ls),
    Inspect(Inspect),
    Rm(Rm),
    Prune(Prune),
    Connect(Connect),
    Disconnect(Disconnect),
}

/// Remove networks that have no pods
#[derive(Debug, clap::Args)]
struct Rm {
    #[arg(required = true)]
    names: Vec<String>,
}

/// Remove all created networks that have no pods
#[derive(Debug, clap::Args)]
struct Prune {
    #[command(flatten)]
    confirmation: Confirmation,
}

/// Join a running pod to one more built-in network
#[derive(Debug, clap::Args)]
struct Connect {
    network: String,
    /// Pod, as an id, the beginning of an id, or a name
    pod: String,
    /// Name of the interface in the pod [default: the first of net1, net2 and so on that it does not have]
    #[arg(long, default_value = "", hide_default_value = true)]
    interface: String,
    /// Address for the pod, at most one of each family
    #[arg(long = "ip", value_name = "IP")]
    ips: Vec<String>,
    /// Hardware address of the interface
    #[arg(long, default_value = "", hide_default_value = true)]
    mac: String,
    /// Name under which others on the network find the pod
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<String>,
}

/// Disconnect a running pod from a built-in network other than its first
#[derive(Debug, clap::Args)]
struct Disconnect {
    network: String,
    /// Pod, as an id, the beginning of an id, or a name
    pod: String,
}

impl Network {
    pub async fn run(self, client: Client) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Create(create) => create.run(client).await,
            Command::Ls(ls) => ls.run(client).await,
            Command::Inspect(inspect) => inspect.run(client).await,
            Command::Rm(rm) => rm.run(client).await,
            Command::Prune(prune) => prune.run(client).await,
            Command::Connect(connect) => connect.run(client).await,
            Command::Disconnect(disconnect) => disconnect.run(client).await,
        }
    }
}

impl Rm {
    async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let mut code = ExitCode::SUCCESS;
        for name in self.names {
            let removed = client.networks.remove_network(RemoveNetworkRequest { name: name.clone() }).await;
            match removed.map_err(refused) {
                // The work goes on when the reader of the output has left.
                Ok(_) => print::best_effort(&name),
                Err(error) => {
                    print::warning(format_args!("crisp: {error:#}"));
                    code = ExitCode::FAILURE;
                }
            }
        }
        Ok(code)
    }
}

impl Prune {
    async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        self.confirmation.confirm("all created networks that have no pods")?;
        let pruned = client.networks.prune_networks(PruneNetworksRequest {}).await.map_err(refused)?;
        for name in pruned.into_inner().names {
            writeln!(std::io::stdout(), "{name}")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Connect {
    /// Prints the interface and its addresses.
    async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let Self { network: name, pod, interface, ips, mac, aliases } = self;
        let pod_sandbox_id = Names::load(&mut client).await?.pod(&pod)?.id.clone();
        let request = ConnectNetworkRequest { name, pod_sandbox_id, interface, ips, mac, aliases };
        let connected = client.networks.connect_network(request).await.map_err(refused)?.into_inner();
        let member = connected.member.unwrap_or_default();
        writeln!(std::io::stdout(), "{} {}", member.interface, member.ips.join(" "))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Disconnect {
    async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let pod_sandbox_id = Names::load(&mut client).await?.pod(&self.pod)?.id.clone();
        let request = DisconnectNetworkRequest { name: self.network, pod_sandbox_id };
        client.networks.disconnect_network(request).await.map_err(refused)?;
        Ok(ExitCode::SUCCESS)
    }
}
