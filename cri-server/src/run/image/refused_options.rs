//! Options of `docker run` that are refused, each with the reason and an alternative.

use clap::{Arg, ArgAction, ArgMatches, Command};

/// Name, whether it takes a value, and the reason.
const OPTIONS: &[(&str, bool, &str)] = &[
    (
        "attach",
        true,
        "-i sends input, -t gives a terminal, and both outputs are always shown: use these, or -d",
    ),
    ("blkio-weight", true, "the CRI has no limit of block devices: set io.weight of the cgroup"),
    ("blkio-weight-device", true, "the CRI has no limit of block devices: set io.weight of the cgroup"),
    ("cgroup-parent", true, "the server makes a cgroup for each pod in a place of its own"),
    ("cpu-count", true, "it is for Windows"),
    ("cpu-percent", true, "it is for Windows"),
    ("cpu-shares", true, "each pod has a cgroup of its own, with the usual weight: --cpus limits it"),
    ("cpu-rt-period", true, "the CRI has no limit of real-time CPU time"),
    ("cpu-rt-runtime", true, "the CRI has no limit of real-time CPU time"),
    ("detach-keys", true, "name them to `crisp attach`, by its own --detach-keys"),
    ("device-cgroup-rule", true, "the CRI has no rule without a device: name each by --device"),
    ("device-read-bps", true, "the CRI has no limit of block devices: set io.max of the cgroup"),
    ("device-read-iops", true, "the CRI has no limit of block devices: set io.max of the cgroup"),
    ("device-write-bps", true, "the CRI has no limit of block devices: set io.max of the cgroup"),
    ("device-write-iops", true, "the CRI has no limit of block devices: set io.max of the cgroup"),
    ("disable-content-trust", false, "there is no content trust to switch off"),
    ("domainname", true, "a pod has no NIS domain: --dns-search adds a domain to names"),
    ("health-start-interval", true, "a pod's probes have one interval: --health-interval"),
    ("io-maxbandwidth", true, "it is for Windows"),
    ("io-maxiops", true, "it is for Windows"),
    ("isolation", true, "it is for Windows"),
    ("kernel-memory", true, "the kernel has no such limit any more: --memory has all of it"),
    ("link", true, "containers find each other by name on a network: --network, --network-alias"),
    ("link-local-ip", true, "use --ip and --ip6 with a network of `crisp network`"),
    (
        "log-driver",
        true,
        "logs are files in the CRI's form; `crisp logs` shows them, and collectors read them",
    ),
    (
        "log-opt",
        true,
        "logs are rotated by container-log-max-size and container-log-max-files, for every container",
    ),
    ("memory-swappiness", true, "the CRI has none: --memory-swap limits swap"),
    ("oom-kill-disable", false, "a container that hangs for memory hangs for ever: use --oom-score-adj"),
    ("platform", true, "images are run on the platform that they are for: this machine's"),
    ("runtime", true, "there is one, which is in this program"),
    ("sig-proxy", true, "without a terminal the first signal is passed on, the second kills"),
    ("storage-opt", true, "layers have no quota: limit the file system of --root"),
    ("use-api-socket", false, "there is no docker socket: mount the server's by -v"),
    ("uts", true, "a pod has a host name of its own; --network host gives that of the host"),
    ("volume-driver", true, "volumes are folders: mount others on the host, and use -v"),
    ("volumes-from", true, "name the volumes by -v: containers that name the same one share it"),
];

/// The refused options on a command line. They are hidden from the help.
#[derive(Debug, Clone, Default)]
pub struct Refused(Vec<&'static str>);

impl Refused {
    /// # Errors
    /// The command line has one of them.
    pub fn check(&self) -> anyhow::Result<()> {
        let reason =
            |name: &str| OPTIONS.iter().find(|(other, ..)| *other == name).map_or("", |(.., why)| *why);
        let all: Vec<_> =
            self.0.iter().map(|name| format!("--{name} is not supported: {}", reason(name))).collect();
        if all.is_empty() { Ok(()) } else { Err(anyhow::anyhow!("{}", all.join("\n"))) }
    }
}

impl clap::FromArgMatches for Refused {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let is_given = |name: &str| {
            let source = matches.value_source(name);
            source == Some(clap::parser::ValueSource::CommandLine)
        };
        Ok(Self(OPTIONS.iter().map(|(name, ..)| *name).filter(|name| is_given(name)).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Refused {
    fn augment_args(command: Command) -> Command {
        command.args(OPTIONS.iter().map(|(name, takes_value, _)| {
            let arg = Arg::new(*name).long(*name).hide(true).allow_hyphen_values(*takes_value);
            let arg = match *name {
                "attach" => arg.short('a'),
                "cpu-shares" => arg.short('c'),
                _ => arg,
            };
            arg.action(if *takes_value { ArgAction::Append } else { ArgAction::SetTrue })
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        refused: Refused,
    }

    #[test]
    fn each_is_refused_by_its_name_with_a_reason() {
        for (name, takes_value, why) in OPTIONS {
            let mut line = vec!["run".to_owned(), format!("--{name}")];
            line.extend(takes_value.then(|| "-1".to_owned()));
            let error = Line::try_parse_from(line).unwrap().refused.check().unwrap_err().to_string();
            assert!(error.contains(&format!("--{name} is not supported: {why}")), "{error}");
            assert!(why.len() > 15, "{name}");
        }
        assert!(Line::try_parse_from(["run"]).unwrap().refused.check().is_ok());
    }
}
