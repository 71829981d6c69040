//! The command line as a whole; each command's own arguments are with the command.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{RawSettings, Settings};
use crate::{cli, run, server};

/// A Kubernetes CRI runtime: runs pods for a kubelet, for crictl, or by itself.
#[derive(Debug, Parser)]
#[command(name = "crisp", version, max_term_width = 100)]
pub struct Args {
    /// Configuration file; every setting can be in it [default: /etc/crisp/config.toml, if it exists]
    #[arg(long, short = 'c', global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Unix socket of the gRPC services [default: unix:///run/crisp/crisp.sock]
    #[arg(long, short = 'l', global = true, value_name = "unix:///PATH")]
    listen: Option<String>,

    /// error, warn, info, debug or trace; also per crate, as in "info,crisp_sandbox=debug" [default: info]
    #[arg(long, global = true, hide_short_help = true, value_name = "LEVEL")]
    log_level: Option<String>,

    #[command(subcommand)]
    command: Command,
}

/// What to do. The help text of each command is that of its structure.
#[derive(Debug, Subcommand)]
enum Command {
    Serve(server::serve::Serve),
    Run(run::command::Run),
    Ps(cli::ps::Ps),
    Pods(cli::pods::Pods),
    Logs(cli::logs::Logs),
    Exec(cli::exec::Exec),
    Cp(cli::cp::Cp),
    Attach(cli::attach::Attach),
    PortForward(cli::port_forward::PortForward),
    Stop(cli::stop::Stop),
    Rm(cli::rm::Rm),
    Pull(cli::pull::Pull),
    Images(cli::images::Images),
    Rmi(cli::rmi::Rmi),
    Check(cli::check::Check),
    Inspect(cli::inspect::Inspect),
    Stats(cli::stats::Stats),
    Info(cli::info::Info),
    Resolve(cli::resolve::Resolve),
    Config(cli::config::Config),
}

impl Args {
    /// The exit code for a failure of crisp itself. Commands that pass a container's exit code on have one
    /// that containers seldom use.
    pub fn own_failure(&self) -> u8 {
        match self.command {
            Command::Exec(_) | Command::Attach(_) | Command::Run(_) => 125,
            _ => 1,
        }
    }

    /// Runs the command.
    ///
    /// # Errors
    /// The command's own, for people.
    pub fn run(mut self) -> anyhow::Result<ExitCode> {
        let raw = RawSettings {
            listen: self.listen.take(),
            log_level: self.log_level.take(),
            ..self.command.server_settings().unwrap_or_default()
        };
        let resolve = match self.command {
            Command::Run(_) => Settings::resolve_for_run,
            _ => Settings::resolve,
        };
        let settings = resolve(raw, self.config.as_deref())?;
        match self.command {
            Command::Serve(_) => server::serve::run(&settings),
            Command::Run(run) => run::command::run(run, settings),
            Command::Config(_) => cli::config::run(&settings),
            Command::Resolve(resolve) => resolve.run(&settings),
            Command::Ps(ps) => cli::with_client(&settings, |client| ps.run(client)),
            Command::Pods(pods) => cli::with_client(&settings, |client| pods.run(client)),
            Command::Logs(logs) => cli::with_client(&settings, |client| logs.run(client)),
            Command::Exec(exec) => cli::with_client(&settings, |client| exec.run(client)),
            Command::Cp(cp) => cli::with_client(&settings, |client| cp.run(client)),
            Command::Attach(attach) => cli::with_client(&settings, |client| attach.run(client)),
            Command::PortForward(forward) => cli::with_client(&settings, |client| forward.run(client)),
            Command::Stop(stop) => cli::with_client(&settings, |client| stop.run(client)),
            Command::Rm(rm) => cli::with_client(&settings, |client| rm.run(client)),
            Command::Pull(pull) => cli::with_client(&settings, |client| pull.run(client)),
            Command::Images(images) => cli::with_client(&settings, |client| images.run(client)),
            Command::Rmi(rmi) => cli::with_client(&settings, |client| rmi.run(client)),
            Command::Check(check) => cli::with_client(&settings, |client| check.run(client)),
            Command::Inspect(inspect) => cli::with_client(&settings, |client| inspect.run(client)),
            Command::Stats(stats) => cli::with_client(&settings, |client| stats.run(client)),
            Command::Info(info) => cli::with_client(&settings, |client| info.run(client)),
        }
    }
}

impl Command {
    /// The settings given to a command that has a server in it or reads a server's configuration. The others
    /// speak to a running server: settings would have no effect, so they do not accept them.
    fn server_settings(&mut self) -> Option<RawSettings> {
        match self {
            Self::Serve(serve) => Some(std::mem::take(&mut serve.settings)),
            Self::Run(run) => Some(std::mem::take(&mut run.settings)),
            Self::Config(config) => Some(std::mem::take(&mut config.settings)),
            Self::Resolve(resolve) => Some(std::mem::take(&mut resolve.settings)),
            _ => None,
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
    fn the_socket_can_be_named_before_and_after_the_command() {
        for line in [["crisp", "--listen", "unix:///x", "ps"], ["crisp", "ps", "--listen", "unix:///x"]] {
            assert_eq!(Args::try_parse_from(line).unwrap().listen.as_deref(), Some("unix:///x"));
        }
    }

    #[test]
    fn server_settings_are_refused_by_commands_on_which_they_have_no_effect() {
        for command in ["ps", "images", "pods", "info"] {
            let error =
                Args::try_parse_from(["crisp", command, "--bridge-name", "x"]).unwrap_err().to_string();
            assert!(error.contains("--bridge-name"), "{error}");
        }
        for line in [
            &["crisp", "serve", "--bridge-name", "x"][..],
            &["crisp", "run", "pod.yaml", "--bridge-name", "x"],
            &["crisp", "config", "--bridge-name", "x"],
            &["crisp", "resolve", "busybox", "--bridge-name", "x"],
        ] {
            let mut args = Args::try_parse_from(line).unwrap();
            assert_eq!(args.command.server_settings().unwrap().bridge_name.as_deref(), Some("x"));
        }
    }

    #[test]
    fn every_command_has_its_help_text() {
        let mut command = Args::command();
        for sub in command.get_subcommands() {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
        }
        let help = command.find_subcommand_mut("run").unwrap().render_long_help().to_string();
        assert!(help.contains("exit code") && help.contains("second Ctrl-C"), "{help}");
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
            "pod-cidr-v6",
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
        assert!(Args::try_parse_from(["crisp", "serve", "--network", "built-in"]).is_ok());
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
        let Command::Serve(serve) = args.command else { panic!("{args:?}") };
        assert_eq!(serve.settings.cni_bin_dir.unwrap(), ["/a", "/b", "/c"].map(PathBuf::from));
    }
}
