//! `crisp oci update`: changes the limits of a container.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use crisp_executor::cgroup::{Cgroups, Resources};
use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use super::id::OciId;
use super::state_folder::StateFolder;

/// Change the limits of a container
#[derive(Debug, clap::Args)]
pub struct Update {
    /// File with resources as in config.json; - for standard input. The options override single values of it
    #[arg(long, short, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// Memory in bytes
    #[arg(long, allow_hyphen_values = true, value_name = "BYTES")]
    memory: Option<i64>,
    /// Memory and swap in bytes
    #[arg(long, allow_hyphen_values = true, value_name = "BYTES")]
    memory_swap: Option<i64>,
    /// Soft limit of memory in bytes
    #[arg(long, allow_hyphen_values = true, value_name = "BYTES")]
    memory_reservation: Option<i64>,
    /// Microseconds of CPU in each period
    #[arg(long, allow_hyphen_values = true, value_name = "MICROSECONDS")]
    cpu_quota: Option<i64>,
    /// Length of the period in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,
    /// Relative share of a busy CPU; the usual value is 1024
    #[arg(long, value_name = "SHARES")]
    cpu_share: Option<u64>,
    /// CPUs, as 0-3,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes, as 0-3,7
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Relative share of a busy disk, from 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Maximal number of processes and threads
    #[arg(long, allow_hyphen_values = true, value_name = "COUNT")]
    pids_limit: Option<i64>,
    id: OciId,
}

impl Update {
    pub fn run(self, root: &Path) -> anyhow::Result<()> {
        let folder = StateFolder::lock(root, &self.id)?;
        let record = folder.whole_record(&self.id)?;
        super::status::live(&folder, &record, &self.id, "update")?;
        let limits = Resources::from_spec(&self.all()?)?;
        // Without device rules: the present rules stay.
        let limits = Resources { devices: None, ..limits };
        Ok(Cgroups::detect()?.open(&record.cgroup)?.apply(&limits)?)
    }

    fn all(&self) -> anyhow::Result<LinuxResources> {
        let mut all = match &self.resources {
            None => Value::Object(Map::new()),
            Some(path) => read(path).with_context(|| format!("--resources {}", path.display()))?,
        };
        for (group, field, value) in self.overrides() {
            if !value.is_null() {
                all[group][field] = value;
            }
        }
        serde_json::from_value(all).context("resources")
    }

    fn overrides(&self) -> [(&'static str, &'static str, Value); 10] {
        [
            ("memory", "limit", json!(self.memory)),
            ("memory", "swap", json!(self.memory_swap)),
            ("memory", "reservation", json!(self.memory_reservation)),
            ("cpu", "quota", json!(self.cpu_quota)),
            ("cpu", "period", json!(self.cpu_period)),
            ("cpu", "shares", json!(self.cpu_share)),
            ("cpu", "cpus", json!(self.cpuset_cpus)),
            ("cpu", "mems", json!(self.cpuset_mems)),
            ("blockIO", "weight", json!(self.blkio_weight)),
            ("pids", "limit", json!(self.pids_limit)),
        ]
    }
}

/// Limit for the document; limits have some hundred bytes.
const LONGEST: u64 = 1 << 20;

fn read(path: &Path) -> anyhow::Result<Value> {
    let mut bytes = Vec::new();
    let from: Box<dyn Read> =
        if path.as_os_str() == "-" { Box::new(std::io::stdin()) } else { Box::new(File::open(path)?) };
    from.take(LONGEST).read_to_end(&mut bytes)?;
    let value: Value = serde_json::from_slice(&bytes)?;
    anyhow::ensure!(value.is_object(), "it is no JSON object");
    Ok(value)
}
