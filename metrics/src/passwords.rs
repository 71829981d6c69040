//! Texts for logs and traces, which are shipped to more places than the data of this host.

/// The text without `USER:PASSWORD@`, which stands in image references that are refused.
#[must_use]
pub fn without_passwords(text: &str) -> String {
    let parts =
        text.split_inclusive(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'' | '(' | ')'));
    let is_digest = |after: &str| ["sha256:", "sha512:"].iter().any(|kind| after.starts_with(kind));
    parts
        .map(|part| match part.rsplit_once('@') {
            Some((before, after)) if before.contains(':') && !is_digest(after) => format!("***@{after}"),
            _ => part.to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_left_out_and_digests_stay() {
        for (text, clean) in [
            (
                "image: \"https://ann:hunter2@r.test/a:1\" is refused",
                "image: \"https://***@r.test/a:1\" is refused",
            ),
            ("ann:hunter2@r.test/a", "***@r.test/a"),
            ("r.test:5000/a:1@sha256:00, mail@r.test", "r.test:5000/a:1@sha256:00, mail@r.test"),
        ] {
            assert_eq!(without_passwords(text), clean);
        }
    }
}
