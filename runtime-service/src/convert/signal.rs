//! The contract's signal enum. Its numbers are its own, so the way leads over the names.

use crisp_proto::runtime::v1 as proto;

use super::{ConvertError, invalid};
use crate::container::signal::Signal;

/// None for SIGNAL_RUNTIME_DEFAULT.
///
/// # Errors
/// [`ConvertError`] for a number that the enum does not have.
pub fn from_proto(field: &str, value: i32) -> Result<Option<Signal>, ConvertError> {
    let known = proto::Signal::try_from(value)
        .map_err(|_| invalid(field, format!("{value} is not a value of this enum")))?;
    if known == proto::Signal::RuntimeDefault {
        return Ok(None);
    }
    Signal::parse(&our_name(known)).map(Some).map_err(|e| invalid(field, e.to_string()))
}

/// `SIGNAL_SIGRTMINPLUS3` → `SIGRTMIN+3`.
fn our_name(signal: proto::Signal) -> String {
    signal.as_str_name().trim_start_matches("SIGNAL_").replace("PLUS", "+").replace("MAXMINUS", "MAX-")
}

/// The enum value whose name stands for `signal`.
#[must_use]
pub fn to_proto(signal: Signal) -> proto::Signal {
    let numbers = 1..=65;
    numbers
        .filter_map(|n| proto::Signal::try_from(n).ok())
        .find(|known| Signal::parse(&our_name(*known)) == Ok(signal))
        .unwrap_or(proto::Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_the_enum_means_a_signal_and_back() {
        for number in 1..=65 {
            let signal = from_proto("f", number).unwrap().unwrap();
            let back = from_proto("f", to_proto(signal) as i32).unwrap().unwrap();
            assert_eq!(back, signal, "{number}");
        }
        assert_eq!(from_proto("f", 0).unwrap(), None);
        assert_eq!(from_proto("f", 23).unwrap(), Some(Signal::TERM));
        assert_eq!(from_proto("f", 38).unwrap().map(Signal::number), Some(37));
    }
}
