//! Pods that a running server supervises: `crisp run -d`, `crisp up`, `crisp down`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use crisp_proto::crisp::v1::standalone_client::StandaloneClient;
use crisp_proto::crisp::v1::{
    ListStandaloneRequest, RunManifestsRequest, StandaloneEvent, StandalonePod, TakeDownRequest,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use super::manifest::{self, Manifests, PodDocument};
use super::report::notice;
use crate::cli::client::{MAX_REPLY, reach};
use crate::cli::endpoint;
use crate::config::{ListenAddress, Settings};
use crate::print;
use crate::rpc_error::refused;
use crate::table::{Table, without_control};

/// Run Kubernetes manifests under the server, which supervises them
///
/// The same as `crisp run -d`: the server keeps the pods, restarts their containers by policy, probes them,
/// and continues after its own restart and that of the machine. Without a file, lists the supervised pods. A
/// server that a kubelet uses accepts no manifests: a kubelet removes pods that it does not know.
#[derive(Debug, clap::Args)]
pub struct Up {
    /// First remove pods with the same names
    #[arg(long)]
    replace: bool,
    /// Only check the manifests
    #[arg(long)]
    dry_run: bool,
    /// Kubernetes manifests in YAML or JSON: a file, a folder, or - for standard input
    #[arg(value_name = "POD.yaml")]
    manifest: Option<PathBuf>,
}

/// Stop and remove pods that the server supervises
///
/// Volumes of PersistentVolumeClaims are kept.
#[derive(Debug, clap::Args)]
pub struct Down {
    /// Kill at once, without the grace period
    #[arg(long, short = 'f')]
    force: bool,
    /// Manifests (a file, a folder, or -), or names of pods
    #[arg(value_name = "POD.yaml|NAME", required = true)]
    what: Vec<String>,
}

impl Up {
    /// Runs the command.
    ///
    /// # Errors
    /// There is no server, or it refuses.
    pub fn run(&self, settings: &Settings) -> anyhow::Result<ExitCode> {
        match &self.manifest {
            None => block_on(list(&endpoint::choose(settings)?)),
            Some(path) => up(path, settings, self.replace, self.dry_run),
        }
    }
}

/// Sends the manifests to the server, and shows events until all pods are up.
///
/// # Errors
/// A manifest is refused, or there is no server, or the server refuses.
pub fn up(path: &Path, settings: &Settings, replace: bool, is_dry: bool) -> anyhow::Result<ExitCode> {
    let manifests = manifest::read(path)?;
    if !manifests.without_effect.is_empty() {
        notice(format_args!("without effect here: {}", manifests.without_effect.join(", ")));
    }
    if is_dry {
        return print_plan(&manifests);
    }
    let request = RunManifestsRequest {
        source: source(path),
        documents: manifests.all_documents().map(ToString::to_string).collect(),
        replace,
        create_only: false,
    };
    block_on(async {
        let mut client = connect(&endpoint::choose(settings)?).await?;
        let events = client.run_manifests(request).await.map_err(unknown)?;
        show(events.into_inner()).await
    })
}

/// Prints the pods that would be run.
fn print_plan(manifests: &Manifests) -> anyhow::Result<ExitCode> {
    for document in &manifests.pods {
        let pod = &document.pod;
        let names: Vec<_> = pod.all_containers().map(|container| container.name.as_str()).collect();
        print::line(format_args!("{}/{}: {}", pod.namespace, pod.name, names.join(", ")))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Down {
    /// Runs the command.
    ///
    /// # Errors
    /// There is no server, a name is unknown, or a manifest cannot be read.
    pub fn run(&self, settings: &Settings) -> anyhow::Result<ExitCode> {
        block_on(async {
            let mut client = connect(&endpoint::choose(settings)?).await?;
            let listed = client.list_standalone(ListStandaloneRequest {}).await.map_err(unknown)?;
            let names = self.names(&listed.into_inner().pods)?;
            let request =
                TakeDownRequest { names: names.into_iter().collect(), kill: self.force, at_rest_only: false };
            let events = client.take_down(request).await.map_err(unknown)?;
            show(events.into_inner()).await
        })
    }

    /// The chosen pods among the existing ones. A file with a pod's name is not read.
    fn names(&self, listed: &[StandalonePod]) -> anyhow::Result<BTreeSet<String>> {
        let key = |pod: &StandalonePod| format!("{}/{}", pod.namespace, pod.name);
        let mut names = BTreeSet::new();
        for what in &self.what {
            let path = PathBuf::from(what);
            let is_name = listed.iter().any(|pod| [&pod.name, &pod.uid, &key(pod)].contains(&what));
            if is_name || !(what == "-" || path.exists()) {
                names.insert(what.clone());
                continue;
            }
            let source = source(&path);
            for PodDocument { pod, .. } in manifest::read(&path)?.pods {
                let is_of_it = |there: &&StandalonePod| {
                    let random = pod.name_prefix.as_ref();
                    there.namespace == pod.namespace
                        && there.source == source
                        && random.is_some_and(|prefix| there.name.starts_with(prefix))
                };
                let generated: Vec<_> = listed.iter().filter(is_of_it).map(key).collect();
                let own = format!("{}/{}", pod.namespace, pod.name);
                names.extend(if generated.is_empty() { vec![own] } else { generated });
            }
        }
        Ok(names)
    }
}

/// The origin of manifests, for people.
fn source(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// Runs a future that talks to a server.
///
/// # Errors
/// The error of `work`.
pub fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start")?.block_on(work)
}

/// The service of standalone pods.
///
/// # Errors
/// No server listens there.
pub async fn connect(listen: &ListenAddress) -> anyhow::Result<StandaloneClient<Channel>> {
    // The library's own error says no more than "transport error".
    reach(listen.path()).await.with_context(|| {
        format!(
            "no server answers at {listen}: start one with `crisp serve --network built-in` (--listen names another), or run in the foreground, without -d"
        )
    })?;
    let channel = Endpoint::from_shared(listen.to_string())?.connect().await;
    let channel = channel.with_context(|| format!("cannot speak gRPC to {listen}"))?;
    Ok(StandaloneClient::new(channel).max_decoding_message_size(MAX_REPLY))
}

/// The error of a refused request, also for a server without this service.
pub fn unknown(status: Status) -> anyhow::Error {
    if status.code() == Code::Unimplemented {
        return anyhow::anyhow!(
            "the server supervises no pods: is it older than this program, or not Crisp?"
        );
    }
    refused(status)
}

async fn show(mut events: Streaming<StandaloneEvent>) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    while let Some(StandaloneEvent { pod, text, is_failure, .. }) = events.message().await.map_err(refused)? {
        // A container chooses a part of it.
        notice(without_control(&format!("{pod}: {text}")));
        if is_failure {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

async fn list(listen: &ListenAddress) -> anyhow::Result<ExitCode> {
    let reply = connect(listen).await?.list_standalone(ListStandaloneRequest {}).await.map_err(unknown)?;
    let mut table = Table::new(&["NAMESPACE", "NAME", "STATE", "READY", "RESTARTS", "FROM"]);
    for pod in reply.into_inner().pods {
        let state = match pod.exit_code {
            0 => pod.state,
            code => format!("{} ({code})", pod.state),
        };
        let ready = format!("{}/{}", pod.ready, pod.containers);
        table.row(vec![pod.namespace, pod.name, state, ready, pod.restarts.to_string(), pod.source]);
    }
    table.write(&mut std::io::stdout().lock())?;
    Ok(ExitCode::SUCCESS)
}
