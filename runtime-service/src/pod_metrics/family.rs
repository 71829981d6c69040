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

impl Value {
    /// The length of the longest text.
    pub(super) const MAX_LENGTH: usize = 22;

    /// Adds the number for the page.
    pub(super) fn write(self, text: &mut String) {
        match self {
            Self::Count(count) => write_digits(text, count, 1),
            Self::Signed(number) => {
                if number < 0 {
                    text.push('-');
                }
                write_digits(text, number.unsigned_abs(), 1);
            }
            Self::Nanoseconds(time) => write_parts(text, time, 9),
            Self::Microseconds(time) => write_parts(text, time, 6),
        }
    }
}

/// With a point before the last `decimals` digits.
fn write_parts(text: &mut String, number: u64, decimals: u32) {
    let unit = 10u64.pow(decimals);
    write_digits(text, number / unit, 1);
    text.push('.');
    write_digits(text, number % unit, decimals as usize);
}

/// With at least `count` digits. A page has a hundred numbers for each container; the formatter of the standard
/// library takes several times as long.
fn write_digits(text: &mut String, mut number: u64, count: usize) {
    let mut digits = [b'0'; 20];
    let mut start = digits.len();
    while number > 0 {
        start -= 1;
        digits[start] += (number % 10) as u8;
        number /= 10;
    }
    let start = start.min(digits.len() - count);
    text.push_str(std::str::from_utf8(&digits[start..]).unwrap_or_default());
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
        assert_eq!(text(Value::Nanoseconds(1_020_000_003)), "1.020000003");
        assert_eq!(text(Value::Microseconds(2_000_030)), "2.000030");
        assert_eq!(text(Value::Microseconds(0)), "0.000000");
        assert_eq!(Value::Nanoseconds(1_999_999_999).whole(), 1);
        assert_eq!((Value::Signed(-1).whole(), text(Value::Signed(-1))), (0, "-1".to_owned()));
    }

    #[test]
    fn numbers_are_those_of_the_standard_library() {
        for number in [0, 1, 9, 10, 99, 100, 12_345, 10_000_000_000, u64::MAX] {
            assert_eq!(text(Value::Count(number)), number.to_string());
            let time = format!("{}.{:09}", number / 1_000_000_000, number % 1_000_000_000);
            assert_eq!(text(Value::Nanoseconds(number)), time);
            assert!(time.len() <= Value::MAX_LENGTH);
        }
        for number in [0, i64::MIN, i64::MAX] {
            assert_eq!(text(Value::Signed(number)), number.to_string());
        }
    }

    fn text(value: Value) -> String {
        let mut text = String::new();
        value.write(&mut text);
        text
    }
}
