//! The command line as a whole; each command's own arguments are with the command.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::{cli, config::Given, run};

/// A Kubernetes CRI runtime: runs pods for a kubelet, for crictl, or by itself.
#[derive(Debug, Parser)]
#[command(name = "crisp", version, max_term_width = 100)]
pub struct Args {
    /// Configuration file; every setting can be in it [default: /etc/crisp/config.toml, if it exists]
    #[arg(long, short = 'c', global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    #[command(flatten)]
    pub settings: Given,

    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the CRI on a unix socket
    Serve,
    /// Run a Kubernetes Pod manifest here and now, without a kubelet and without a server
    Run(run::command::Run),
    /// List containers
    Ps(cli::ps::Ps),
    /// List pods
    Pods(cli::pods::Pods),
    /// Print what a container wrote
    Logs(cli::logs::Logs),
    /// Run a command in a container and wait for its end
    Exec(cli::exec::Exec),
    /// Stop containers or pods
    Stop(cli::stop::Stop),
    /// Remove containers or pods
    Rm(cli::rm::Rm),
    /// Get images from their registries
    Pull(cli::pull::Pull),
    /// List images
    Images(cli::images::Images),
    /// Remove images
    Rmi(cli::rmi::Rmi),
    /// All there is to know of a container, pod or image, as JSON
    Inspect(cli::inspect::Inspect),
    /// CPU time and memory of running containers
    Stats(cli::stats::Stats),
    /// What the server says of itself
    Info(cli::info::Info),
    /// Where an image would be pulled from, and why there
    Resolve(cli::resolve::Resolve),
    /// Print the settings in force and where each of them is from
    Config,
}

impl Command {
    /// The exit code for a failure of our own. Where a container's code is passed on, it must be another one.
    pub fn own_failure(&self) -> u8 {
        match self {
            Self::Exec(_) | Self::Run(_) => 125,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn settings_can_be_before_and_after_the_command() {
        for line in [["crisp", "--root", "/r", "serve"], ["crisp", "serve", "--root", "/r"]] {
            assert_eq!(Args::try_parse_from(line).unwrap().settings.root, Some("/r".into()));
        }
    }

    #[test]
    fn every_setting_of_the_contract_is_a_flag() {
        let flags = [
            "listen",
            "root",
            "state",
            "registry-config-dir",
            "cni-conf-dir",
            "cni-bin-dir",
            "pod-cidr",
            "bridge-name",
            "stream-listen",
            "metrics-listen",
            "log-level",
        ];
        for flag in flags {
            let line = ["crisp".to_owned(), "serve".to_owned(), format!("--{flag}"), "x".to_owned()];
            assert!(Args::try_parse_from(line).is_ok(), "{flag}");
        }
        assert!(Args::try_parse_from(["crisp", "serve", "--cgroup-driver", "auto"]).is_ok());
    }

    #[test]
    fn unknown_flags_are_errors() {
        let error = Args::try_parse_from(["crisp", "serve", "--rooot", "/r"]).unwrap_err().to_string();
        assert!(error.contains("--rooot"), "{error}");
    }

    #[test]
    fn a_command_to_exec_may_look_like_flags() {
        let args = Args::try_parse_from(["crisp", "exec", "web", "ls", "-l", "--all"]).unwrap();
        let Command::Exec(exec) = args.command else { panic!("{args:?}") };
        assert_eq!(exec.command, ["ls", "-l", "--all"]);
    }

    #[test]
    fn plugin_folders_can_be_repeated_and_joined() {
        let args = Args::try_parse_from(["crisp", "serve", "--cni-bin-dir", "/a:/b", "--cni-bin-dir", "/c"])
            .unwrap();
        assert_eq!(args.settings.cni_bin_dir.unwrap(), ["/a", "/b", "/c"].map(PathBuf::from));
    }
}
