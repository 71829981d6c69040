//! Times for people and times of log lines. All of them are nanoseconds since 1970-01-01 UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// How long ago, in the largest unit that fits.
pub fn ago(then: i64, now: i64) -> String {
    let seconds = (now - then).max(0) / 1_000_000_000;
    let (count, unit) = match seconds {
        ..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// Reads a time in the form of RFC 3339, with any offset and up to nine decimals.
pub fn parse(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let at = |i: usize| text.as_bytes().get(i).copied();
    if at(4)? != b'-' || at(7)? != b'-' || !matches!(at(10)?, b'T' | b't' | b' ') || at(13)? != b':' {
        return None;
    }
    let days = days_from_civil(number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let seconds = days * 86_400 + number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    let mut rest = text.get(19..)?;
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        let nine: String =
            fraction.get(..digits.min(9))?.chars().chain("000000000".chars()).take(9).collect();
        nanos = nine.parse().ok()?;
        rest = fraction.get(digits..)?;
    }
    Some((seconds - offset(rest)?) * 1_000_000_000 + nanos)
}

/// Seconds east of UTC.
fn offset(text: &str) -> Option<i64> {
    if text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = match text.chars().next()? {
        '+' => 1,
        '-' => -1,
        _ => return None,
    };
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    Some(sign * (hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60))
}

/// Days since 1970-01-01 of a date in the Gregorian calendar. Years are counted from March, so that the
/// leap day is the last of its year.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Reads a duration as Kubernetes writes them: `300ms`, `10s`, `5m`, `1h30m`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration: expected for example 10s, 5m or 1h30m");
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: u32 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let one = match &rest[digits..digits + unit] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            "d" => Duration::from_secs(86_400),
            _ => return Err(wrong()),
        };
        total += one * count;
        rest = &rest[digits + unit..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, time) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2024-02-29T12:34:56Z", 1_709_210_096),
            ("2026-11-21T09:31:05Z", 1_795_253_465),
        ] {
            assert_eq!(parse(text), Some(time * 1_000_000_000), "{text}");
        }
        assert_eq!(parse("1970-01-01T01:00:00.000000001+01:00"), Some(1));
        assert_eq!(parse("1970-01-01T00:00:00.5Z"), Some(500_000_000));
        for text in
            ["", "1970-01-01", "1970-01-01T00:00:00", "x970-01-01T00:00:00Z", "yesterday at noon, roughly"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("7"), Ok(Duration::from_secs(7)));
        assert_eq!(parse_duration("300ms"), Ok(Duration::from_millis(300)));
        for text in ["", "s", "1x", "1h30", "-1s", "1.5h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ages_are_in_the_largest_unit() {
        let second = 1_000_000_000;
        assert_eq!(ago(0, second), "1 second ago");
        assert_eq!(ago(0, 7200 * second), "2 hours ago");
        assert_eq!(ago(5 * second, 0), "0 seconds ago");
    }
}
