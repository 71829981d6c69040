//! Times for people and times of log lines. All of them are nanoseconds since 1970-01-01 UTC.

use crisp_operation::{clock, parse_duration};
use jiff::Timestamp;

/// The age in the largest unit that fits.
pub fn ago(then: i64, now: i64) -> String {
    format!("{} ago", span(then, now))
}

/// The time from `then` to `now` in the largest unit that fits.
pub fn span(then: i64, now: i64) -> String {
    let seconds = (now - then).max(0) / 1_000_000_000;
    let (count, unit) = match seconds {
        ..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// A time for people and programs, in the form of RFC 3339. Empty for 0.
pub fn shown(time: i64) -> String {
    if time == 0 {
        return String::new();
    }
    Timestamp::from_nanosecond(time.into()).map_or(String::new(), |time| time.to_string())
}

/// A moment that the user names: a time in the form of RFC 3339, seconds since 1970, or an age such as `10m`.
///
/// # Errors
/// The text has another form; the error names `flag`.
pub fn moment(flag: &str, text: &str) -> anyhow::Result<i64> {
    if let Some(time) = parse(text) {
        return Ok(time);
    }
    if let Ok(seconds) = text.parse::<f64>() {
        // Limited, because times are compared and subtracted: the whole range would overflow.
        return Ok((seconds * 1e9).clamp(0.0, 9.2e18) as i64);
    }
    let ago = parse_duration(text).ok_or_else(|| {
        anyhow::anyhow!(
            "{flag} {text:?}: expected an age such as 10m, or a time such as 2026-01-01T12:00:00Z"
        )
    })?;
    Ok(clock::now().saturating_sub(i64::try_from(ago.as_nanos()).unwrap_or(i64::MAX)))
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
    fn moments_are_times_and_ages() {
        assert_eq!(moment("--since", "1970-01-01T00:00:01Z").unwrap(), 1_000_000_000);
        assert_eq!(moment("--since", "1.5").unwrap(), 1_500_000_000);
        let moment_of_age = moment("--since", "1m").unwrap();
        let minute_ago = clock::now() - moment_of_age;
        assert!((60_000_000_000..70_000_000_000).contains(&minute_ago), "{minute_ago}");
        assert!(moment("--until", "noon").unwrap_err().to_string().contains("--until"));
        assert_eq!(shown(1_000_000_000), "1970-01-01T00:00:01Z");
    }

    #[test]
    fn ages_are_in_the_largest_unit() {
        let second = 1_000_000_000;
        assert_eq!(ago(0, second), "1 second ago");
        assert_eq!(ago(0, 7200 * second), "2 hours ago");
        assert_eq!(ago(5 * second, 0), "0 seconds ago");
    }
}
