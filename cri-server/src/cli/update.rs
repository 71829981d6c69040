//! `crisp update`: changes the limits of containers that run or have not been started.

use std::process::ExitCode;

use anyhow::bail;
use crisp_proto::runtime::v1::{LinuxContainerResources, UpdateContainerResourcesRequest};

use super::Client;
use super::client::refused;
use super::each::each;
use super::names::Names;

/// Default period of a CPU quota, in microseconds.
const PERIOD: i64 = 100_000;

/// Change limits of containers; other limits stay as they are
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp update --memory 512m --cpus 1.5 web
  crisp update --cpuset-cpus 0-1 --pids-limit 200 shop/web

A kubelet sets the limits of its containers anew when its pod's resources change.")]
pub struct Update {
    /// Memory, as 512m or 1g; -1 for no limit
    #[arg(long, short, value_name = "BYTES", value_parser = bytes, allow_hyphen_values = true)]
    memory: Option<i64>,
    /// Memory and swap together; -1 for no limit
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_hyphen_values = true)]
    memory_swap: Option<i64>,
    /// CPUs, as 1.5
    #[arg(long, value_name = "NUMBER", value_parser = cpus, conflicts_with_all = ["cpu_quota", "cpu_period"])]
    cpus: Option<i64>,
    /// Microseconds of CPU time in each period; -1 for no limit
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Length of that period
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<i64>,
    /// Relative share of CPU time when CPUs are busy; the usual value is 1024
    #[arg(long, short, value_name = "NUMBER")]
    cpu_shares: Option<i64>,
    /// CPUs that may be used, as 0-2,4
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes that may be used
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Maximal number of processes and threads; -1 for no limit. Needs a host with cgroup v2 only
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Containers, as ids, beginnings of ids, NAME or POD/NAME
    #[arg(required = true)]
    names: Vec<String>,
}

impl Update {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let limits = self.limits();
        if limits == LinuxContainerResources::default() {
            bail!("nothing to change: name a limit, as --memory 512m");
        }
        let known = Names::load(&mut client).await?;
        Ok(each(&self.names, async |name| {
            let container_id = known.container(name)?.id.clone();
            let linux = Some(limits.clone());
            let request = UpdateContainerResourcesRequest { container_id, linux, ..Default::default() };
            client.runtime.update_container_resources(request).await.map_err(refused)?;
            Ok(())
        })
        .await)
    }

    fn limits(&self) -> LinuxContainerResources {
        let pids = self.pids_limit.map(|limit| if limit <= 0 { "max".to_owned() } else { limit.to_string() });
        LinuxContainerResources {
            cpu_period: self.cpus.map(|_| PERIOD).or(self.cpu_period).unwrap_or_default(),
            cpu_quota: self.cpus.or(self.cpu_quota).unwrap_or_default(),
            cpu_shares: self.cpu_shares.unwrap_or_default(),
            memory_limit_in_bytes: self.memory.unwrap_or_default(),
            memory_swap_limit_in_bytes: self.memory_swap.unwrap_or_default(),
            cpuset_cpus: self.cpuset_cpus.clone().unwrap_or_default(),
            cpuset_mems: self.cpuset_mems.clone().unwrap_or_default(),
            unified: pids.into_iter().map(|pids| ("pids.max".to_owned(), pids)).collect(),
            ..LinuxContainerResources::default()
        }
    }
}

/// Converts to a quota in each [`PERIOD`].
fn cpus(text: &str) -> Result<i64, String> {
    let number: f64 = text.parse().map_err(|_| "expected a number such as 1.5".to_owned())?;
    if !(0.01..=1e6).contains(&number) {
        return Err("expected a number from 0.01 on".to_owned());
    }
    Ok((number * PERIOD as f64).round() as i64)
}

/// Bytes as people write them, with units of powers of 1024.
fn bytes(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?}: expected bytes such as 512m, or -1 for no limit");
    if text == "-1" {
        return Ok(-1);
    }
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match lower[digits.len()..].trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    let bytes = number * (1_u64 << shift) as f64;
    if bytes >= 1.0 && bytes < i64::MAX as f64 { Ok(bytes as i64) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_cpus_as_people_write_them() {
        for (text, value) in [
            ("512m", 512 << 20),
            ("1g", 1 << 30),
            ("1.5G", 3 << 29),
            ("64MiB", 64 << 20),
            ("-1", -1),
            ("1000", 1000),
        ] {
            assert_eq!(bytes(text), Ok(value), "{text}");
        }
        for text in ["", "m", "-2", "1x", "0", "1e30g"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert_eq!(cpus("1.5"), Ok(150_000));
        assert!(cpus("0").is_err() && cpus("x").is_err() && cpus("NaN").is_err());
    }
}
