//! `crisp serve`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use crisp_metrics::trace::{TraceConfig, Tracing};
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

use super::log_service::LogService;
use super::reload::{ConfigOrigin, Reload};
use super::socket_group::SocketGroup;
use super::{Server, folder, memory, metrics_access, notify, oom_score, socket};
use crate::config::{NetworkFlag, RawSettings, Settings};
use crate::logging;
use crate::run::supervise::{StandaloneService, Supervisor};

/// The server mostly waits: more threads would only cost memory.
const WORKERS: usize = 2;
/// Time limit for pulls under way when the server stops.
const PULLS_END: Duration = Duration::from_secs(3);

/// Serve the CRI on a unix socket
#[derive(Debug, clap::Args)]
pub struct Serve {
    #[command(flatten)]
    pub settings: RawSettings,
    #[command(flatten)]
    pub network: NetworkFlag,
}

/// Serves until SIGTERM or SIGINT. The pods keep running. SIGHUP reloads the configuration.
///
/// # Errors
/// The server cannot start, or its socket fails.
pub fn run(settings: &Settings, origin: ConfigOrigin) -> anyhow::Result<ExitCode> {
    let log = logging::start(settings)?;
    let log_service = LogService(log.level.clone());
    let reload = Reload { origin, in_force: settings.clone(), log_level: log.level.clone() };
    crisp_executor::give_large_buffers_back();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let served = runtime.block_on(serve(settings, reload, log_service));
    // A thread that hangs in a dead file system must not keep the server from ending.
    runtime.shutdown_background();
    served.map(|()| ExitCode::SUCCESS)
}

async fn serve(settings: &Settings, reload: Reload, log: LogService) -> anyhow::Result<()> {
    // Before anything else, so that a signal during the start does not kill the server halfway.
    let hangups = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    oom_score::protect();
    // In its own task: a disk that does not answer must not delay signals.
    let owned = settings.clone();
    let opening = tokio::spawn(async move { Server::open(&owned).await });
    let server = tokio::select! {
        opened = opening => Arc::new(opened.context("cannot open the server")??),
        _ = terminate.recv() => return stopped_early("SIGTERM"),
        _ = interrupt.recv() => return stopped_early("SIGINT"),
    };
    let supervisor = Supervisor::open(Arc::clone(&server), &settings.root.value);
    let listener = listen(settings)?;
    let bound = socket::Bound::at(settings.listen.value.path());
    let metrics = match settings.metrics_listen.value {
        Some(address) => Some(server.metrics.serve(address, metrics_access(settings).await?).await?),
        None => None,
    };
    let tracing = start_tracing(&server, settings)?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = %settings.listen.value,
        root = %settings.root.value.display(),
        state = %settings.state.value.display(),
        streams = server.streams.base(),
        metrics = metrics.as_ref().map(|m| m.address().to_string()),
        pods = server.pods.list().len(),
        "ready"
    );
    server.runtime.keep_logs_small();
    notify::ready();
    tokio::spawn(reload.at(hangups, server.runtime.clone()));
    tokio::spawn(notify::keep_watchdog_calm());
    crisp_executor::give_program_pages_back();
    tokio::spawn(memory::give_back());
    let (pods, runtime) = (server.pods.clone(), server.runtime.clone());
    let images = server.images.clone();
    let stop = async move {
        stop_signal(terminate, interrupt).await;
        // Clients get their responses before the connections close.
        images.shut_down(PULLS_END).await;
    };
    let standalone = StandaloneService(supervisor);
    let result = server.serve(listener, Some(standalone), Some(log), stop).await;
    runtime.close().await;
    // Without pods the bridge and its rules are not needed, and no other program removes them.
    pods.close().await;
    if let Some(tracing) = tracing {
        tracing.shut_down().await;
    }
    // The server no longer listens: a client should get "no such file", not "refused".
    bound.remove();
    result
}

/// The socket, open to the group of the settings, if there is one.
fn listen(settings: &Settings) -> anyhow::Result<UnixListener> {
    let listener = socket::listen(&settings.listen.value)?;
    let folders = [&*settings.state.value, &*settings.root.value];
    match &settings.listen_group.value {
        Some(group) => SocketGroup::find(group)?.admit(settings.listen.value.path(), &folders)?,
        None => folders.iter().try_for_each(|folder| folder::close_to_groups(folder))?,
    }
    Ok(listener)
}

async fn stop_signal(mut terminate: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = terminate.recv() => info!("stopping on SIGTERM; the pods run on"),
        _ = interrupt.recv() => info!("stopping on SIGINT; the pods run on"),
    }
}

/// Before the first request. What the server found at its start belongs to no request.
fn start_tracing(server: &Server, settings: &Settings) -> anyhow::Result<Option<Tracing>> {
    let Some(endpoint) = settings.tracing_endpoint.value.clone() else { return Ok(None) };
    let rate_per_million = settings.tracing_sampling_rate_per_million.value;
    let config = TraceConfig { endpoint, rate_per_million, version: env!("CARGO_PKG_VERSION") };
    let tracing = server.metrics.start_tracing(config).context("tracing-endpoint")?;
    Ok(Some(tracing))
}

fn stopped_early(signal: &str) -> anyhow::Result<()> {
    info!("stopping on {signal}, before the server was open; the pods run on");
    Ok(())
}
