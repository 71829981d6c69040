//! CPU use in nano cores. The kernel counts CPU time only, so a rate needs two readings.

/// Two readings within this time give no useful rate; the previous rate is returned then.
const SHORTEST_NS: i64 = 500_000_000;

/// Remembers the last reading and the last rate.
#[derive(Debug, Default)]
pub struct CpuMeter {
    last: Option<(i64, u64)>,
    rate: Option<u64>,
}

impl CpuMeter {
    /// Takes a reading: time and CPU time used so far, both in nanoseconds. Returns nano cores, once
    /// there are two readings.
    pub fn read(&mut self, at: i64, used: u64) -> Option<u64> {
        match self.last {
            // A lower value than before belongs to a new cgroup. A clock that was set back gives no time to
            // divide by.
            Some((then, before)) if used < before || at < then => {
                self.last = Some((at, used));
                self.rate = None;
            }
            Some((then, before)) if at - then >= SHORTEST_NS => {
                let elapsed = u128::from((at - then).unsigned_abs());
                let rate = u128::from(used - before) * 1_000_000_000 / elapsed;
                self.rate = u64::try_from(rate).ok();
                self.last = Some((at, used));
            }
            Some(_) => {}
            None => self.last = Some((at, used)),
        }
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn half_a_core_is_half_a_core() {
        let mut meter = CpuMeter::default();
        assert_eq!(meter.read(0, 0), None);
        assert_eq!(meter.read(2 * SECOND, 1_000_000_000), Some(500_000_000));
    }

    #[test]
    fn readings_in_quick_succession_repeat_the_rate() {
        let mut meter = CpuMeter::default();
        meter.read(0, 0);
        meter.read(SECOND, 1_000_000_000);
        assert_eq!(meter.read(SECOND + 1, 1_000_000_001), Some(1_000_000_000));
        assert_eq!(meter.read(2 * SECOND, 1_000_000_000), Some(0));
    }

    #[test]
    fn a_clock_set_back_costs_one_reading() {
        let mut meter = CpuMeter::default();
        meter.read(10 * SECOND, 0);
        assert_eq!(meter.read(12 * SECOND, 2_000_000_000), Some(1_000_000_000));
        assert_eq!(meter.read(5 * SECOND, 3_000_000_000), None);
        assert_eq!(meter.read(7 * SECOND, 4_000_000_000), Some(500_000_000));
    }

    #[test]
    fn a_lower_counter_starts_again() {
        let mut meter = CpuMeter::default();
        meter.read(0, 9_000);
        assert_eq!(meter.read(SECOND, 10), None);
        assert_eq!(meter.read(2 * SECOND, 1_000_000_010), Some(1_000_000_000));
    }
}
