//! The bandwidth limits of a pod, from the annotations of Kubernetes.

use std::collections::BTreeMap;

use super::NetworkError;

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// In bits per second, from the pod's point of view. None for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bandwidth {
    pub ingress: Option<u64>,
    pub egress: Option<u64>,
}

/// Whether it is one of these annotations.
pub(super) fn is_limit(key: &str) -> bool {
    matches!(key, INGRESS | EGRESS)
}

impl Bandwidth {
    /// Reads the annotations.
    pub(super) fn of(annotations: &BTreeMap<String, String>) -> Result<Self, NetworkError> {
        Ok(Self { ingress: limit(annotations, INGRESS)?, egress: limit(annotations, EGRESS)? })
    }
}

fn limit(annotations: &BTreeMap<String, String>, key: &'static str) -> Result<Option<u64>, NetworkError> {
    let Some(text) = annotations.get(key) else { return Ok(None) };
    let bits = quantity(text).filter(|bits| (1_000..=1_000_000_000_000_000).contains(bits));
    bits.map(Some).ok_or_else(|| NetworkError::Annotation {
        key,
        value: text.chars().take(80).collect(),
        why: "expected bits per second from 1k to 1P, like 10M",
    })
}

/// A Kubernetes quantity: a decimal number with a suffix or an exponent, rounded up.
fn quantity(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, suffix) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || fraction.contains('.') || number.len() > 30 {
        return None;
    }
    let mantissa: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scaled = mantissa.checked_mul(factor(suffix)?.into())?;
    let divisor = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    u64::try_from(scaled.div_ceil(divisor)).ok()
}

fn factor(suffix: &str) -> Option<u64> {
    if let Some(exponent) = suffix.strip_prefix(['e', 'E']).filter(|rest| !rest.is_empty()) {
        return 10_u64.checked_pow(exponent.strip_prefix('+').unwrap_or(exponent).parse().ok()?);
    }
    Some(match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(key: &str, value: &str) -> Result<Bandwidth, NetworkError> {
        Bandwidth::of(&BTreeMap::from([(key.to_owned(), value.to_owned())]))
    }

    #[test]
    fn quantities_are_those_of_kubernetes() {
        assert_eq!(of("other", "x").unwrap(), Bandwidth { ingress: None, egress: None });
        assert_eq!(of(EGRESS, "10M").unwrap(), Bandwidth { ingress: None, egress: Some(10_000_000) });
        for (text, bits) in
            [("1.5M", 1_500_000), ("10e6", 10_000_000), ("2E3", 2_000), (".5Mi", 524_288), ("1.k", 1_000)]
        {
            assert_eq!(of(INGRESS, text).unwrap().ingress, Some(bits), "{text}");
        }
        for wrong in ["", ".", "1.2.3M", "1e", "1e99", "10", "fast", "10Mb", "-1M", "9999999P", "2P"] {
            let error = of(INGRESS, wrong).unwrap_err().to_string();
            assert!(error.contains(INGRESS) && error.contains("like 10M"), "{error}");
        }
    }
}
