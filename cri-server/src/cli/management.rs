//! `crisp container VERB` and `crisp image VERB`: docker's other names of the commands.

use super::command::ClientCommand as Client;
use super::inspect::Kind;
use super::prune::{PruneContainers, PruneImages};
use super::{
    attach, commit, cp, diff, exec, export, history, images, inspect, kill, logs, pause, port, ps, pull,
    rename, restart, rm, rmi, save, start, stats, stop, tag, top, update, wait,
};
use crate::run::command::Run;
use crate::run::create::Create;

/// Work with containers: `crisp container stop` is `crisp stop`
#[derive(Debug, clap::Args)]
pub struct ContainerCommand {
    #[command(subcommand)]
    command: OfContainers,
}

/// Work with images: `crisp image ls` is `crisp images`
#[derive(Debug, clap::Args)]
pub struct ImageCommand {
    #[command(subcommand)]
    command: OfImages,
}

/// A command under its short name.
pub enum Short {
    Client(Box<Client>),
    Run(Box<Run>),
    Create(Box<Create>),
    Rename(rename::Rename),
}

#[derive(Debug, clap::Subcommand)]
enum OfContainers {
    Attach(attach::Attach),
    Commit(commit::Commit),
    Cp(cp::Cp),
    Create(Box<Create>),
    Diff(diff::Diff),
    Exec(exec::Exec),
    Export(export::Export),
    Inspect(inspect::Inspect),
    Kill(kill::Kill),
    Logs(logs::Logs),
    #[command(visible_aliases = ["list", "ps"])]
    Ls(ps::Ps),
    Pause(pause::Pause),
    Port(port::Port),
    Prune(PruneContainers),
    Rename(rename::Rename),
    Restart(restart::Restart),
    #[command(visible_alias = "remove")]
    Rm(rm::Rm),
    Run(Box<Run>),
    Start(start::Start),
    Stats(stats::Stats),
    Stop(stop::Stop),
    Top(top::Top),
    Unpause(pause::Unpause),
    Update(update::Update),
    Wait(wait::Wait),
}

#[derive(Debug, clap::Subcommand)]
enum OfImages {
    History(history::History),
    Import(export::Import),
    Inspect(inspect::Inspect),
    Load(save::Load),
    #[command(visible_alias = "list")]
    Ls(images::Images),
    Prune(PruneImages),
    Pull(pull::Pull),
    #[command(visible_alias = "remove")]
    Rm(rmi::Rmi),
    Save(save::Save),
    Tag(tag::Tag),
}

impl ContainerCommand {
    /// The same command under its short name.
    pub fn short(self) -> Short {
        Short::Client(Box::new(match self.command {
            OfContainers::Run(run) => return Short::Run(run),
            OfContainers::Create(create) => return Short::Create(create),
            OfContainers::Rename(rename) => return Short::Rename(rename),
            OfContainers::Attach(attach) => Client::Attach(attach),
            OfContainers::Commit(commit) => Client::Commit(commit),
            OfContainers::Cp(cp) => Client::Cp(cp),
            OfContainers::Diff(diff) => Client::Diff(diff),
            OfContainers::Exec(exec) => Client::Exec(exec),
            OfContainers::Export(export) => Client::Export(export),
            OfContainers::Inspect(inspect) => Client::Inspect(inspect.only(Kind::Container)),
            OfContainers::Kill(kill) => Client::Kill(kill),
            OfContainers::Logs(logs) => Client::Logs(logs),
            OfContainers::Ls(ps) => Client::Ps(ps),
            OfContainers::Pause(pause) => Client::Pause(pause),
            OfContainers::Port(port) => Client::Port(port),
            OfContainers::Prune(prune) => Client::PruneContainers(prune),
            OfContainers::Restart(restart) => Client::Restart(restart),
            OfContainers::Rm(rm) => Client::Rm(rm),
            OfContainers::Start(start) => Client::Start(start),
            OfContainers::Stats(stats) => Client::Stats(stats),
            OfContainers::Stop(stop) => Client::Stop(stop),
            OfContainers::Top(top) => Client::Top(top),
            OfContainers::Unpause(unpause) => Client::Unpause(unpause),
            OfContainers::Update(update) => Client::Update(update),
            OfContainers::Wait(wait) => Client::Wait(wait),
        }))
    }
}

impl ImageCommand {
    /// The same command under its short name.
    pub fn short(self) -> Short {
        Short::Client(Box::new(match self.command {
            OfImages::History(history) => Client::History(history),
            OfImages::Import(import) => Client::Import(import),
            OfImages::Inspect(inspect) => Client::Inspect(inspect.only(Kind::Image)),
            OfImages::Load(load) => Client::Load(load),
            OfImages::Ls(images) => Client::Images(images),
            OfImages::Prune(prune) => Client::PruneImages(prune),
            OfImages::Pull(pull) => Client::Pull(pull),
            OfImages::Rm(rmi) => Client::Rmi(rmi),
            OfImages::Save(save) => Client::Save(save),
            OfImages::Tag(tag) => Client::Tag(tag),
        }))
    }
}
