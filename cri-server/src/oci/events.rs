//! `crisp oci events`: prints the resource usage of a container, once or periodically, in runc's form.

use std::path::Path;
use std::time::Duration;

use crisp_executor::cgroup::{Cgroup, Cgroups, Detail, Stats};
use crisp_operation::parse_duration;
use serde_json::{Value, json};

use super::id::OciId;
use super::state_folder::StateFolder;
use super::status;
use super::wait::is_readable_within;
use crate::print;

/// Print a container's resource usage and OOM events as lines of JSON
#[derive(Debug, clap::Args)]
pub struct Events {
    /// Print the usage once
    #[arg(long)]
    stats: bool,
    /// Time between two lines
    #[arg(long, default_value = "5s", value_parser = interval, value_name = "TIME")]
    interval: Duration,
    id: OciId,
}

fn interval(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text).filter(|time| !time.is_zero());
    time.ok_or_else(|| format!("{text:?}: expected a time such as 5s"))
}

impl Events {
    pub fn run(self, root: &Path) -> anyhow::Result<()> {
        let folder = StateFolder::open(root, &self.id)?;
        let record = folder.whole_record(&self.id)?;
        let Some(init) = status::now(&folder, Some(&record))?.init else {
            anyhow::bail!("cannot read events of container {}: container not running", self.id);
        };
        let cgroup = Cgroups::detect()?.open(&record.cgroup)?;
        self.print(&cgroup)?;
        let mut oom_kills = cgroup.oom_kills()?;
        while !self.stats && !is_readable_within(&init, self.interval)? {
            let now = cgroup.oom_kills()?;
            if now > oom_kills {
                print::line(json!({ "type": "oom", "id": self.id }))?;
                oom_kills = now;
            }
            self.print(&cgroup)?;
        }
        Ok(())
    }

    fn print(&self, cgroup: &Cgroup) -> anyhow::Result<()> {
        let stats = cgroup.stats_reader()?.read(Detail::ALL)?;
        print::line(json!({ "type": "stats", "id": self.id, "data": data(&stats) }))
    }
}

/// In runc's form; a limit that is not set is 0.
fn data(stats: &Stats) -> Value {
    let cpu = stats.cpu.clone().unwrap_or_default();
    let memory = stats.memory.clone().unwrap_or_default();
    let swap = stats.swap.clone().unwrap_or_default();
    let pids = stats.pids.clone().unwrap_or_default();
    json!({
        "cpu": {
            "usage": { "total": cpu.usage_ns, "kernel": cpu.system_ns, "user": cpu.user_ns },
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled_ns,
            },
        },
        "memory": {
            "cache": memory.cache,
            "usage": {
                "limit": memory.limit.unwrap_or(0),
                "usage": memory.usage,
                "max": memory.max_usage.unwrap_or(0),
                "failcnt": memory.limit_hits,
            },
            "swap": { "limit": swap.limit.unwrap_or(0), "usage": swap.usage, "failcnt": 0 },
            "raw": { "rss": memory.rss, "inactive_file": memory.inactive_file, "pgfault": memory.page_faults },
        },
        "pids": { "current": pids.current, "limit": pids.limit.unwrap_or(0) },
        "blkio": { "ioServiceBytesRecursive": io(stats) },
    })
}

fn io(stats: &Stats) -> Vec<Value> {
    let devices = stats.io.iter().flat_map(|io| &io.devices);
    let entries = devices.flat_map(|device| {
        [("Read", device.read_bytes), ("Write", device.write_bytes)].map(
            |(op, value)| json!({ "major": device.major, "minor": device.minor, "op": op, "value": value }),
        )
    });
    entries.collect()
}
