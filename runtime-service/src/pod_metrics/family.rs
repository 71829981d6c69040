//! The description of a metric, and the receiver of its samples.

/// One metric with cAdvisor's name.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    /// Labels in addition to [`Subject::LABELS`](super::Subject::LABELS).
    pub labels: &'static [&'static str],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// A value in the unit in which it was counted. Times are converted to seconds for the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    Count(u64),
    /// A number that is negative when there is no limit.
    Signed(i64),
    Nanoseconds(u64),
    Microseconds(u64),
}

impl Value {
    /// A whole number, as in the CRI. Negative numbers become 0.
    #[must_use]
    pub fn whole(self) -> u64 {
        match self {
            Self::Count(count) => count,
            Self::Signed(number) => u64::try_from(number).unwrap_or(0),
            Self::Nanoseconds(time) => time / 1_000_000_000,
            Self::Microseconds(time) => time / 1_000_000,
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Signed(number) => number.fmt(f),
            Self::Nanoseconds(time) => write!(f, "{}.{:09}", time / 1_000_000_000, time % 1_000_000_000),
            Self::Microseconds(time) => write!(f, "{}.{:06}", time / 1_000_000, time % 1_000_000),
        }
    }
}

/// Receives the samples of one subject.
pub trait Samples {
    /// `labels` are the values of the family's own labels.
    fn add(&mut self, family: &'static Family, labels: &[&str], value: Value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_seconds() {
        assert_eq!(Value::Nanoseconds(1_020_000_003).to_string(), "1.020000003");
        assert_eq!(Value::Microseconds(2_000_030).to_string(), "2.000030");
        assert_eq!(Value::Nanoseconds(1_999_999_999).whole(), 1);
        assert_eq!((Value::Signed(-1).whole(), Value::Signed(-1).to_string()), (0, "-1".to_owned()));
    }
}
