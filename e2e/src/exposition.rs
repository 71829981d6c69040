//! Reads pages in the Prometheus text format.

use std::collections::BTreeMap;

use crate::Result;

/// One sample of a page.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The name of its metric.
    pub family: String,
    /// `counter`, `gauge`...; empty when the page does not tell.
    pub kind: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
    /// Milliseconds since 1970; None for the time of the scrape.
    pub at: Option<i64>,
}

impl Sample {
    /// The value of a label; empty for one that it does not have.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// Reads all samples of a page.
///
/// # Errors
/// The first line that is not in the format.
pub fn parse(page: &str) -> Result<Vec<Sample>> {
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let mut samples = Vec::new();
    for line in page.lines().filter(|line| !line.is_empty()) {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            kinds.insert(name, kind);
        } else if !line.starts_with('#') {
            let mut sample = sample(line).ok_or_else(|| format!("not a sample: {line:?}"))?;
            kinds.get(&*sample.family).copied().unwrap_or_default().clone_into(&mut sample.kind);
            samples.push(sample);
        }
    }
    Ok(samples)
}

/// `name{label="value",...} value timestamp`, in which labels and timestamp may be missing.
fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (family, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let mut words = rest.split_whitespace();
    let value = words.next()?.parse().ok()?;
    let at = words.next().map(str::parse).transpose().ok()?;
    Some(Sample { family: family.to_owned(), kind: String::new(), labels, value, at })
}

/// The labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        labels.insert(name.to_owned(), value);
        rest = after.strip_prefix(',').unwrap_or(after);
    }
}

/// A value up to its closing quote, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_values_and_times_are_read() {
        let page = "# HELP a_total Help.\n# TYPE a_total counter\na_total{x=\"1\",y=\"a,\\\"}\\n\"} 1.5e+3 1700\n\nb 2\n";
        let samples = parse(page).unwrap();
        assert_eq!((&*samples[0].family, &*samples[0].kind), ("a_total", "counter"));
        assert_eq!((samples[0].label("x"), samples[0].label("y")), ("1", "a,\"}\n"));
        assert_eq!((samples[0].value, samples[0].at), (1500.0, Some(1700)));
        assert_eq!((&*samples[1].kind, samples[1].value, samples[1].at), ("", 2.0, None));
    }

    #[test]
    fn a_line_that_is_cut_off_is_an_error() {
        for line in ["a{x=\"1", "a{x=\"1\"}", "a", "a b", "a 1 soon"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
