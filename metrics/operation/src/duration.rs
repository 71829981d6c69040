//! Parses durations in settings, flags and files, in one way for all.

use std::time::Duration;

/// Parses a duration as Go and Kubernetes write it, and in days: `300ms`, `1.5h`, `1h30m`, `7d`. Returns None
/// for other texts, also for a number without a unit.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let (number, tail) = rest.split_at(rest.find(|c| !is_number(c))?);
        let (unit, tail) = tail.split_at(tail.find(is_number).unwrap_or(tail.len()));
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        let one = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(one)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go_and_days() {
        for (text, milliseconds) in [
            ("1m30s", 90_000),
            ("1.5s", 1500),
            ("250ms", 250),
            ("1h30m", 5_400_000),
            ("168h", 604_800_000),
            ("7d", 604_800_000),
            ("0s", 0),
            ("2000us", 2),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in
            ["", "5", "s", "-1s", "1y", "1s2", "..s", "1 h", "1e3s", "PT1H", "99999999999999999999h", "1é"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
