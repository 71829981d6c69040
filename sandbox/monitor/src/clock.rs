//! The time, and its form in log lines. The server's clock is in a crate that is too large for a monitor.

use rustix::time::{ClockId, clock_gettime};

const BILLION: i64 = 1_000_000_000;

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec.saturating_mul(BILLION).saturating_add(now.tv_nsec)
}

/// `2006-01-02T15:04:05.000000000Z`.
pub(crate) const STAMP_LEN: usize = 30;

/// Writes the UTC time in the form of CRI logs.
pub(crate) fn stamp(ns: i64, into: &mut [u8; STAMP_LEN]) {
    let (seconds, nanos) = (ns.div_euclid(BILLION), ns.rem_euclid(BILLION));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    *into = *b"0000-00-00T00:00:00.000000000Z";
    for (at, width, value) in [
        (0, 4, year),
        (5, 2, month),
        (8, 2, day),
        (11, 2, second / 3600),
        (14, 2, second / 60 % 60),
        (17, 2, second % 60),
        (20, 9, nanos),
    ] {
        digits(&mut into[at..at + width], value);
    }
}

fn digits(into: &mut [u8], mut value: i64) {
    for digit in into.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
///
/// Counts in years that begin in March, so that the leap day is the last of its year, and in eras
/// of 400 years, which all have the same length.
fn civil(days: i64) -> (i64, i64, i64) {
    const ERA: i64 = 146_097;
    let since_era_start = days + 719_468;
    let (era, day) = (since_era_start.div_euclid(ERA), since_era_start.rem_euclid(ERA));
    let year = (day - day / 1_460 + day / 36_524 - day / (ERA - 1)) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(ns: i64) -> String {
        let mut bytes = [0; STAMP_LEN];
        stamp(ns, &mut bytes);
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn known_moments() {
        assert_eq!(text(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(text(951_782_400 * BILLION), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(text(1_136_214_245 * BILLION + 7), "2006-01-02T15:04:05.000000007Z");
        assert_eq!(text(4_102_444_799 * BILLION + 999_999_999), "2099-12-31T23:59:59.999999999Z");
        assert_eq!(text(1_709_164_799 * BILLION), "2024-02-28T23:59:59.000000000Z");
        assert_eq!(text(1_709_251_200 * BILLION), "2024-03-01T00:00:00.000000000Z");
    }
}
