//! io (v2) and blkio (v1): weights and rates, and bytes and requests per device.

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};
use rustix::io::Errno;

use super::dir::Dir;
use super::error::CgroupError;
use super::psi;
use super::resources::{BlockIo, IoRate, IoRateKind, IoWeight, invalid};
use super::stats::{Detail, IoDeviceStats, IoStats};

/// Of weights in v1 and for BFQ.
const WEIGHTS: std::ops::RangeInclusive<u16> = 10..=1000;

impl BlockIo {
    pub(super) fn from_spec(spec: &LinuxBlockIo) -> Result<Self, CgroupError> {
        let field = |name: &str| format!("linux.resources.blockIO.{name}");
        let devices = || spec.weight_device().iter().flatten();
        if spec.leaf_weight().into_iter().chain(devices().filter_map(|d| d.leaf_weight())).any(|w| w != 0) {
            return Err(invalid(field("leafWeight"), "is not supported: Linux has none since 5.0"));
        }
        let number = |name: &str, value: i64| {
            u32::try_from(value)
                .map_err(|_| invalid(field(name), format!("{value} is not a device's number")))
        };
        let mut out = Self { weight: spec.weight().filter(|weight| *weight != 0), ..Self::default() };
        for device in devices() {
            let (major, minor) =
                (number("weightDevice", device.major())?, number("weightDevice", device.minor())?);
            if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
                out.weights.push(IoWeight { major, minor, weight });
            }
        }
        let mut rates = |name: &str, kind, devices: &Option<Vec<LinuxThrottleDevice>>| {
            for device in devices.iter().flatten() {
                let (major, minor) = (number(name, device.major())?, number(name, device.minor())?);
                out.rates.push(IoRate { major, minor, kind, rate: device.rate() });
            }
            Ok::<(), CgroupError>(())
        };
        rates("throttleReadBpsDevice", IoRateKind::ReadBytes, spec.throttle_read_bps_device())?;
        rates("throttleWriteBpsDevice", IoRateKind::WriteBytes, spec.throttle_write_bps_device())?;
        rates("throttleReadIOPSDevice", IoRateKind::Reads, spec.throttle_read_iops_device())?;
        rates("throttleWriteIOPSDevice", IoRateKind::Writes, spec.throttle_write_iops_device())?;
        Ok(out)
    }
}

pub(super) fn check(io: &BlockIo) -> Result<(), CgroupError> {
    let weights = io.weight.into_iter().chain(io.weights.iter().map(|device| device.weight));
    match weights.into_iter().find(|weight| !WEIGHTS.contains(weight)) {
        Some(weight) => Err(invalid("io weight", format!("{weight} is not between 10 and 1000"))),
        None => Ok(()),
    }
}

pub(super) fn apply_v2(dir: &Dir, io: &BlockIo) -> Result<(), CgroupError> {
    let weights =
        io.weights.iter().map(|device| (format!("{}:{}", device.major, device.minor), device.weight));
    for (of, weight) in io.weight.map(|weight| ("default".to_owned(), weight)).into_iter().chain(weights) {
        // One is the scheduler BFQ's, the other that of io.cost: what the host has, takes it.
        let by_bfq = dir.write_opt("io.bfq.weight", &format!("{of} {weight}"))?;
        let value = format!("{of} {}", v2_weight(weight));
        match dir.write_opt("io.weight", &value)? {
            false if !by_bfq => return Err(dir.write_error("io.weight", &value, Errno::NOENT)),
            _ => {}
        }
    }
    for IoRate { major, minor, kind, rate } in &io.rates {
        let key = match kind {
            IoRateKind::ReadBytes => "rbps",
            IoRateKind::WriteBytes => "wbps",
            IoRateKind::Reads => "riops",
            IoRateKind::Writes => "wiops",
        };
        let rate = if *rate == 0 { "max".to_owned() } else { rate.to_string() };
        dir.write("io.max", &format!("{major}:{minor} {key}={rate}"))?;
    }
    Ok(())
}

/// A line through the ends of both ranges, 10 to 1000 and 1 to 10000, as the other runtimes have it.
fn v2_weight(weight: u16) -> u32 {
    1 + (u32::from(weight).saturating_sub(10)) * 9999 / 990
}

pub(super) fn apply_v1(dir: &Dir, io: &BlockIo) -> Result<(), CgroupError> {
    if let Some(weight) = io.weight {
        write_either(dir, ["blkio.weight", "blkio.bfq.weight"], &weight.to_string())?;
    }
    for IoWeight { major, minor, weight } in &io.weights {
        let files = ["blkio.weight_device", "blkio.bfq.weight_device"];
        write_either(dir, files, &format!("{major}:{minor} {weight}"))?;
    }
    for IoRate { major, minor, kind, rate } in &io.rates {
        let file = match kind {
            IoRateKind::ReadBytes => "blkio.throttle.read_bps_device",
            IoRateKind::WriteBytes => "blkio.throttle.write_bps_device",
            IoRateKind::Reads => "blkio.throttle.read_iops_device",
            IoRateKind::Writes => "blkio.throttle.write_iops_device",
        };
        dir.write(file, &format!("{major}:{minor} {rate}"))?;
    }
    Ok(())
}

/// The first is that of kernels before 5.0.
fn write_either(dir: &Dir, [old, new]: [&str; 2], value: &str) -> Result<(), CgroupError> {
    if dir.write_opt(old, value)? { Ok(()) } else { dir.write(new, value) }
}

pub(super) fn stats_v2(dir: &Dir, detail: Detail, buffer: &mut [u8]) -> Result<IoStats, CgroupError> {
    let text = if detail.more { dir.read_opt("io.stat", buffer)? } else { None };
    let devices = text.unwrap_or_default().lines().filter_map(parse_v2).collect();
    Ok(IoStats { devices, psi: psi::read(dir, "io.pressure", buffer)? })
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn parse_v2(line: &str) -> Option<IoDeviceStats> {
    let mut words = line.split_whitespace();
    let mut device = new_device(words.next()?)?;
    for (key, value) in words.filter_map(|w| w.split_once('=')) {
        let value = value.parse().unwrap_or_default();
        match key {
            "rbytes" => device.read_bytes = value,
            "wbytes" => device.write_bytes = value,
            "rios" => device.reads = value,
            "wios" => device.writes = value,
            _ => {}
        }
    }
    Some(device)
}

fn new_device(numbers: &str) -> Option<IoDeviceStats> {
    let (major, minor) = numbers.split_once(':')?;
    Some(IoDeviceStats { major: major.parse().ok()?, minor: minor.parse().ok()?, ..IoDeviceStats::default() })
}

/// v1 counts what the throttling layer has seen, which is all of it.
pub(super) fn stats_v1(dir: &Dir, buffer: &mut [u8]) -> Result<IoStats, CgroupError> {
    let mut devices = Vec::new();
    let mut add = |devices: &mut Vec<_>, file, is_bytes| {
        let text = dir.read_opt(file, buffer)?.unwrap_or_default();
        text.lines().for_each(|line| add_v1(devices, line, is_bytes));
        Ok::<_, CgroupError>(())
    };
    add(&mut devices, "blkio.throttle.io_service_bytes_recursive", true)?;
    // Both files have the same devices: those that were used.
    if !devices.is_empty() {
        add(&mut devices, "blkio.throttle.io_serviced_recursive", false)?;
    }
    Ok(IoStats { devices, psi: None })
}

/// `8:0 Read 123`; the last line, `Total 456`, is not a device's.
fn add_v1(devices: &mut Vec<IoDeviceStats>, line: &str, bytes: bool) {
    let mut words = line.split_whitespace();
    let (Some(numbers), Some(what), Some(value)) = (words.next(), words.next(), words.next()) else { return };
    let (Some(device), Ok(value)) = (new_device(numbers), value.parse()) else { return };
    let known = devices.iter().position(|d| (d.major, d.minor) == (device.major, device.minor));
    let index = known.unwrap_or_else(|| {
        devices.push(device);
        devices.len() - 1
    });
    match (what, bytes) {
        ("Read", true) => devices[index].read_bytes = value,
        ("Write", true) => devices[index].write_bytes = value,
        ("Read", false) => devices[index].reads = value,
        ("Write", false) => devices[index].writes = value,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_dialects_are_read() {
        let v2 = parse_v2("8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=9 dios=9").unwrap();
        let mut v1 = Vec::new();
        for (line, bytes) in [
            ("8:16 Read 1", true),
            ("8:16 Write 2", true),
            ("Total 3", true),
            ("8:16 Read 3", false),
            ("8:16 Write 4", false),
        ] {
            add_v1(&mut v1, line, bytes);
        }
        assert_eq!(v1, [v2]);
    }
}
