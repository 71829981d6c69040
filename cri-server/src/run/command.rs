//! `crisp run`: the command itself, its signals and its exit code.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ValueEnum as _;
use tokio::signal::unix::{SignalKind, signal};

use super::embedded::Embedded;
use super::foreground::{self, DisplayOptions};
use super::image::{self, ImageRun, Options, Refused, Start, is_manifest};
use super::manifest::{self, Manifests};
use super::report::notice;
use super::stop_request::{StopRequest, StopRequests};
use super::streams::Streams;
use super::words::Words;
use super::{detached, pull};
use crate::config::{NetworkKind, RawSettings, Settings};
use crate::print;

/// Time that the server still has to open after a stop request, to be closed properly then.
const OPENING: Duration = Duration::from_secs(5);

/// Run Kubernetes manifests, or a container from an image
///
/// If it is a file, a folder or - (standard input), or its name ends in .yaml, .yml or .json, it is
/// manifests. Everything else is an image, with docker's options before it and a command after it; crisp
/// makes a pod of one container of them.
///
/// Without -d no server is needed. crisp pulls the images, starts the pods, shows the output of their
/// containers, and removes everything when all containers have ended or on Ctrl-C. For manifests, the first
/// Ctrl-C asks the pods to end; for an image, it is passed on to the container. A second Ctrl-C kills.
///
/// The exit code is that of the first container that failed; 123: a pod's emptyDir is larger than its
/// sizeLimit; 124: a pod ran longer than its activeDeadlineSeconds; 125: crisp itself failed; 126: the
/// program of an image cannot be run; 127: it does not exist; 130 and 143: Ctrl-C and SIGTERM.
///
/// A manifest has Pods, Deployments and Jobs (crisp starts as many pods as replicas and parallelism say),
/// ConfigMaps, Secrets and PersistentVolumeClaims. A claim is a folder in standalone/volumes below --root,
/// which is kept; so is a named volume of -v.
///
/// A server on the same machine is not disturbed: unless --root and --state are set, crisp keeps images in
/// /var/lib/crisp-run and uses its own bridge. Folders, addresses and the pod network in the configuration
/// file apply only to the server: for a run these settings are flags. A second `crisp run` at the same time
/// uses temporary folders.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    disable_help_subcommand = true,
    override_usage = "crisp run [OPTIONS] POD.yaml|FOLDER|-\n       crisp run [OPTIONS] IMAGE [COMMAND] [ARG]...",
    after_help = "\
Examples:
  crisp run pod.yaml
  crisp run -it --rm -v ./src:/src -w /src golang:1.25 go test ./...
  crisp run -d --name web -p 8080:80 --restart always nginx
  crisp run --dry-run -p 80 -e A=1 nginx > pod.json    # the manifest of these words"
)]
pub struct Run {
    /// Only check the manifests; for an image, print its manifest
    #[arg(long, visible_alias = "dry-run")]
    check: bool,
    /// Give the pods to a running `crisp serve`, which supervises them
    #[arg(long, short)]
    detach: bool,
    /// With --detach: first remove pods with the same names
    #[arg(long, requires = "detach")]
    replace: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::HelpLong)]
    help: Option<bool>,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    refused: Refused,
    #[command(flatten)]
    settings: RawSettings,
    #[command(subcommand)]
    words: Words,
}

impl Run {
    /// Whether a server runs the pods.
    pub fn is_detached(&self) -> bool {
        self.detach
    }

    /// The manifest or the image, and the words after it.
    pub fn words(&self) -> &[String] {
        self.words.all()
    }

    /// Whether it runs manifests.
    pub fn is_of_manifests(&self) -> bool {
        self.words().first().is_some_and(|word| is_manifest(word))
    }

    /// The settings. Some values of --network are a setting, the others name networks.
    pub fn server_settings(&mut self) -> RawSettings {
        let mut settings = std::mem::take(&mut self.settings);
        self.options.network.retain(|word| match NetworkKind::from_str(word, false) {
            Ok(kind) => {
                settings.network = Some(kind);
                false
            }
            Err(_) => true,
        });
        settings
    }
}

/// Runs the manifests or the image to the end, or gives them to a server.
///
/// # Errors
/// Any failure except that of a container.
pub fn run(command: Run, settings: Settings) -> anyhow::Result<ExitCode> {
    command.refused.check()?;
    let (what, rest) = command.words.split();
    if !is_manifest(&what) {
        let run = ImageRun::new(&what, rest, command.options)?;
        return if command.check {
            print_manifest(&run)
        } else if command.detach {
            detached::block_on(image::detach(run, &settings, command.replace, Start::Now))
        } else {
            run_image(run, settings)
        };
    }
    if command.options != Options::default() {
        bail!("{what} is a manifest, which says all this itself: options of containers are for an IMAGE");
    }
    let path = PathBuf::from(&what);
    if command.detach {
        return detached::up(&path, &settings, command.replace, command.check);
    }
    let manifests = manifest::read(&path)?;
    if !manifests.without_effect.is_empty() {
        notice(format_args!("without effect here: {}", manifests.without_effect.join(", ")));
    }
    if command.check {
        print::line(format_args!("{what} can be run"))?;
        return Ok(ExitCode::SUCCESS);
    }
    foreground(settings, DisplayOptions::default(), async move |_: &Embedded| Ok(manifests))
}

fn print_manifest(run: &ImageRun) -> anyhow::Result<ExitCode> {
    let manifests = run.manifests(&[], true)?;
    let mut out = std::io::stdout().lock();
    let mut items: Vec<_> = manifests.all_documents().cloned().collect();
    for metadata in items.iter_mut().filter_map(|item| item["metadata"].as_object_mut()) {
        // Two runs of one file are two different pods.
        metadata.remove("uid");
    }
    let document = match &items[..] {
        [one] => one.clone(),
        _ => serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": items }),
    };
    serde_json::to_writer_pretty(&mut out, &document)?;
    writeln!(out)?;
    Ok(ExitCode::SUCCESS)
}

fn run_image(run: ImageRun, settings: Settings) -> anyhow::Result<ExitCode> {
    // Checked before anything is pulled.
    run.manifests(&[], false)?;
    let display =
        DisplayOptions { streams: Some(Arc::new(Streams::new(&run.options)?)), is_quiet: run.options.quiet };
    foreground(settings, display, async move |embedded: &Embedded| {
        let exposed = match run.options.publish_all {
            true => pull::exposed_ports(&embedded.server.images, &run.manifests(&[], false)?).await?,
            false => Vec::new(),
        };
        run.manifests(&exposed, false)
    })
}

/// Runs the manifests that `manifests` returns in a server inside this process.
fn foreground(
    settings: Settings,
    display: DisplayOptions,
    manifests: impl AsyncFnOnce(&Embedded) -> anyhow::Result<Manifests>,
) -> anyhow::Result<ExitCode> {
    let mut settings = settings;
    // The command itself reports operations that fail.
    settings.log_level.set_default("warn,crisp_runtime_service::journal=error".to_owned());
    let _log = crate::logging::start(&settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let code = runtime.block_on(async {
        let stop = stop_on_signals(display.streams.clone())?;
        let Some(embedded) = open(settings, &stop).await? else {
            notice("the server does not open: what it has made is left to the next run");
            return Ok(stop.now().code().unwrap_or_default());
        };
        let manifests = tokio::select! {
            manifests = manifests(&embedded) => manifests.map(Some),
            _ = stop.wait_for(StopRequest::is_any) => Ok(None),
        };
        let code = match manifests {
            Ok(Some(manifests)) => foreground::run(&embedded, manifests, &stop, &display).await,
            Ok(None) => Ok(stop.now().code().unwrap_or_default()),
            Err(error) => Err(error),
        };
        embedded.close().await;
        code
    });
    runtime.shutdown_background();
    Ok(ExitCode::from(code?))
}

/// Opens the server. Returns None when that does not end soon after a stop request.
async fn open(settings: Settings, stop: &StopRequests) -> anyhow::Result<Option<Embedded>> {
    // In its own task: a disk that does not answer must not delay signals.
    let mut opening = tokio::spawn(Embedded::open(settings));
    let given_up = async {
        stop.wait_for(StopRequest::is_any).await;
        let _ = tokio::time::timeout(OPENING, stop.wait_for(StopRequest::is_kill)).await;
    };
    tokio::select! {
        opened = &mut opening => Ok(Some(opened.context("cannot open the server")??)),
        () = given_up => Ok(None),
    }
}

/// Ctrl-C, SIGTERM and a closed terminal become stop requests; the second one kills. If a container has the
/// whole screen, the first signal is passed on to it.
fn stop_on_signals(streams: Option<Arc<Streams>>) -> anyhow::Result<StopRequests> {
    let requests = StopRequests::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let sender = requests.clone();
    tokio::spawn(async move {
        let mut is_passed_on = false;
        loop {
            let (code, name) = tokio::select! {
                _ = interrupt.recv() => (130, "INT"),
                _ = terminate.recv() => (143, "TERM"),
                _ = hang_up.recv() => (129, "HUP"),
            };
            // Only Ctrl-C can come twice: a closed terminal and a shutdown of the machine are requests to
            // stop.
            let is_first = name == "INT" && !is_passed_on && !sender.now().is_any();
            if is_first
                && let Some(streams) = &streams
                && streams.forward(name).await
            {
                is_passed_on = true;
                continue;
            }
            if is_passed_on && name == "INT" && !sender.now().is_any() {
                sender.stop_with(code);
            }
            if sender.now().is_any() && !sender.now().is_kill() {
                notice(if streams.is_some() { "killing the container" } else { "killing all pods" });
            }
            sender.signal(code);
        }
    });
    Ok(requests)
}
