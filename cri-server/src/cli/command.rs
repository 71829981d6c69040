//! The commands that speak to a server, by name.

use std::process::ExitCode;

use clap::Subcommand;

use super::{
    attach, check, commit, connect, cp, diff, events, exec, export, history, images, info, inspect, kill,
    logs, network, pause, pods, port, port_forward, prune, ps, pull, restart, rm, rmi, save, start, stats,
    stop, tag, top, update, volume, wait, why,
};
use crate::config::Settings;

/// The help text of each command is that of its structure. Commands without a short name are skipped here and
/// parsed in `management.rs`.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    Ps(ps::Ps),
    Pods(pods::Pods),
    Start(start::Start),
    Stop(stop::Stop),
    Restart(restart::Restart),
    Kill(kill::Kill),
    Pause(pause::Pause),
    Unpause(pause::Unpause),
    Wait(wait::Wait),
    Rm(rm::Rm),
    Logs(logs::Logs),
    Exec(exec::Exec),
    Attach(attach::Attach),
    Cp(cp::Cp),
    Diff(diff::Diff),
    Top(top::Top),
    Stats(stats::Stats),
    Update(update::Update),
    Inspect(inspect::Inspect),
    Events(events::Events),
    Why(why::Why),
    PortForward(port_forward::PortForward),
    Port(port::Port),
    Pull(pull::Pull),
    Images(images::Images),
    Rmi(rmi::Rmi),
    Tag(tag::Tag),
    History(history::History),
    Save(save::Save),
    Load(save::Load),
    Commit(commit::Commit),
    Export(export::Export),
    Import(export::Import),
    #[command(skip)]
    PruneImages(prune::PruneImages),
    #[command(skip)]
    PruneContainers(prune::PruneContainers),
    System(prune::SystemCommand),
    Volume(volume::Volume),
    Check(check::Check),
    Network(network::Network),
    Info(info::Info),
}

impl ClientCommand {
    /// Whether its exit code can be a container's.
    pub fn passes_exit_code(&self) -> bool {
        matches!(self, Self::Exec(_) | Self::Attach(_) | Self::Start(_))
    }

    /// # Errors
    /// There is no server, or the command fails.
    pub fn run(self, settings: &Settings) -> anyhow::Result<ExitCode> {
        match self {
            Self::Ps(ps) => connect(settings, |client| ps.run(client)),
            Self::Pods(pods) => connect(settings, |client| pods.run(client)),
            Self::Start(start) => connect(settings, |client| start.run(client)),
            Self::Stop(stop) => connect(settings, |client| stop.run(client)),
            Self::Restart(restart) => connect(settings, |client| restart.run(client)),
            Self::Kill(kill) => connect(settings, |client| kill.run(client)),
            Self::Pause(pause) => connect(settings, |client| pause.run(client)),
            Self::Unpause(unpause) => connect(settings, |client| unpause.run(client)),
            Self::Wait(wait) => connect(settings, |client| wait.run(client)),
            Self::Rm(rm) => connect(settings, |client| rm.run(client)),
            Self::Logs(logs) => connect(settings, |client| logs.run(client)),
            Self::Exec(exec) => connect(settings, |client| exec.run(client)),
            Self::Attach(attach) => connect(settings, |client| attach.run(client)),
            Self::Cp(cp) => connect(settings, |client| cp.run(client)),
            Self::Diff(diff) => connect(settings, |client| diff.run(client)),
            Self::Top(top) => connect(settings, |client| top.run(client)),
            Self::Stats(stats) => connect(settings, |client| stats.run(client)),
            Self::Update(update) => connect(settings, |client| update.run(client)),
            Self::Inspect(inspect) => connect(settings, |client| inspect.run(client)),
            Self::Events(events) => connect(settings, |client| events.run(client)),
            Self::Why(why) => connect(settings, |client| why.run(client)),
            Self::PortForward(forward) => connect(settings, |client| forward.run(client)),
            Self::Port(port) => connect(settings, |client| port.run(client)),
            Self::Pull(pull) => connect(settings, |client| pull.run(client)),
            Self::Images(images) => connect(settings, |client| images.run(client)),
            Self::Rmi(rmi) => connect(settings, |client| rmi.run(client)),
            Self::Tag(tag) => connect(settings, |client| tag.run(client)),
            Self::History(history) => connect(settings, |client| history.run(client)),
            Self::Save(save) => connect(settings, |client| save.run(client)),
            Self::Load(load) => connect(settings, |client| load.run(client)),
            Self::Commit(commit) => connect(settings, |client| commit.run(client)),
            Self::Export(export) => connect(settings, |client| export.run(client)),
            Self::Import(import) => connect(settings, |client| import.run(client)),
            Self::PruneImages(prune) => connect(settings, |client| prune.run(client)),
            Self::PruneContainers(prune) => connect(settings, |client| prune.run(client)),
            Self::System(system) => connect(settings, |client| system.run(client)),
            Self::Volume(volume) => connect(settings, |client| volume.run(client)),
            Self::Check(check) => connect(settings, |client| check.run(client)),
            Self::Network(network) => connect(settings, |client| network.run(client)),
            Self::Info(info) => connect(settings, |client| info.run(client)),
        }
    }
}
