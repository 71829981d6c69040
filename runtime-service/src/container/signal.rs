//! Signals by name and number, as Dockerfiles (`STOPSIGNAL SIGRTMIN+3`, `STOPSIGNAL 9`), manifests
//! and the CRI write them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The first real-time signal for programs: libc uses 32 and 33 itself.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The x86-64 and arm64 numbers; other names of a number come after the usual one.
const NAMES: [(&str, i32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// A signal number from 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct Signal(i32);

/// The error for a text that is not a signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a signal: expected a number from 1 to 64 or a name such as SIGTERM or SIGRTMIN+3")]
pub struct InvalidSignal(String);

impl Signal {
    pub const TERM: Self = Self(15);
    pub const KILL: Self = Self(9);

    /// Parses `15`, `TERM`, `SIGTERM`, `sigterm`, `RTMIN`, `SIGRTMIN+3`, `SIGRTMAX-1`.
    ///
    /// # Errors
    /// [`InvalidSignal`] for everything else.
    pub fn parse(text: &str) -> Result<Self, InvalidSignal> {
        let refuse = || InvalidSignal(text.chars().take(40).collect());
        if let Ok(number) = text.parse::<i32>() {
            return Self::try_from(number).map_err(|_| refuse());
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(Self(*number));
        }
        realtime(name).ok_or_else(refuse)
    }

    /// The number that kill(2) takes.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }
}

fn realtime(name: &str) -> Option<Signal> {
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        RTMIN + offset(rest, '+')?
    } else {
        RTMAX - offset(name.strip_prefix("RTMAX")?, '-')?
    };
    (RTMIN..=RTMAX).contains(&number).then_some(Signal(number))
}

fn offset(rest: &str, sign: char) -> Option<i32> {
    if rest.is_empty() {
        return Some(0);
    }
    let digits = rest.strip_prefix(sign)?;
    (digits.bytes().all(|b| b.is_ascii_digit()) && digits.len() <= 2).then(|| digits.parse().ok()).flatten()
}

impl TryFrom<i32> for Signal {
    type Error = InvalidSignal;
    fn try_from(number: i32) -> Result<Self, InvalidSignal> {
        if (1..=RTMAX).contains(&number) { Ok(Self(number)) } else { Err(InvalidSignal(number.to_string())) }
    }
}

impl From<Signal> for i32 {
    fn from(signal: Signal) -> Self {
        signal.0
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = NAMES.iter().find(|(_, number)| *number == self.0) {
            return write!(f, "SIG{name}");
        }
        match self.0 {
            RTMIN => f.write_str("SIGRTMIN"),
            RTMAX => f.write_str("SIGRTMAX"),
            n if n > RTMIN && n <= RTMIN + 15 => write!(f, "SIGRTMIN+{}", n - RTMIN),
            n if n > RTMIN => write!(f, "SIGRTMAX-{}", RTMAX - n),
            n => write!(f, "{n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("15", 15),
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigkill", 9),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("RTMAX", 64),
            ("37", 37),
            ("SIGCLD", 17),
        ] {
            assert_eq!(Signal::parse(text).map(Signal::number), Ok(number), "{text}");
        }
    }

    #[test]
    fn refused() {
        for text in
            ["", "0", "65", "-1", "SIG", "SIGNOPE", "RTMIN-1", "RTMIN+31", "RTMIN+x", "RTMIN++1", "RTMAX-99"]
        {
            assert!(Signal::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_number_prints_and_reads_back() {
        for number in (1..=31).chain(34..=64) {
            let signal = Signal(number);
            assert_eq!(Signal::parse(&signal.to_string()), Ok(signal));
        }
    }
}
