//! Kubernetes quantities: `100m`, `1.5`, `64Mi`, `1e3`.

use super::strict_object::Object;

/// Requests and limits of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resources {
    /// Requested thousandths of a processor.
    pub cpu_request: Option<u64>,
    /// Limit in thousandths of a processor.
    pub cpu_limit: Option<u64>,
    /// Requested bytes.
    pub memory_request: Option<u64>,
    /// Limit in bytes.
    pub memory_limit: Option<u64>,
}

impl Resources {
    /// Reads `resources`. Without a request, the limit is the request, as in the API server.
    pub fn read(parent: &Object<'_>) -> Self {
        let Some(object) = parent.object("resources") else { return Self::default() };
        let (cpu_limit, memory_limit) = amounts(&object, "limits");
        let (cpu_request, memory_request) = amounts(&object, "requests");
        object.unsupported(&["claims"]);
        object.finish();
        for (name, request, limit) in
            [("cpu", cpu_request, cpu_limit), ("memory", memory_request, memory_limit)]
        {
            if request.zip(limit).is_some_and(|(request, limit)| request > limit) {
                object.refuse(&format!("requests.{name}"), "is more than the limit");
            }
        }
        Self {
            cpu_request: cpu_request.or(cpu_limit),
            cpu_limit,
            memory_request: memory_request.or(memory_limit),
            memory_limit,
        }
    }
}

fn amounts(resources: &Object<'_>, name: &str) -> (Option<u64>, Option<u64>) {
    let Some(object) = resources.object(name) else { return (None, None) };
    let read = |name, unit| {
        let text = object.quantity(name)?;
        let amount = parse(&text, unit);
        if amount.is_none() {
            object.refuse(name, format_args!("{text:?} is not a quantity, as in 100m, 1.5, 64Mi or 1G"));
        }
        amount
    };
    let amounts = (read("cpu", 1000), read("memory", 1));
    if name == "requests" {
        // Only a scheduler uses it.
        object.without_effect(&["ephemeral-storage"]);
    }
    let known = |key: &str| matches!((name, key), (_, "cpu" | "memory") | ("requests", "ephemeral-storage"));
    for key in object.keys().filter(|key| !known(key)) {
        // Read here so that finish() does not report it: these keys are names of resources, not fields.
        object.quantity(key);
        object.refuse(key, "not supported by crisp run yet: only cpu and memory are");
    }
    object.finish();
    amounts
}

/// A request or limit of a container, for a variable or a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceRef {
    /// None for the container to which the variable belongs.
    pub container: Option<String>,
    pub kind: ResourceKind,
    /// The unit: thousandths of a processor, or bytes.
    pub divisor: u64,
}

/// The resource and whether the request or the limit is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResourceKind {
    CpuLimit,
    CpuRequest,
    MemoryLimit,
    MemoryRequest,
}

/// Reads a `resourceFieldRef`.
pub fn resource_ref(object: &Object<'_>) -> Option<ResourceRef> {
    let container = object.string("containerName").filter(|name| !name.is_empty());
    let kinds = [
        ("limits.cpu", ResourceKind::CpuLimit),
        ("requests.cpu", ResourceKind::CpuRequest),
        ("limits.memory", ResourceKind::MemoryLimit),
        ("requests.memory", ResourceKind::MemoryRequest),
    ];
    if object.value("resource").is_none() {
        object.refuse("resource", "is required");
    }
    let kind = object.word("resource", &kinds);
    let divisor = object.quantity("divisor");
    object.finish();
    let kind = kind?;
    let unit = if matches!(kind, ResourceKind::CpuLimit | ResourceKind::CpuRequest) { 1000 } else { 1 };
    let divisor = match divisor.as_deref() {
        None | Some("0" | "") => unit,
        Some(text) => parse(text, unit).filter(|divisor| *divisor != 0).or_else(|| {
            object.refuse("divisor", format_args!("{text:?} is not a quantity"));
            None
        })?,
    };
    Some(ResourceRef { container, kind, divisor })
}

/// Bytes of a size such as that of an `emptyDir`.
pub fn bytes(text: &str) -> Option<u64> {
    parse(text, 1)
}

/// Reads a quantity in units of 1/`parts`, rounded up as Kubernetes does.
fn parse(text: &str, parts: u64) -> Option<u64> {
    let number_end = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, suffix) = text.split_at(number_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 9 {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let (times, over) = scale(suffix)?;
    let over = over * 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let amount = digits.checked_mul(times)?.checked_mul(parts.into())?.div_ceil(over);
    u64::try_from(amount).ok().filter(|a| i64::try_from(*a).is_ok())
}

/// The factor of a suffix, as a fraction.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    let power = |base: u128, exponent| Some((base.pow(exponent), 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "k" => power(1000, 1),
        "M" => power(1000, 2),
        "G" => power(1000, 3),
        "T" => power(1000, 4),
        "P" => power(1000, 5),
        "E" => power(1000, 6),
        "Ki" => power(1024, 1),
        "Mi" => power(1024, 2),
        "Gi" => power(1024, 3),
        "Ti" => power(1024, 4),
        "Pi" => power(1024, 5),
        "Ei" => power(1024, 6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            match exponent.strip_prefix('-') {
                Some(negative) => Some((1, 10u128.pow(negative.parse().ok().filter(|e| *e <= 18)?))),
                None => power(
                    10,
                    exponent.strip_prefix('+').unwrap_or(exponent).parse().ok().filter(|e| *e <= 18)?,
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        let bytes = [
            ("0", 0),
            ("1", 1),
            ("64Mi", 64 << 20),
            ("1.5Gi", 3 << 29),
            ("1k", 1000),
            ("1e3", 1000),
            ("2E", 2 * 10u64.pow(18)),
            ("0.5", 1),
            ("1500m", 2),
            (".5k", 500),
            ("5e-1", 1),
        ];
        for (text, value) in bytes {
            assert_eq!(parse(text, 1), Some(value), "{text}");
        }
        for (text, value) in [("100m", 100), ("1", 1000), ("1.5", 1500), ("0.0001", 1), ("2u", 1)] {
            assert_eq!(parse(text, 1000), Some(value), "{text}");
        }
        for text in ["", ".", "m", "-1", "1.2.3", "1x", "1mi", "1 Gi", "1e", "100E", "1e99", "Mi"] {
            assert_eq!(parse(text, 1), None, "{text}");
        }
    }
}
