//! io (v2) and blkio (v1): bytes and requests per device.

use super::dir::Dir;
use super::error::CgroupError;
use super::psi;
use super::stats::{IoDeviceStats, IoStats};

pub(super) fn stats_v2(dir: &Dir, buffer: &mut [u8]) -> Result<IoStats, CgroupError> {
    let text = dir.read_opt("io.stat", buffer)?.unwrap_or_default();
    let devices = text.lines().filter_map(parse_v2).collect();
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
    let mut stats = IoStats::default();
    for (file, bytes) in
        [("blkio.throttle.io_service_bytes_recursive", true), ("blkio.throttle.io_serviced_recursive", false)]
    {
        for line in dir.read_opt(file, buffer)?.unwrap_or_default().lines() {
            add_v1(&mut stats.devices, line, bytes);
        }
    }
    Ok(stats)
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
