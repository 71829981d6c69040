//! Texts for logs and traces, which are shipped to more places than the data of this host.

/// The text without `USER:PASSWORD@`, which stands in image references that are refused.
#[must_use]
pub fn without_passwords(text: &str) -> String {
    let words = text.split_inclusive(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '(' | ')'));
    words.map(without_password).collect()
}

/// A password may have any character of a word, also `/` and `@`.
fn without_password(word: &str) -> String {
    let (scheme, rest) = word.split_at(word.find("://").map_or(0, |at| at + 3));
    let is_digest = |after: &str| ["sha256:", "sha512:"].iter().any(|kind| after.starts_with(kind));
    let mut ats = rest.match_indices('@').map(|(at, _)| at);
    match ats.rfind(|at| !is_digest(&rest[at + 1..])) {
        Some(at) if rest[..at].contains(':') => format!("{scheme}***{}", &rest[at..]),
        _ => word.to_owned(),
    }
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
            ("AWS:eyJ/hunter2+x=@1.ecr.test/a@sha256:00", "***@1.ecr.test/a@sha256:00"),
            ("ann:hunt@er2@r.test/a", "***@r.test/a"),
            ("r.test:5000/a:1@sha256:00, mail@r.test", "r.test:5000/a:1@sha256:00, mail@r.test"),
        ] {
            assert_eq!(without_passwords(text), clean);
        }
    }
}
