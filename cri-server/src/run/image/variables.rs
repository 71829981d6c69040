//! Variables and labels in the syntax of `docker run`: `-e`, `--env-file`, `--label`, `--label-file`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail};

/// A larger file is probably a mistake.
const MOST: u64 = 4 << 20;

/// The variables of all files, then those of `-e`, each name once. A name without a value gets crisp's own
/// value of that variable; if crisp has none, it is left out, as with docker.
///
/// # Errors
/// A file cannot be read, or a name is not valid.
pub fn variables(
    files: &[std::path::PathBuf],
    values: &[String],
    own: impl Fn(&str) -> Option<String>,
) -> anyhow::Result<Vec<(String, String)>> {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut add = |entry: &str| -> Result<(), String> {
        let (name, value) = match entry.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (entry, own(entry)),
        };
        check_name(name)?;
        all.retain(|(other, _)| other != name);
        all.extend(value.map(|value| (name.to_owned(), value)));
        Ok(())
    };
    for path in files {
        for (number, line) in lines(path, "--env-file")?.iter().enumerate() {
            add(line).map_err(|why| {
                anyhow::anyhow!("--env-file {}: entry {}: {why}", path.display(), number + 1)
            })?;
        }
    }
    for entry in values {
        // The error leaves out the value, which may be a secret.
        add(entry).map_err(|why| anyhow::anyhow!("--env: {why}"))?;
    }
    Ok(all)
}

fn check_name(name: &str) -> Result<(), String> {
    match name {
        "" => Err("the name is empty".to_owned()),
        name if name.contains(|c: char| c.is_whitespace() || c == '\0') => {
            Err(format!("{name:?} is no name of a variable: it has a blank in it"))
        }
        _ => Ok(()),
    }
}

/// Labels or annotations; `option` is for errors.
///
/// A file cannot be read, or a key is empty.
/// A file that cannot be read; an empty key.
pub fn pairs(
    option: &str,
    files: &[std::path::PathBuf],
    values: &[String],
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    let mut entries = Vec::new();
    for path in files {
        entries.extend(lines(path, "--label-file")?);
    }
    for entry in entries.iter().chain(values) {
        let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
        if key.is_empty() || key.contains(char::is_whitespace) {
            bail!("{option} {entry:?}: {key:?} is no key");
        }
        all.insert(key.to_owned(), value.to_owned());
    }
    Ok(all)
}

/// Entries of a file without empty lines and comments.
fn lines(path: &Path, option: &str) -> anyhow::Result<Vec<String>> {
    let at = || format!("{option} {}", path.display());
    let size = std::fs::metadata(path).with_context(at)?.len();
    if size > MOST {
        bail!("{}: {size} bytes are more than {MOST}", at());
    }
    let text = std::fs::read_to_string(path).with_context(at)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &[u8], values: &[&str]) -> anyhow::Result<Vec<(String, String)>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("env");
        std::fs::write(&path, text).unwrap();
        let values: Vec<String> = values.iter().map(|text| (*text).to_owned()).collect();
        variables(&[path], &values, |name| (name == "HOME").then(|| "/home/ann".to_owned()))
    }

    #[test]
    fn later_variables_count_and_values_are_taken_as_they_are() {
        let text = "\u{feff}# comment\n\n  A=1\nB=\"x y\" # not a comment\nHOME\nNOT_SET\nC=a=b\r\n";
        let all = of(text.as_bytes(), &["A=2", "D="]).unwrap();
        let expected =
            [("B", "\"x y\" # not a comment"), ("HOME", "/home/ann"), ("C", "a=b"), ("A", "2"), ("D", "")];
        assert_eq!(all, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn names_that_are_none_are_refused_with_their_place() {
        for (text, values, why) in [
            (&b"A=1\nB C=2"[..], &[][..], "entry 2: \"B C\""),
            (b"=1", &[], "the name is empty"),
            (b"\xff", &[], "--env-file"),
            (b"", &["=x"], "--env: the name is empty"),
            (b"", &[""], "--env: the name is empty"),
            (b"", &["A\tB=1"], "--env"),
        ] {
            let error = format!("{:#}", of(text, values).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
        let missing = variables(&["/no-such-file".into()], &[], |_| None).unwrap_err();
        assert!(format!("{missing:#}").contains("--env-file /no-such-file"), "{missing:#}");
    }

    #[test]
    fn labels_have_keys() {
        let values = ["a=1".to_owned(), "b".to_owned(), "a=2".to_owned()];
        let labels = pairs("--label", &[], &values).unwrap();
        assert_eq!(labels, [("a", "2"), ("b", "")].map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        for text in ["=x", "", "a b=c"] {
            let error = pairs("--label", &[], &[text.to_owned()]).unwrap_err().to_string();
            assert!(error.contains("--label"), "{error}");
        }
    }
}
