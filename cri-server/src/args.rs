//! The command line as a whole; each command's own arguments are with the command.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::cli::management::{self, Short};
use crate::config::{RawSettings, Settings, present_file};
use crate::server::reload::ConfigOrigin;
use crate::{cli, oci, run, server};

/// Cannot be seen: a parsed command line has only short names.
const NOT_SHORT: &str = "the command was not replaced by its short name";

const EXIT_CODES: &str = "\
Exit codes:
  0          done
  1          not done, or not for all that was named; the reason is on standard error
  2          the command line cannot be understood
  126, 127   of run IMAGE: its program cannot be run, is not there
  125        of run, create, exec, attach and start: crisp itself failed
  128 and n  ended by signal n; of run, exec, attach and start --attach also the container's own code

Environment: CONTAINER_RUNTIME_ENDPOINT names the server's socket, as does runtime-endpoint in /etc/crictl.yaml;
CRISP_CREDS has USER:PASSWORD for pulls; NO_COLOR switches colours off.";

/// A Kubernetes CRI runtime: runs pods for a kubelet, for crictl, or by itself.
#[derive(Debug, Parser)]
#[command(name = "crisp", version, max_term_width = 100, after_long_help = EXIT_CODES)]
pub struct Args {
    /// Configuration file; every setting can be in it, and in files of the folder conf.d beside it
    /// [default: /etc/crisp/config.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Unix socket of the gRPC services [default: unix:///run/crisp/crisp.sock]
    #[arg(long, global = true, value_name = "unix:///PATH")]
    listen: Option<String>,

    /// error, warn, info, debug or trace; also per crate, as in "info,crisp_sandbox=debug" [default: info]
    #[arg(long, global = true, hide_short_help = true, value_name = "LEVEL")]
    log_level: Option<String>,

    #[command(subcommand)]
    command: Command,
}

/// The commands. The help text of each is that of its structure.
#[derive(Debug, Subcommand)]
enum Command {
    Serve(server::serve::Serve),
    Run(Box<run::command::Run>),
    Create(Box<run::create::Create>),
    Up(run::detached::Up),
    Down(run::detached::Down),
    #[command(flatten)]
    Client(cli::ClientCommand),
    Container(Box<management::ContainerCommand>),
    Image(Box<management::ImageCommand>),
    Rename(cli::rename::Rename),
    Login(cli::login::Login),
    Logout(cli::login::Logout),
    Version(cli::version::Version),
    Resolve(cli::resolve::Resolve),
    Oci(Box<oci::Oci>),
    Config(cli::config::Config),
    Doctor(Box<cli::doctor::Doctor>),
    Debug(Box<cli::debug::Debug>),
    Completion(cli::completion::Completion),
    Man(cli::completion::Man),
}

impl Args {
    /// Parses a command line. Options may come after a manifest, as after the arguments of other commands;
    /// words after an image are its command.
    ///
    /// # Errors
    /// The line is not valid, or it asks for help.
    pub fn understand(line: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Self, clap::Error> {
        let mut line: Vec<OsString> = line.into_iter().map(Into::into).collect();
        if line.first().is_some_and(|name| Path::new(name).file_name() == Some(OsStr::new(oci::PROGRAM))) {
            line.insert(1, "oci".into());
        }
        let args = Self::parse(&line)?;
        let Command::Run(run) = &args.command else { return Ok(args) };
        let count = run.words().len();
        if count < 2 || !run.is_of_manifests() {
            return Ok(args);
        }
        let (before, words) = line.split_at(line.len() - count);
        let moved = Self::parse(before.iter().chain(&words[1..]).chain(&words[..1]))?;
        let is_good = matches!(&moved.command, Command::Run(run) if run.words().len() == 1);
        is_good.then_some(moved).ok_or_else(|| {
            let text = format!("{}: a manifest is followed by options only\n", words[0].to_string_lossy());
            Self::command().error(clap::error::ErrorKind::UnknownArgument, text)
        })
    }

    /// Parses a command line as it is.
    fn parse(line: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Self, clap::Error> {
        let args = Self::try_parse_from(line)?;
        Ok(Self { command: args.command.short(), ..args })
    }

    /// The exit code for a failure of crisp itself. Commands that return a container's exit code use 125,
    /// which containers seldom use.
    pub fn own_failure(&self) -> u8 {
        match &self.command {
            Command::Run(_) | Command::Create(_) => 125,
            Command::Client(command) if command.passes_exit_code() => 125,
            _ => 1,
        }
    }

    /// Runs the command.
    ///
    /// # Errors
    /// The command's own error.
    pub fn run(mut self) -> anyhow::Result<ExitCode> {
        if let Command::Oci(oci) = self.command {
            // No server, and no configuration of one.
            return oci.run();
        }
        let raw = RawSettings {
            listen: self.listen.take(),
            log_level: self.log_level.take(),
            ..self.command.server_settings().unwrap_or_default()
        };
        let resolve = match self.command {
            Command::Run(ref run) if !run.is_detached() => Settings::resolve_for_run,
            _ => Settings::resolve,
        };
        let settings = resolve(raw.clone(), self.config.as_deref())?;
        match self.command {
            Command::Serve(_) => {
                server::serve::run(&settings, ConfigOrigin { flags: raw, config: present_file(self.config) })
            }
            Command::Run(run) => run::command::run(*run, settings),
            Command::Create(create) => create.run(&settings),
            Command::Up(up) => up.run(&settings),
            Command::Down(down) => down.run(&settings),
            Command::Config(_) => cli::config::run(&settings),
            Command::Resolve(resolve) => resolve.run(&settings),
            Command::Oci(oci) => oci.run(),
            Command::Doctor(doctor) => doctor.run(&settings),
            Command::Debug(debug) => debug.run(&settings),
            Command::Client(command) => command.run(&settings),
            Command::Rename(rename) => rename.run(),
            Command::Login(login) => login.run(&settings),
            Command::Logout(logout) => logout.run(),
            Command::Version(version) => version.run(&settings),
            Command::Completion(completion) => completion.run(Self::command()),
            Command::Man(man) => man.run(Self::command()),
            Command::Container(_) | Command::Image(_) => bail!("{NOT_SHORT}"),
        }
    }
}

impl Command {
    /// The same command under its short name.
    fn short(self) -> Self {
        let short = match self {
            Self::Container(container) => container.short(),
            Self::Image(image) => image.short(),
            command => return command,
        };
        match short {
            Short::Client(command) => Self::Client(*command),
            Short::Run(run) => Self::Run(run),
            Short::Create(create) => Self::Create(create),
            Short::Rename(rename) => Self::Rename(rename),
        }
    }

    /// The settings of a command that contains a server or reads a server's configuration. The other commands
    /// talk to a running server, where settings would have no effect, so they do not accept them.
    fn server_settings(&mut self) -> Option<RawSettings> {
        match self {
            Self::Serve(serve) => Some(serve.settings.with_network(serve.network)),
            Self::Run(run) => Some(run.server_settings()),
            Self::Config(config) => Some(config.settings.with_network(config.network)),
            Self::Resolve(resolve) => Some(resolve.settings.with_network(resolve.network)),
            Self::Debug(debug) => Some(debug.server_settings()),
            Self::Doctor(doctor) => Some(doctor.settings.with_network(doctor.network)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
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
            let mut args = Args::understand(line.iter().copied()).unwrap();
            assert_eq!(args.command.server_settings().unwrap().bridge_name.as_deref(), Some("x"));
        }
    }

    #[test]
    fn what_follows_an_image_is_its_command() {
        let words = |line: &[&str]| {
            let args = Args::understand(line.iter().copied()).map_err(|error| error.to_string())?;
            let Command::Run(run) = args.command else { panic!() };
            Ok::<_, String>((run.words().join(" "), run.is_detached()))
        };
        let image = words(&["crisp", "run", "-d", "busybox", "ls", "-d", "--listen", "x"]);
        assert_eq!(image, Ok(("busybox ls -d --listen x".to_owned(), true)));
        assert_eq!(words(&["crisp", "run", "busybox", "-d"]), Ok(("busybox -d".to_owned(), false)));
        assert_eq!(words(&["crisp", "run", "pod.yaml", "-d"]), Ok(("pod.yaml".to_owned(), true)));
        assert!(Args::understand(["crisp", "create", "--name", "a", "busybox", "ls", "--name"]).is_ok());
        assert!(Args::understand(["crisp", "create", "-d", "busybox"]).is_err());
        assert_eq!(words(&["crisp", "run", "-"]), Ok(("-".to_owned(), false)));
        assert!(
            words(&["crisp", "run", "pod.yaml", "-d", "ls"]).unwrap_err().contains("followed by options")
        );
        for line in [&["crisp", "run"][..], &["crisp", "run", "--bogus", "busybox"], &["crisp", "run", "-d"]]
        {
            assert!(words(line).is_err(), "{line:?}");
        }
        let mut args =
            Args::understand(["crisp", "run", "--network", "built-in", "--network", "lan", "b"]).unwrap();
        let network = args.command.server_settings().unwrap().network;
        assert_eq!(network, Some(crate::config::NetworkKind::BuiltIn));
    }

    #[test]
    fn dockers_long_names_are_the_same_commands() {
        for (long, short) in [
            ("container ls -a", "ps -a"),
            ("container ps -q", "ps -q"),
            ("container rm -f a", "rm -f a"),
            ("container exec a ls -l", "exec a ls -l"),
            ("container start -a a", "start -a a"),
            ("container create --name a b c", "create --name a b c"),
            ("container run -d b ls -d", "run -d b ls -d"),
            ("container run pod.yaml -d", "run -d pod.yaml"),
            ("container inspect a", "inspect --type container a"),
            ("image inspect a", "inspect --type image a"),
            ("image ls -q", "images -q"),
            ("image remove a", "rmi a"),
            ("image tag a b", "tag a b"),
        ] {
            let parse = |line: &str| {
                let words = ["crisp"].into_iter().chain(line.split(' '));
                let args = Args::understand(words).map_err(|error| error.to_string())?;
                Ok::<_, String>((format!("{:?}", args.command), args.own_failure()))
            };
            assert_eq!(parse(long).unwrap(), parse(short).unwrap(), "{long}");
        }
        assert!(Args::understand(["crisp", "container", "prune", "-f"]).is_ok());
        assert!(Args::understand(["crisp", "image", "prune", "-a"]).is_ok());
        assert!(Args::understand(["crisp", "prune"]).is_err());
    }

    #[test]
    fn every_command_has_its_help_text() {
        let mut command = Args::command();
        for sub in command.get_subcommands() {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
        }
        let text = command.render_long_help().to_string();
        assert!(text.contains("Exit codes") && text.contains("CONTAINER_RUNTIME_ENDPOINT"), "{text}");
        let help = command.find_subcommand_mut("run").unwrap().render_long_help().to_string();
        assert!(help.contains("exit code") && help.contains("second Ctrl-C"), "{help}");
    }

    #[test]
    fn every_setting_of_the_contract_is_a_flag() {
        let flags = [
            "listen",
            "listen-group",
            "root",
            "state",
            "registry-config-dir",
            "cni-conf-dir",
            "cni-bin-dir",
            "cdi-spec-dir",
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
        let shown = format!("{:?}", args.command);
        assert!(shown.contains(r#"command: ["ls", "-l", "--all"]"#), "{shown}");
    }

    #[test]
    fn plugin_folders_can_be_repeated_and_joined() {
        let args = Args::try_parse_from(["crisp", "serve", "--cni-bin-dir", "/a:/b", "--cni-bin-dir", "/c"])
            .unwrap();
        let Command::Serve(serve) = args.command else { panic!("{args:?}") };
        assert_eq!(serve.settings.cni_bin_dir.unwrap(), ["/a", "/b", "/c"].map(PathBuf::from));
    }
}
