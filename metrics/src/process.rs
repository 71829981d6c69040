//! The standard `process_*` metrics of the server, read from /proc during a scrape. See proc_pid_stat(5).
//!
//! The prometheus crate has such a collector too. It counts CPU time and start time in whole seconds,
//! which is too coarse for a server that uses milliseconds, and needs the procfs crate.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, Metric, MetricFamily, MetricType};

/// One metric: name, help and type, as the Prometheus client libraries have them.
const METRICS: [(&str, &str, MetricType); 7] = [
    ("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", MetricType::COUNTER),
    ("process_resident_memory_bytes", "Resident memory size in bytes.", MetricType::GAUGE),
    ("process_virtual_memory_bytes", "Virtual memory size in bytes.", MetricType::GAUGE),
    ("process_threads", "Number of OS threads in the process.", MetricType::GAUGE),
    (
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        MetricType::GAUGE,
    ),
    ("process_open_fds", "Number of open file descriptors.", MetricType::GAUGE),
    ("process_max_fds", "Maximum number of open file descriptors.", MetricType::GAUGE),
];

pub(crate) struct ProcessCollector {
    descs: Vec<Desc>,
}

impl ProcessCollector {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let descs = METRICS
            .iter()
            .map(|(name, help, _)| {
                Desc::new(
                    (*name).to_owned(),
                    (*help).to_owned(),
                    Vec::new(),
                    std::collections::HashMap::new(),
                )
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { descs })
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let values = read().unwrap_or([None; 7]);
        METRICS.iter().zip(values).filter_map(|(metric, value)| value.map(|v| family(*metric, v))).collect()
    }
}

fn family((name, help, kind): (&str, &str, MetricType), value: f64) -> MetricFamily {
    let mut metric = Metric::default();
    if kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(vec![metric]);
    family
}

/// The values, in the order of [`METRICS`].
fn read() -> Option<[Option<f64>; 7]> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name in brackets and may contain anything, so fields are counted from the
    // third.
    let fields: Vec<f64> =
        stat.rsplit_once(')')?.1.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    let field = |number: usize| fields.get(number - 4).copied();
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let page = rustix::param::page_size() as f64;
    Some([
        field(14).zip(field(15)).map(|(user, system)| (user + system) / ticks),
        field(24).map(|pages| pages * page),
        field(23),
        field(20),
        field(22).zip(boot_time()).map(|(start, boot)| boot + start / ticks),
        // The folder itself is open while it is read, so one is subtracted.
        std::fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count().saturating_sub(1) as f64),
        rustix::process::getrlimit(rustix::process::Resource::Nofile).current.map(|n| n as f64),
    ])
}

fn boot_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_of_this_process() {
        let [cpu, rss, virt, threads, start, fds, max] = read().unwrap().map(Option::unwrap);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((0.0..600.0).contains(&cpu), "{cpu}");
        assert!(rss > 100_000.0 && rss < virt, "{rss} {virt}");
        assert!(threads >= 1.0);
        assert!(start > now - 3600.0 && start < now + 2.0, "{start} {now}");
        assert!(fds >= 3.0 && fds < max);
    }
}
