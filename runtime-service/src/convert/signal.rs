//! The contract's signal enum. Its numbers are not those of the kernel, so the conversion uses the names.

use std::sync::LazyLock;

use crisp_proto::runtime::v1 as proto;

use super::{ConvertError, invalid};
use crate::container::signal::Signal;

/// SIGNAL_SIGABRT to SIGNAL_SIGRTMAX.
const NUMBERS: std::ops::RangeInclusive<i32> = 1..=65;

/// Every value of the enum with its signal, in the order of the enum. Two values may mean one signal
/// (SIGCHLD and SIGCLD).
static SIGNALS: LazyLock<Vec<(proto::Signal, Signal)>> = LazyLock::new(|| {
    let values = NUMBERS.filter_map(|number| proto::Signal::try_from(number).ok());
    values.filter_map(|value| Some((value, Signal::parse(&usual_name(value)).ok()?))).collect()
});

/// `SIGNAL_SIGRTMINPLUS3` → `SIGRTMIN+3`.
fn usual_name(signal: proto::Signal) -> String {
    signal.as_str_name().trim_start_matches("SIGNAL_").replace("PLUS", "+").replace("MAXMINUS", "MAX-")
}

/// None for SIGNAL_RUNTIME_DEFAULT.
///
/// # Errors
/// [`ConvertError`] for a number that the enum does not have.
pub fn from_proto(field: &str, value: i32) -> Result<Option<Signal>, ConvertError> {
    if value == proto::Signal::RuntimeDefault as i32 {
        return Ok(None);
    }
    let found = SIGNALS.iter().find(|(known, _)| *known as i32 == value);
    let unknown = || invalid(field, format!("{value} is not a value of this enum"));
    found.map(|(_, signal)| Some(*signal)).ok_or_else(unknown)
}

/// The first value for `signal`, or SIGNAL_RUNTIME_DEFAULT if there is none: the contract lacks some
/// real-time signals.
#[must_use]
pub fn to_proto(signal: Signal) -> proto::Signal {
    let found = SIGNALS.iter().find(|(_, known)| *known == signal);
    found.map_or(proto::Signal::RuntimeDefault, |(value, _)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_the_enum_means_a_signal_and_back() {
        for number in NUMBERS {
            let signal = from_proto("f", number).unwrap().unwrap();
            let back = from_proto("f", to_proto(signal) as i32).unwrap().unwrap();
            assert_eq!(back, signal, "{number}");
        }
        assert_eq!(from_proto("f", 0).unwrap(), None);
        assert_eq!(from_proto("f", 23).unwrap(), Some(Signal::TERM));
        for unknown in [-1, 66, i32::MAX] {
            assert!(from_proto("f", unknown).unwrap_err().to_string().starts_with("f: "), "{unknown}");
        }
    }

    #[test]
    fn real_time_signals_keep_their_distance() {
        let number = |value: proto::Signal| from_proto("f", value as i32).unwrap().unwrap().number();
        assert_eq!(number(proto::Signal::Sigrtmin), 34);
        assert_eq!(number(proto::Signal::Sigrtminplus1), 35);
        assert_eq!(number(proto::Signal::Sigrtminplus3), 37);
        assert_eq!(number(proto::Signal::Sigrtminplus15), 49);
        assert_eq!(number(proto::Signal::Sigrtmaxminus14), 50);
        assert_eq!(number(proto::Signal::Sigrtmaxminus1), 63);
        assert_eq!(number(proto::Signal::Sigrtmax), 64);
    }

    #[test]
    fn an_images_text_and_the_enum_mean_the_same_signal() {
        let value = proto::Signal::Sigrtminplus3;
        let by_enum = from_proto("f", value as i32).unwrap();
        for text in ["SIGRTMIN+3", "RTMIN+3", "rtmin+3", "37"] {
            let signal = Signal::parse(text).unwrap();
            assert_eq!((Some(signal), to_proto(signal)), (by_enum, value), "{text}");
        }
    }
}
