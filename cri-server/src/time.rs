//! Times for people and times of log lines. All of them are nanoseconds since 1970-01-01 UTC.

use jiff::Timestamp;

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
    let time: Timestamp = text.parse().ok()?;
    i64::try_from(time.as_nanosecond()).ok()
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
    fn ages_are_in_the_largest_unit() {
        let second = 1_000_000_000;
        assert_eq!(ago(0, second), "1 second ago");
        assert_eq!(ago(0, 7200 * second), "2 hours ago");
        assert_eq!(ago(5 * second, 0), "0 seconds ago");
    }
}
