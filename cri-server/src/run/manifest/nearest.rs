//! Suggests the known name that was probably meant.

/// The name in `known` that differs from `name` by only a few typing errors.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A long name is not a typing error, and would make the table below large.
    let limit = match name.chars().count() {
        0..=2 => 0,
        3 => 1,
        4..=5 => 2,
        6..=64 => 3,
        _ => return None,
    };
    let near = known.map(|other| (distance(&name.to_lowercase(), &other.to_lowercase()), other));
    near.filter(|(distance, _)| *distance <= limit).min().map(|(_, other)| other)
}

/// The number of letters to insert, remove or replace (Levenshtein distance).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_near_and_another_word_is_not() {
        let known = ["livenessProbe", "readinessProbe", "image", "env"];
        for (name, near) in [
            ("livnessProbe", Some("livenessProbe")),
            ("LivenessProbe", Some("livenessProbe")),
            ("imgae", Some("image")),
            ("imag", Some("image")),
            ("envs", Some("env")),
            ("ports", None),
            ("x", None),
        ] {
            assert_eq!(nearest(name, known.into_iter()), near, "{name}");
        }
        assert_eq!(nearest(&"a".repeat(1 << 20), known.into_iter()), None);
    }
}
