//! Times a CRI runtime: `bench [OPTION ...] [crisp | NAME=SOCKET ...]`.
//!
//! `crisp`, or no argument, starts a Crisp of its own, on a journaled ext4 and a tmpfs that the benchmark
//! makes; NAME=SOCKET is a runtime that runs already. Several runtimes take turns. Images come from a
//! docker-registry that it starts on 127.0.0.1, which runtimes reach by plain HTTP.
//!
//! - `--check`: at the end, compare Crisp's results with the bars of a whole run, or of the network part; exit code 1
//!   when one is missed, or was not measured.
//! - `--quick`: fewer rounds, no pulls.
//! - `--pause MS`: the pause before each request of the "apart" results [default: 30].
//! - `--only PART`: only this part. cycles: pods up and down; standing: requests while pods run; streams:
//!   exec and port-forward streams; network: pods without containers, and traffic between them, beside
//!   Debian's CNI plugins (only by this option, and only of Crisp); busy: lists and statuses of 500 containers
//!   while others are created (only by this option).
//! - `--vanish N`: opens N streaming sessions, drops the connection of each at once, and prints what the
//!   server and the monitor hold before and after. Exit code 1 when there is one descriptor, thread or process
//!   more than before, 2 MiB more memory of the server, or 256 kB more of the monitor.
//! - `--here`: put Crisp's folders into the usual place for temporary files instead.

use std::path::Path;
use std::time::Duration;

use crisp_e2e::bench::busy::busy;
use crisp_e2e::bench::cycles::{cycles, first_output, throughput};
use crisp_e2e::bench::disk::{self, Disk};
use crisp_e2e::bench::plugins::PluginBridge;
use crisp_e2e::bench::series::Series;
use crisp_e2e::bench::standing::standing;
use crisp_e2e::bench::streams::streams;
use crisp_e2e::bench::table::{Row, render};
use crisp_e2e::bench::{Effort, Target, bars, memory, pulls, sandboxes, traffic, vanish};
use crisp_e2e::{Client, Image, Machine, Registry, Result, Setup, free_port};
use k8s_cri::v1::NamespaceMode;

const REST: Duration = Duration::from_secs(35);
/// The row of single sandboxes.
const STARTS: &str = "RunPodSandbox, apart";
/// Measurements of the traffic of each runtime: one depends on what else the machine does.
const ROUNDS: usize = 3;
/// The name of our own server in the table.
const CRISP: &str = "crisp";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Cycles,
    Standing,
    Streams,
    Network,
    Busy,
}

struct Options {
    effort: Effort,
    check: bool,
    here: bool,
    only: Option<Part>,
    vanish: Option<usize>,
    pause: Duration,
    crisp: bool,
    others: Vec<Target>,
}

fn options() -> Result<Options> {
    let pause = Duration::from_millis(30);
    let mut options = Options {
        effort: Effort::FULL,
        check: false,
        here: false,
        only: None,
        vanish: None,
        pause,
        crisp: false,
        others: vec![],
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--check" => options.check = true,
            "--quick" => options.effort = Effort::QUICK,
            "--here" => options.here = true,
            "--only" => {
                options.only = Some(match args.next().as_deref() {
                    Some("cycles") => Part::Cycles,
                    Some("standing") => Part::Standing,
                    Some("streams") => Part::Streams,
                    Some("network") => Part::Network,
                    Some("busy") => Part::Busy,
                    _ => return Err("--only takes cycles, standing, streams, network or busy".into()),
                });
            }
            "--vanish" => {
                options.vanish = Some(args.next().ok_or("--vanish needs a number of sessions")?.parse()?);
            }
            "--pause" => {
                let value = args.next().ok_or("--pause needs a number of milliseconds")?;
                options.pause = Duration::from_millis(value.parse()?);
            }
            CRISP => options.crisp = true,
            other => {
                let (name, socket) = other.split_once('=').ok_or_else(|| {
                    format!("{other:?} is not --check, --quick, --only PART, --vanish N, --here, --pause MS, crisp or NAME=SOCKET")
                })?;
                options.others.push(Target { name: name.into(), socket: socket.into(), metrics: None });
            }
        }
    }
    options.crisp |= options.others.is_empty();
    if options.check && !options.crisp {
        return Err("--check compares Crisp's figures: add crisp to the runtimes".into());
    }
    Ok(options)
}

/// One thread: with several, switches between threads of the client would be measured too.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = options()?;
    let disk = if options.crisp && !options.here { Some(Disk::make()?) } else { None };
    let metrics = format!("127.0.0.1:{}", free_port()?);
    let args = vec!["--metrics-listen".into(), metrics.clone()];
    let mut setup = Setup { no_registry: true, args, ..Setup::default() };
    if options.only == Some(Part::Network) {
        // Room for all of its pods.
        setup.pool = Some("10.198.64.0/20".to_owned());
    }
    if let Some(disk) = &disk {
        (setup.place, setup.state) = (Some(disk.disk()), Some(disk.run().join("state")));
    }
    let machine = if options.crisp { Some(Machine::start_with(setup).await?) } else { None };
    let mut targets = options.others.clone();
    if let Some(machine) = &machine {
        println!("crisp's root: {}", disk::describe(&machine.root())?);
        println!("crisp's state: {}", disk::describe(&machine.state())?);
        let target = Target { name: CRISP.into(), socket: machine.socket(), metrics: Some(metrics) };
        targets.insert(0, target);
    }
    let files = tempfile::Builder::new().prefix("crisp-bench-").tempdir()?;
    // Without a disk of our own, inodes of other programs would be counted.
    let counted = disk.as_ref().map_or_else(Vec::new, |disk| vec![disk.disk(), disk.run()]);
    let counted: Vec<_> = counted.iter().map(|folder| folder.as_path()).collect();
    let logs = disk.as_ref().map_or_else(|| files.path().join("logs"), |disk| disk.disk().join("logs"));
    let rows = measure(&targets, &options, files.path(), &logs, &counted).await?;
    println!("{}", render(&rows));
    if let Some(machine) = machine {
        machine.close().await?;
    }
    if options.check {
        let check = if options.only == Some(Part::Network) { bars::check_network } else { bars::check };
        let (text, kept) = check(&rows, CRISP);
        println!("{text}");
        if !kept {
            return Err("a bar is missed".into());
        }
    }
    Ok(())
}

async fn measure(
    targets: &[Target],
    options: &Options,
    files: &Path,
    logs: &Path,
    counted: &[&Path],
) -> Result<Vec<Row>> {
    let effort = options.effort;
    let registry = Registry::start(&files.join("registry"))?;
    let image = registry.push("bench/busybox", "1", &Image::busybox().build())?;
    let mut rows = Vec::new();
    for target in targets {
        let idle = memory::of_server(&target.socket);
        rows.push(Row::new(&target.name, "PSS of the server, idle", "kB", vec![idle]));
        Client::connect(&target.socket).await?.pull(&image).await?;
    }
    let series = |network, pause| Series { image: image.clone(), network, logs: logs.to_owned(), pause };
    let pod = NamespaceMode::Pod;
    if let Some(rounds) = options.vanish {
        for target in targets {
            vanish::vanish(target, &series(pod, Duration::ZERO), rounds).await?;
        }
        return Ok(rows);
    }
    let wanted = |part| options.only.is_none_or(|only| only == part);
    if wanted(Part::Cycles) {
        rows.extend(ups_and_downs(targets, options, &series).await?);
    }
    for target in targets {
        if wanted(Part::Standing) {
            // The results for lists are the same in both ways, and the pods themselves need no pauses.
            let counted = if target.name == CRISP { counted } else { &[] };
            rows.extend(standing(target, &series(pod, options.pause), effort, counted).await?);
        }
        if wanted(Part::Streams) {
            rows.extend(streams(target, &series(pod, options.pause), effort).await?);
        }
    }
    if options.only == Some(Part::Busy) {
        for target in targets {
            rows.extend(busy(target, &series(pod, Duration::ZERO), effort).await?);
        }
    }
    if options.only == Some(Part::Network) {
        rows.extend(network(&targets[0], options, &series, files).await?);
    }
    if options.only.is_some() {
        return Ok(rows);
    }
    rows.extend(pulls::pulls(targets, &registry, effort).await?);
    // Time for a server to return the memory that the run has freed.
    tokio::time::sleep(REST).await;
    for target in targets {
        let after = memory::of_server(&target.socket);
        rows.push(Row::new(&target.name, "PSS of the server, after the whole run", "kB", vec![after]));
    }
    Ok(rows)
}

/// Pods without containers on the built-in network, and then on that of Debian's plugins.
async fn network(
    target: &Target,
    options: &Options,
    series: &impl Fn(NamespaceMode, Duration) -> Series,
    files: &Path,
) -> Result<Vec<Row>> {
    let (effort, pod) = (options.effort, NamespaceMode::Pod);
    let (apart, at_once) = (series(pod, options.pause), series(pod, Duration::ZERO));
    let mut rows = vec![sandboxes::starts(target, &apart, effort, STARTS).await?];
    rows.push(sandboxes::many(target, &at_once, effort.sandboxes).await?);
    rows.push(sandboxes::churn(target, &at_once, effort.churn).await?);

    let bridge = PluginBridge::new(files);
    let machine = Machine::start_with(bridge.setup()).await?;
    bridge.configure(&machine).await?;
    let plugins = Target { name: "crisp with plugins".into(), socket: machine.socket(), metrics: None };
    let with_plugins = sandboxes::starts(&plugins, &apart, effort, STARTS).await?;
    rows.extend(compare_traffic([target, &plugins], &at_once, effort).await?);
    machine.close().await?;
    let by_hand = bridge.by_hand(effort, options.pause)?;
    let above = with_plugins.percentile(50) - by_hand.percentile(50);
    rows.extend([with_plugins, by_hand, Row::new(&target.name, bars::ABOVE_PLUGINS, "ms", vec![above])]);
    Ok(rows)
}

/// Traffic of the first, and what part that is of the traffic of the second; they alternate.
async fn compare_traffic(targets: [&Target; 2], series: &Series, effort: Effort) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for _ in 0..ROUNDS {
        let mut round = between_pods(targets[0], series, effort).await?;
        round.extend(between_pods(targets[1], series, effort).await?);
        rows = match rows.len() {
            0 => round,
            _ => rows.into_iter().zip(round).map(|(row, next)| row.joined(next)).collect(),
        };
    }
    let [rate, time, rate_of_plugins, time_of_plugins] = &rows[..] else {
        return Err("expected two rows of each runtime".into());
    };
    let part = |own: &Row, other: &Row| vec![own.percentile(50) / other.percentile(50) * 100.0];
    let parts = [
        Row::new(&targets[0].name, bars::RELATIVE_THROUGHPUT, "%", part(rate, rate_of_plugins)),
        Row::new(&targets[0].name, bars::RELATIVE_LATENCY, "%", part(time, time_of_plugins)),
    ];
    rows.extend(parts);
    Ok(rows)
}

async fn between_pods(target: &Target, series: &Series, effort: Effort) -> Result<Vec<Row>> {
    let mut client = Client::connect(&target.socket).await?;
    let mut pods = Vec::new();
    for name in ["sender", "receiver"] {
        let (pod, _) = sandboxes::up(&mut client, series, name).await?;
        pods.push(sandboxes::look_up(&mut client, pod).await?);
    }
    let rows = traffic::between(&target.name, &pods[0], &pods[1], effort.gigabytes * 1000);
    for sandbox in pods {
        sandboxes::down(&mut client, sandbox.pod).await?;
    }
    rows
}

async fn ups_and_downs(
    targets: &[Target],
    options: &Options,
    series: &impl Fn(NamespaceMode, Duration) -> Series,
) -> Result<Vec<Row>> {
    let (pod, host) = (NamespaceMode::Pod, NamespaceMode::Node);
    let effort = options.effort;
    let mut rows = Vec::new();
    for (network, pause, names) in [
        (pod, Duration::ZERO, ["up, pod network, at once", "down, pod network, at once"]),
        (pod, options.pause, ["up, pod network, apart", "down, pod network, apart"]),
        (host, Duration::ZERO, ["up, host network, at once", "down, host network, at once"]),
        (host, options.pause, ["up, host network, apart", "down, host network, apart"]),
    ] {
        rows.extend(cycles(targets, &series(network, pause), effort, names).await?);
    }
    let at_once = series(pod, Duration::ZERO);
    for target in targets {
        rows.push(first_output(target, &at_once, effort).await?);
        let names =
            ["full cycles, 1 worker", "CPU per cycle, 1 worker", "CPU of the machine per cycle, 1 worker"];
        rows.extend(throughput(target, &at_once, effort.cycles, 1, names).await?);
        let names =
            ["full cycles, 8 workers", "CPU per cycle, 8 workers", "CPU of the machine per cycle, 8 workers"];
        rows.extend(throughput(target, &at_once, effort.parallel, 8, names).await?);
    }
    Ok(rows)
}
