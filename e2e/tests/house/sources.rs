//! The project's source files.

use std::path::{Path, PathBuf};

/// Folders of the product's crates.
pub const CRATES: [&str; 11] = [
    "proto",
    "metrics",
    "metrics/operation",
    "image-service",
    "runtime-service",
    "runtime-service/copy",
    "runtime-service/streaming",
    "sandbox",
    "sandbox/executor",
    "sandbox/monitor",
    "cri-server",
];

pub struct Source {
    /// Below the top level.
    pub path: String,
    /// All of it.
    pub text: String,
}

impl Source {
    /// The text before the unit tests.
    pub fn product(&self) -> &str {
        // A declaration, as of `mod tests;`, may stand anywhere and ends nothing.
        let starts =
            ["#[cfg(test)]\n", "#[cfg(all(test"].into_iter().flat_map(|start| self.text.match_indices(start));
        let is_module = |at: &usize| {
            let item = self.text[*at..].lines().nth(1).unwrap_or_default();
            item.contains("mod ") && item.ends_with('{')
        };
        &self.text[..starts.map(|(at, _)| at).filter(is_module).min().unwrap_or(self.text.len())]
    }

    /// Lines of code before the unit tests, without comments.
    pub fn code(&self) -> impl Iterator<Item = &str> {
        self.product().lines().filter(|line| !line.trim_start().starts_with("//"))
    }

    fn is_test(&self) -> bool {
        let folders = ["/tests/", "/examples/", "/benches/", "/fuzz/"];
        let name = self.path.rsplit('/').next().unwrap_or_default();
        folders.iter().any(|folder| self.path.contains(folder)) || name.starts_with("tests")
    }
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every Rust file of the product and of its tests.
pub fn all() -> Vec<Source> {
    let mut found = Vec::new();
    for folder in ["proto", "metrics", "image-service", "runtime-service", "sandbox", "cri-server", "e2e"] {
        collect(&root().join(folder), &mut found);
    }
    assert!(found.len() > 100, "found only {} files: wrong folder?", found.len());
    found
}

/// The files of the product itself.
pub fn product() -> Vec<Source> {
    all().into_iter().filter(|file| !file.is_test() && !file.path.starts_with("e2e/")).collect()
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the project").flatten() {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let path = path.strip_prefix(root()).expect("below the root").display().to_string();
            found.push(Source { path, text });
        }
    }
}

/// Paths of the product's files that break a rule.
pub fn offenders(rule: impl Fn(&Source) -> bool) -> Vec<String> {
    product().into_iter().filter(rule).map(|file| file.path).collect()
}
