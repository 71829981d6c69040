//! `crisp run`: the command itself, its signals and its exit code.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::embedded::Embedded;
use super::stop_request::StopRequests;
use super::{manifest, pod_run};
use crate::config::{RawSettings, Settings};

/// Run a Kubernetes Pod manifest here and now, without a kubelet and without a server
///
/// Pulls the images, starts the pod, shows its containers' logs, and takes everything down when all
/// containers have ended or on Ctrl-C (a second Ctrl-C kills). The exit code is that of the first container
/// that failed; 125 is a failure of crisp itself, 130 and 143 are Ctrl-C and SIGTERM.
///
/// It needs no server and does not disturb one: unless --root and --state are set, it keeps images in
/// /var/lib/crisp-run and uses a bridge of its own. What the configuration file says of folders, addresses
/// and the pod network is for the server alone: here these settings are flags. A second `crisp run` at the
/// same time gets folders that are removed when it ends.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// Only check the manifest
    #[arg(long)]
    check: bool,
    /// Kubernetes v1 Pod in YAML or JSON; - is standard input
    #[arg(value_name = "POD.yaml")]
    manifest: PathBuf,
    #[command(flatten)]
    pub settings: RawSettings,
}

/// Runs the manifest to its end.
pub fn run(command: Run, settings: Settings) -> anyhow::Result<ExitCode> {
    let pod = manifest::read(&command.manifest)?;
    if command.check {
        println!("{} can be run", command.manifest.display());
        return Ok(ExitCode::SUCCESS);
    }
    let mut settings = settings;
    settings.log_level.set_default("warn".to_owned());
    tracing_subscriber::fmt()
        .with_env_filter(settings.log_level.value.as_str())
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // To standard error as well, with a panic when that is closed.
        .log_internal_errors(false)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let code = runtime.block_on(async {
        let stop = stop_on_signals()?;
        let embedded = Embedded::open(settings).await?;
        let code = pod_run::run(Arc::clone(&embedded.server), pod, &embedded.folder(), stop).await;
        embedded.close().await;
        code
    });
    runtime.shutdown_background();
    Ok(ExitCode::from(code?))
}

/// Ctrl-C, SIGTERM and a closed terminal as stop requests; the second one kills.
fn stop_on_signals() -> anyhow::Result<StopRequests> {
    let requests = StopRequests::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let sender = requests.clone();
    tokio::spawn(async move {
        loop {
            let code = tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
                _ = hang_up.recv() => 129,
            };
            sender.signal(code);
        }
    });
    Ok(requests)
}
