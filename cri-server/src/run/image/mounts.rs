//! Mounts in the syntax of `docker run`: `-v`, `--mount` and `--tmpfs`.

use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

use super::super::manifest::is_dns_name;
use super::values;

/// A mount and its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOption {
    pub source: Source,
    pub target: String,
    pub read_only: bool,
    pub propagation: Option<&'static str>,
    pub sub_path: Option<String>,
    /// An empty volume does not get the image's files.
    pub no_copy: bool,
}

/// The source of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An empty folder that is removed with the container.
    Anonymous,
    /// A named volume.
    Named(String),
    /// A path of the host; if it is missing and `is_made`, it is created as a folder.
    Bind {
        path: PathBuf,
        is_made: bool,
    },
    Memory {
        size: Option<u64>,
    },
    Image(String),
}

/// Parses the value of `-v`: `[SOURCE:]TARGET[:OPTIONS]`.
pub fn volume(text: &str) -> Result<MountOption, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, place, options) = match parts[..] {
        [place] => ("", place, ""),
        [source, place] => (source, place, ""),
        [source, place, options] => (source, place, options),
        _ => return Err("expected [SOURCE:]TARGET[:OPTIONS]".to_owned()),
    };
    if parts.len() > 1 && source.is_empty() {
        return Err("the source is empty".to_owned());
    }
    let is_path = source.starts_with(['/', '.', '~']);
    let source = match source {
        "" => Source::Anonymous,
        path if is_path => Source::Bind { path: host_path(path)?, is_made: true },
        name => named(name)?,
    };
    let mut mount = MountOption::new(source, place)?;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => mount.read_only = true,
            "rw" => {}
            "nocopy" => mount.no_copy = true,
            "z" | "Z" => relabel(Path::new("/sys/fs/selinux/enforce"), option)?,
            other => mount.propagation = Some(propagation(other)?),
        }
    }
    Ok(mount)
}

/// Parses the value of `--mount`: `type=bind,source=/a,target=/b,readonly`.
pub fn mount(text: &str) -> Result<MountOption, String> {
    let (mut kind, mut source, mut place) = ("volume", "", None);
    let (mut read_only, mut bind_propagation, mut size, mut sub_path) = (false, None, None, None);
    let mut no_copy = false;
    for field in text.split(',') {
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        let required = || value.ok_or_else(|| format!("{key:?} needs a value: {key}=..."));
        match key {
            "type" => kind = required()?,
            "source" | "src" => source = required()?,
            "target" | "dst" | "destination" => place = Some(required()?),
            "readonly" | "ro" => read_only = flag(key, value)?,
            "bind-propagation" => bind_propagation = Some(propagation(required()?)?),
            "tmpfs-size" => size = Some(values::bytes(required()?)?),
            "volume-nocopy" => no_copy = flag(key, value)?,
            "volume-subpath" => sub_path = Some(required()?.to_owned()),
            other => {
                return Err(format!(
                    "{other:?} is not supported: type, source, target, readonly, bind-propagation, tmpfs-size, volume-nocopy and volume-subpath are"
                ));
            }
        }
    }
    let source = match (kind, source) {
        ("bind" | "image", "") => return Err(format!("type={kind} needs a source")),
        ("bind", path) => {
            let path = host_path(path)?;
            if !path.exists() {
                return Err(format!("{} is not there; -v would make a folder", path.display()));
            }
            Source::Bind { path, is_made: false }
        }
        ("volume", "") => Source::Anonymous,
        ("volume", name) => named(name)?,
        ("image", name) => Source::Image(name.to_owned()),
        ("tmpfs", "") => Source::Memory { size },
        ("tmpfs", _) => return Err("type=tmpfs has no source".to_owned()),
        (other, _) => return Err(format!("type={other}: bind, volume, tmpfs and image are supported")),
    };
    for (is_given, field, of) in [
        (bind_propagation.is_some(), "bind-propagation", "bind"),
        (size.is_some(), "tmpfs-size", "tmpfs"),
        (sub_path.is_some(), "volume-subpath", "volume"),
    ] {
        if is_given && kind != of {
            return Err(format!("{field} is for type={of} only"));
        }
    }
    let place = place.ok_or("target is missing")?;
    let mount = MountOption::new(source, place)?;
    Ok(MountOption { read_only, propagation: bind_propagation, sub_path, no_copy, ..mount })
}

/// Parses the value of `--tmpfs`: `TARGET[:OPTIONS]`.
pub fn tmpfs(text: &str) -> Result<MountOption, String> {
    let (place, options) = text.split_once(':').unwrap_or((text, ""));
    let (mut size, mut read_only) = (None, false);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=').map_or((option, ""), |(key, value)| (key, value)) {
            ("size", value) => size = Some(values::bytes(value)?),
            ("ro", "") => read_only = true,
            ("rw" | "exec" | "nosuid" | "nodev", "") => {}
            _ => {
                return Err(format!(
                    "{option:?} is not supported: size=, ro, rw, exec, nosuid and nodev are"
                ));
            }
        }
    }
    Ok(MountOption { read_only, ..MountOption::new(Source::Memory { size }, place)? })
}

fn flag(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(format!("{key}={other:?}: expected true or false")),
    }
}

fn propagation(word: &str) -> Result<&'static str, String> {
    match word {
        "private" | "rprivate" => Ok("None"),
        "slave" | "rslave" => Ok("HostToContainer"),
        "shared" | "rshared" => Ok("Bidirectional"),
        other => Err(format!(
            "{other:?} is no option of a mount here: ro, rw, z, Z, private, slave, shared and these with r are"
        )),
    }
}

/// A host without SELinux has no labels to change.
fn relabel(selinux: &Path, option: &str) -> Result<(), String> {
    if selinux.exists() {
        return Err(format!(
            "{option:?}: volumes of pods are not labelled here: label the path with chcon(1)"
        ));
    }
    Ok(())
}

fn named(name: &str) -> Result<Source, String> {
    if is_dns_name(name) {
        return Ok(Source::Named(name.to_owned()));
    }
    Err(format!(
        "{name:?} is not the name of a volume: lower-case letters, digits, '-' and '.'; a path begins with / or ./"
    ))
}

/// An absolute path without "..", as manifests require.
fn host_path(text: &str) -> Result<PathBuf, String> {
    if text.starts_with('~') {
        return Err(format!("{text:?}: the shell has not replaced ~: write the path without quotes"));
    }
    if text.contains('\0') {
        return Err(format!("{text:?} has a zero byte in it"));
    }
    let absolute = std::path::absolute(text).map_err(|error| format!("{text:?}: {error}"))?;
    let mut clean = PathBuf::from("/");
    for part in absolute.components() {
        match part {
            Component::ParentDir => drop(clean.pop()),
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(clean)
}

impl MountOption {
    fn new(source: Source, place: &str) -> Result<Self, String> {
        let path = Path::new(place);
        let is_good = path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
        if !is_good || path == Path::new("/") || place.contains('\0') {
            return Err(format!(
                "{place:?} must be an absolute path in the container, without \"..\", and not /"
            ));
        }
        let target = place.to_owned();
        Ok(Self { source, target, read_only: false, propagation: None, sub_path: None, no_copy: false })
    }

    /// Whether its volume, while it is empty, gets the image's files.
    pub fn copies_up(&self) -> bool {
        let is_volume = matches!(self.source, Source::Named(_) | Source::Anonymous);
        is_volume && !self.no_copy && self.sub_path.is_none()
    }

    /// The image that is the source.
    pub fn image(&self) -> Option<&str> {
        match &self.source {
            Source::Image(reference) => Some(reference),
            _ => None,
        }
    }

    /// The entry of a manifest's `volumes`.
    pub fn volume_entry(&self, name: &str, pull: &str) -> Value {
        let mut entry = match &self.source {
            Source::Anonymous => json!({ "emptyDir": {} }),
            Source::Named(claim) => json!({ "persistentVolumeClaim": { "claimName": claim } }),
            Source::Bind { path, is_made } => {
                let kind = if *is_made && !path.exists() { "DirectoryOrCreate" } else { "" };
                json!({ "hostPath": { "path": path, "type": kind } })
            }
            Source::Memory { size: Some(size) } => {
                json!({ "emptyDir": { "medium": "Memory", "sizeLimit": size.to_string() } })
            }
            Source::Memory { size: None } => json!({ "emptyDir": { "medium": "Memory" } }),
            Source::Image(reference) => json!({ "image": { "reference": reference, "pullPolicy": pull } }),
        };
        entry["name"] = json!(name);
        entry
    }

    /// The entry of the container's `volumeMounts`.
    pub fn mount_entry(&self, name: &str) -> Value {
        let mut entry = json!({ "name": name, "mountPath": self.target, "readOnly": self.read_only });
        if self.read_only && self.propagation.is_none() && matches!(self.source, Source::Bind { .. }) {
            // As in docker: mounts below the path are read-only too.
            entry["recursiveReadOnly"] = json!("IfPossible");
        }
        if let Some(propagation) = self.propagation {
            entry["mountPropagation"] = json!(propagation);
        }
        if let Some(path) = &self.sub_path {
            entry["subPath"] = json!(path);
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_paths_names_or_anonymous() {
        let of = |text| volume(text).unwrap();
        let bind = of("/etc/../usr/./lib:/data:ro,rslave");
        assert_eq!(bind.source, Source::Bind { path: "/usr/lib".into(), is_made: true });
        assert_eq!((bind.read_only, bind.propagation), (true, Some("HostToContainer")));
        assert_eq!(of("/a:/b:ro").mount_entry("v")["recursiveReadOnly"], "IfPossible");
        assert!(of("/a:/b").mount_entry("v").get("recursiveReadOnly").is_none());
        assert_eq!(of("cache:/data").source, Source::Named("cache".into()));
        assert_eq!(of("/data").source, Source::Anonymous);
        let here = std::env::current_dir().unwrap();
        assert_eq!(of("./x:/data").source, Source::Bind { path: here.join("x"), is_made: true });
        assert_eq!(
            of("/no-such-path:/d").volume_entry("v0", "Never")["hostPath"]["type"],
            "DirectoryOrCreate"
        );
        assert_eq!(
            of("/etc/passwd:/d").volume_entry("v0", "Never")["hostPath"]["type"],
            "",
            "a file stays one"
        );
    }

    #[test]
    fn hostile_volumes_are_refused() {
        for text in [
            "",
            ":",
            "/a:",
            ":/b",
            "/a:/b:",
            "/a:b",
            "/a:/",
            "a:/../b",
            "/a:/b/../c",
            "/a:/b:rw:x",
            "/a:/b:noexec",
            "A_B:/b",
            "~/x:/b",
            "/a\0:/b",
            "/a:/b\0",
            "a b:/c",
            "-x:/b",
            "a/b:/c",
        ] {
            let is_empty_option = text == "/a:/b:";
            assert_eq!(volume(text).is_ok(), is_empty_option, "{text:?}");
        }
        let selinux = tempfile::tempdir().unwrap();
        assert!(relabel(selinux.path(), "Z").unwrap_err().contains("chcon"));
        assert!(relabel(&selinux.path().join("missing"), "Z").is_ok());
    }

    #[test]
    fn mounts_have_types() {
        let of = |text| mount(text).unwrap();
        let bind = of("type=bind,source=/etc,target=/e,readonly,bind-propagation=rshared");
        assert_eq!(bind.source, Source::Bind { path: "/etc".into(), is_made: false });
        assert_eq!((bind.read_only, bind.propagation), (true, Some("Bidirectional")));
        assert_eq!(of("src=cache,dst=/c,ro=false").source, Source::Named("cache".into()));
        assert_eq!(of("src=cache,dst=/c,volume-subpath=a/b").mount_entry("v")["subPath"], "a/b");
        assert_eq!(of("type=tmpfs,dst=/t,tmpfs-size=1m").source, Source::Memory { size: Some(1 << 20) });
        assert_eq!(
            of("type=image,src=busybox,dst=/i").volume_entry("v", "Never")["image"]["reference"],
            "busybox"
        );
        for text in [
            "",
            "target",
            "target=",
            "type=bind,target=/x",
            "type=bind,source=/no-such-path,target=/x",
            "type=npipe,dst=/x",
            "type=tmpfs,src=x,dst=/t",
            "dst=/t,tmpfs-size=1m",
            "dst=/t,bind-propagation=shared",
            "type=tmpfs,dst=/t,tmpfs-size=x",
            "dst=/x,readonly=maybe",
            "dst=/x,volume-opt=a=b",
            "type=bind,src=/etc,dst=/x,volume-subpath=a",
            "dst=x",
        ] {
            assert!(mount(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn memory_has_a_size() {
        assert_eq!(tmpfs("/t").unwrap().source, Source::Memory { size: None });
        let limited = tmpfs("/t:rw,size=64k,nosuid").unwrap();
        assert_eq!(limited.volume_entry("v", "Never")["emptyDir"]["sizeLimit"], "65536");
        for text in ["", "t", "/t:noexec", "/t:size=", "/t:size=-1", "/t:mode=1777", "/t:uid=1", "/:size=1m"]
        {
            assert!(tmpfs(text).is_err(), "{text:?}");
        }
    }
}
