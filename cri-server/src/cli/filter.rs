//! `--filter KEY=VALUE`: chooses the rows of a list. A row needs any of several values of one key, but all
//! labels.

use anyhow::{Context as _, bail};

/// The filters of one command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(Vec<(String, String)>);

impl Filters {
    /// Parses filters; `known` are the keys that the command supports.
    ///
    /// # Errors
    /// An unknown key, or no value.
    pub fn parse(texts: &[String], known: &[&str]) -> anyhow::Result<Self> {
        let one = |text: &String| {
            let (key, value) =
                text.split_once('=').with_context(|| format!("--filter {text}: expected KEY=VALUE"))?;
            if !known.contains(&key) {
                bail!("--filter {text}: {key:?} is not a filter; there are {}", known.join(", "));
            }
            Ok((key.to_owned(), value.to_owned()))
        };
        texts.iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    /// Checks that the values of a key are among the known ones: another value would never match.
    ///
    /// # Errors
    /// A value is not known.
    pub fn check(&self, key: &str, known: &[&str]) -> anyhow::Result<()> {
        match self.values(key).find(|value| !known.contains(value)) {
            Some(value) => bail!("--filter {key}={value}: there are {}", known.join(", ")),
            None => Ok(()),
        }
    }

    pub fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub fn has(&self, key: &str) -> bool {
        self.values(key).next().is_some()
    }

    /// Whether one of the key's values is accepted, or the key has no filter.
    pub fn any(&self, key: &str, accepts: impl FnMut(&str) -> bool) -> bool {
        !self.has(key) || self.values(key).any(accepts)
    }

    /// Whether all filters `label=KEY` and `label=KEY=VALUE` match.
    pub fn labels<'a>(&self, mut get: impl FnMut(&str) -> Option<&'a String>) -> bool {
        self.values("label").all(|wanted| match wanted.split_once('=') {
            Some((key, value)) => get(key).is_some_and(|have| have == value),
            None => get(wanted).is_some(),
        })
    }
}

/// Whether a name contains the text; `^` and `$` stand for its ends.
pub fn name_matches(name: &str, wanted: &str) -> bool {
    let (begin, rest) = wanted.strip_prefix('^').map_or((false, wanted), |rest| (true, rest));
    let rest = rest.strip_prefix('/').unwrap_or(rest);
    match (begin, rest.strip_suffix('$')) {
        (true, Some(exact)) => name == exact,
        (true, None) => name.starts_with(rest),
        (false, Some(end)) => name.ends_with(end),
        (false, None) => name.contains(rest),
    }
}

/// Whether a name of an image matches a pattern, with or without its tag: `*` stands for letters within a part of the
/// name, `?` for one. Names of docker.io are known without that too.
pub fn reference_matches(repository: &str, tag: &str, pattern: &str) -> bool {
    let hub = repository.strip_prefix("docker.io/");
    let library = hub.and_then(|rest| rest.strip_prefix("library/"));
    [Some(repository), hub, library]
        .into_iter()
        .flatten()
        .any(|name| glob(name, pattern) || glob(&format!("{name}:{tag}"), pattern))
}

fn glob(text: &str, pattern: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return text.is_empty() };
    let rest = &pattern[first.len_utf8()..];
    let next = text.chars().next();
    let after = |c: char| &text[c.len_utf8()..];
    match first {
        // Several in a row are one: each would double the work.
        '*' => {
            let rest = rest.trim_start_matches('*');
            let ends = text.char_indices().take_while(|(_, c)| *c != '/').map(|(at, c)| at + c.len_utf8());
            std::iter::once(0).chain(ends).any(|end| glob(&text[end..], rest))
        }
        '?' => next.is_some_and(|c| c != '/' && glob(after(c), rest)),
        c => next == Some(c) && glob(after(c), rest),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn keys_are_known_and_have_values() {
        let parse = |text: &str| Filters::parse(&[text.to_owned()], &["name", "label"]);
        assert!(parse("name=a=b").unwrap().values("name").eq(["a=b"]));
        assert!(parse("nmae=a").unwrap_err().to_string().contains("name, label"));
        assert!(parse("name").is_err());
        assert!(parse("name=a").unwrap().check("name", &["a", "b"]).is_ok());
        assert!(
            parse("name=c").unwrap().check("name", &["a", "b"]).unwrap_err().to_string().contains("name=c")
        );
    }

    #[test]
    fn any_value_and_all_labels() {
        let texts = ["name=a", "name=b", "label=x", "label=y=1"].map(str::to_owned);
        let filters = Filters::parse(&texts, &["name", "label"]).unwrap();
        assert!(filters.any("name", |wanted| wanted == "b") && filters.any("status", |_| false));
        let labels = |text: &str| -> BTreeMap<String, String> {
            text.split(' ').filter_map(|l| l.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
        };
        for (have, shown) in [("x=5 y=1", true), ("x=5 y=2", false), ("y=1", false)] {
            let labels = labels(have);
            assert_eq!(filters.labels(|key| labels.get(key)), shown, "{have}");
        }
    }

    #[test]
    fn references_match_as_dockers() {
        let is = |pattern| reference_matches("docker.io/library/busybox", "1", pattern);
        for pattern in
            ["busybox", "busybox:1", "busy*", "busy*:*", "docker.io/library/busybox", "*/*/*:?", "b**x:1"]
        {
            assert!(is(pattern), "{pattern}");
        }
        for pattern in ["", "busy", "busybox:2", "*/busybox:2", "docker.io/*box", "busybox?", "library/b"] {
            assert!(!is(pattern), "{pattern}");
        }
        assert!(reference_matches("h:5000/a", "1", "h:5000/*") && !reference_matches("h:5000/a", "1", "a"));
    }

    #[test]
    fn names_match_by_their_parts() {
        for (wanted, matches) in [
            ("we", true),
            ("^we", true),
            ("^web$", true),
            ("eb$", true),
            ("^eb", false),
            ("we$", false),
            ("^/web$", true),
        ] {
            assert_eq!(name_matches("web", wanted), matches, "{wanted}");
        }
    }
}
