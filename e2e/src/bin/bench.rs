//! Times a CRI runtime: `bench [--quick] [NAME=SOCKET ...]`.
//!
//! Without a socket it starts a Crisp of its own. With several they take turns. Images come from a
//! docker-registry that it starts on 127.0.0.1, which runtimes reach by plain HTTP.

use crisp_e2e::bench::steps::{Series, cycles, first_output, standing, throughput};
use crisp_e2e::bench::table::{Row, render};
use crisp_e2e::bench::{Effort, Target, pulls};
use crisp_e2e::{Client, Image, Machine, Registry, Result};
use k8s_cri::v1::NamespaceMode;

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let effort = if args.iter().any(|a| a == "--quick") { Effort::QUICK } else { Effort::FULL };
    let mut targets = Vec::new();
    for arg in args.iter().filter(|a| !a.starts_with("--")) {
        let (name, socket) = arg.split_once('=').ok_or_else(|| format!("{arg:?} is not NAME=SOCKET"))?;
        targets.push(Target { name: name.into(), socket: socket.into() });
    }
    let machine = if targets.is_empty() { Some(Machine::start().await?) } else { None };
    if let Some(machine) = &machine {
        targets.push(Target { name: "crisp".into(), socket: machine.socket() });
    }
    let folder = std::env::temp_dir().join(format!("crisp-bench-{}", std::process::id()));
    let result = measure(&targets, effort, &folder).await;
    std::fs::remove_dir_all(&folder)?;
    println!("{}", render(&result?));
    match machine {
        Some(machine) => machine.close().await,
        None => Ok(()),
    }
}

async fn measure(targets: &[Target], effort: Effort, folder: &std::path::Path) -> Result<Vec<Row>> {
    let registry = Registry::start(&folder.join("registry"))?;
    let image = registry.push("bench/busybox", "1", &Image::busybox().build())?;
    for target in targets {
        Client::connect(&target.socket).await?.pull(&image).await?;
    }
    let series = |network| Series { image: image.clone(), network, logs: folder.join("logs") };
    let (pod, host) = (series(NamespaceMode::Pod), series(NamespaceMode::Node));
    let mut rows = cycles(targets, &pod, effort, ["up, pod network", "down, pod network"]).await?;
    rows.extend(cycles(targets, &host, effort, ["up, host network", "down, host network"]).await?);
    for target in targets {
        rows.push(first_output(target, &pod, effort).await?);
        rows.push(throughput(target, &pod, effort.cycles, 1, "full cycles, 1 worker").await?);
        rows.push(throughput(target, &pod, effort.parallel, 8, "full cycles, 8 workers").await?);
        rows.extend(standing(target, &pod, effort).await?);
    }
    rows.extend(pulls::pulls(targets, &registry, effort).await?);
    Ok(rows)
}
