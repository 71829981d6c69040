//! Sizes, durations and numbers in the syntax of `docker run`.

use std::time::Duration;

/// docker's minimum: with less, a container cannot start.
const LEAST_MEMORY: u64 = 6 << 20;

/// Restart policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    No,
    OnFailure {
        most: Option<u32>,
    },
    Always,
    /// As always, but the server's start does not start a container that was stopped.
    UnlessStopped,
}

/// Bytes, as `512m` or `1.5g`; units are powers of 1024.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "expected bytes, as 512m or 1g".to_owned();
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "ki" | "kib" => 10,
        "m" | "mb" | "mi" | "mib" => 20,
        "g" | "gb" | "gi" | "gib" => 30,
        "t" | "tb" | "ti" | "tib" => 40,
        _ => return Err(wrong()),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(wrong());
    }
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    let bytes = number * (1_u64 << shift) as f64;
    // A larger number would be negative in the kernel.
    if (1.0..9e18).contains(&bytes) { Ok(bytes as u64) } else { Err(wrong()) }
}

/// A limit of memory.
pub fn memory(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        small if small < LEAST_MEMORY => Err("less than 6m is too little for a container".to_owned()),
        enough => Ok(enough),
    }
}

/// Memory and swap together; -1 for no limit.
pub fn swap(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    bytes(text)
        .map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX))
        .map_err(|why| format!("{why}; -1 for no limit"))
}

/// CPUs, in thousandths.
pub fn cpus(text: &str) -> Result<u64, String> {
    let wrong = || "expected a number of CPUs from 0.01 on, as 1.5".to_owned();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(wrong());
    }
    let number: f64 = text.parse().map_err(|_| wrong())?;
    if (0.01..=1e6).contains(&number) { Ok((number * 1000.0).round() as u64) } else { Err(wrong()) }
}

/// A list of CPUs or memory nodes, as `0-2,4`.
pub fn cpu_list(text: &str) -> Result<String, String> {
    let number = |text: &str| (text.len() <= 5).then(|| text.parse::<u32>().ok()).flatten();
    let is_part = |part: &str| match part.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(first, last)| first <= last),
        None => number(part).is_some(),
    };
    if text.split(',').all(is_part) {
        Ok(text.to_owned())
    } else {
        Err("expected a list as 0-2,4".to_owned())
    }
}

/// Whole seconds, in Go's syntax for durations: `90s`, `1m30s`, `2h`.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a duration, as 30s or 1m30s".to_owned();
    let (mut milliseconds, mut rest) = (0.0, text);
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
        let unit_end = rest[end..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let times = match &rest[end..end + unit_end] {
            "ms" => 1.0,
            "s" => 1000.0,
            "m" => 60_000.0,
            "h" => 3_600_000.0,
            _ => return Err(wrong()),
        };
        milliseconds += number * times;
        rest = &rest[end + unit_end..];
    }
    // Probes count in seconds; a year is longer than any of them.
    if !(0.0..3.2e10).contains(&milliseconds) || milliseconds % 1000.0 != 0.0 {
        return Err("expected whole seconds: a pod's probes have no parts of them".to_owned());
    }
    Ok(Duration::from_millis(milliseconds as u64))
}

/// `no`, `on-failure[:N]`, `always`, `unless-stopped`.
pub fn restart(text: &str) -> Result<Restart, String> {
    let wrong = || "expected no, on-failure[:N], always or unless-stopped".to_owned();
    match text.split_once(':') {
        None if matches!(text, "no" | "") => Ok(Restart::No),
        None if text == "always" => Ok(Restart::Always),
        None if text == "unless-stopped" => Ok(Restart::UnlessStopped),
        None if text == "on-failure" => Ok(Restart::OnFailure { most: None }),
        Some(("on-failure", most)) => {
            let most: u32 = most.parse().map_err(|_| wrong())?;
            // As with docker, 0 means no limit.
            Ok(Restart::OnFailure { most: Some(most).filter(|most| *most != 0) })
        }
        _ => Err(wrong()),
    }
}

/// A signal by name or number, converted to the form of manifests: `SIGTERM`.
pub fn signal(text: &str) -> Result<String, String> {
    const NUMBERS: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let wrong = || "expected a signal by name or number, as TERM, SIGTERM, RTMIN+3 or 15".to_owned();
    if let Ok(number) = name.parse::<usize>() {
        let real_time = number.checked_sub(34).filter(|above| *above <= 15);
        let name =
            number.checked_sub(1).and_then(|index| NUMBERS.get(index)).map(|name| format!("SIG{name}"));
        let rt =
            real_time.map(|above| if above == 0 { "SIGRTMIN".into() } else { format!("SIGRTMIN+{above}") });
        return name.or(rt).ok_or_else(wrong);
    }
    if NUMBERS.contains(&name) || name.starts_with("RTMIN") || name.starts_with("RTMAX") {
        return Ok(format!("SIG{name}"));
    }
    Err(wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dockers_and_others_are_refused() {
        for (text, value) in [
            ("1", 1),
            ("64b", 64),
            ("1k", 1024),
            ("1KB", 1024),
            ("1.5g", 3 << 29),
            ("2Mi", 2 << 20),
            (".5k", 512),
        ] {
            assert_eq!(bytes(text), Ok(value), "{text}");
        }
        for text in [
            "", "m", "-1", "+5m", "0", "1e3", "nan", "inf", "1.2.3", "1x", "12 m", "1mm", "9999999t", "١m",
            "1m\0",
        ] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert!(memory("5m").is_err() && memory("6m") == Ok(6 << 20));
        assert_eq!((swap("-1"), swap("1m")), (Ok(-1), Ok(1 << 20)));
        assert!(swap("-2").is_err() && swap("--1").is_err());
    }

    #[test]
    fn cpus_and_lists_are_read_strictly() {
        for (text, value) in [("1", 1000), ("1.5", 1500), ("0.01", 10), (".25", 250)] {
            assert_eq!(cpus(text), Ok(value), "{text}");
        }
        for text in ["", "0", "0.001", "-1", "1e3", "nan", "1,5", "1.2.3", "99999999"] {
            assert!(cpus(text).is_err(), "{text}");
        }
        for text in ["0", "0-3", "1,3-4,7"] {
            assert_eq!(cpu_list(text).as_deref(), Ok(text));
        }
        for text in ["", ",", "3-1", "a", "1-", "-1", "1,,2", "1-2-3", "999999", "+1\n"] {
            assert!(cpu_list(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_whole_seconds() {
        for (text, value) in
            [("30s", 30), ("1m30s", 90), ("2h", 7200), ("0", 0), ("0s", 0), ("1.5m", 90), ("2000ms", 2)]
        {
            assert_eq!(seconds(text), Ok(Duration::from_secs(value)), "{text}");
        }
        for text in ["", "s", "10", "-1s", "1d", "500ms", "1.5s", "1s s", "1e9s", "99999999h", "1µs", "5s\0"]
        {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn policies_and_signals_are_known_by_name() {
        for (text, value) in [
            ("no", Restart::No),
            ("on-failure", Restart::OnFailure { most: None }),
            ("on-failure:0", Restart::OnFailure { most: None }),
            ("on-failure:3", Restart::OnFailure { most: Some(3) }),
            ("always", Restart::Always),
            ("unless-stopped", Restart::UnlessStopped),
        ] {
            assert_eq!(restart(text), Ok(value), "{text}");
        }
        for text in ["on-failure:", "on-failure:-1", "on-failure:x", "always:3", "never", "Always", "no:1"] {
            assert!(restart(text).is_err(), "{text}");
        }
        for (text, value) in [
            ("TERM", "SIGTERM"),
            ("sigint", "SIGINT"),
            ("9", "SIGKILL"),
            ("34", "SIGRTMIN"),
            ("37", "SIGRTMIN+3"),
            ("RTMIN+3", "SIGRTMIN+3"),
        ] {
            assert_eq!(signal(text).as_deref(), Ok(value), "{text}");
        }
        for text in ["", "0", "SIG", "65", "-9", "FOO", "TERM ", "999999999999999999999"] {
            assert!(signal(text).is_err(), "{text}");
        }
    }
}
