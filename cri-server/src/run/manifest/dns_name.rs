//! Names of Kubernetes objects.

/// Whether it can be the name of a Kubernetes object (RFC 1123).
pub fn is_dns_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |l: &str| {
        l.bytes().all(|b| plain(b) || b == b'-')
            && l.bytes().next().is_some_and(plain)
            && l.bytes().next_back().is_some_and(plain)
    };
    text.len() <= 253 && text.split('.').all(label)
}
