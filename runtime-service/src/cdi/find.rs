//! Finds devices in the spec folders.

use std::fs;
use std::path::{Path, PathBuf};

use super::edits::Refused;
use super::file::{Device, SpecFile};
use super::{CdiError, DeviceName, Edits, FileError, file};

/// A valid file.
struct Spec {
    path: PathBuf,
    /// The position of its folder: a spec in a later folder replaces one in an earlier folder.
    priority: usize,
    content: SpecFile,
    /// Whether the edits common to all its devices have been applied.
    is_used: bool,
}

/// The edits of the named devices. Blocks: reads all specs, so that a spec that a plugin has just written is
/// found.
///
/// # Errors
/// A device is unknown or cannot be used.
pub fn find(names: &[DeviceName], folders: &[PathBuf]) -> Result<Edits, CdiError> {
    let mut edits = Edits::default();
    if names.is_empty() {
        return Ok(edits);
    }
    let (mut specs, broken) = read_all(folders);
    let mut known = Vec::new();
    for name in names.iter() {
        if known.contains(&name) {
            continue;
        }
        known.push(name);
        let Some((spec, device)) = find_one(&specs, name)? else {
            return Err(CdiError::Unknown { name: name.clone(), folders: folders.to_vec(), broken });
        };
        let Spec { path, content, is_used, .. } = &mut specs[spec];
        let refused = |refused| match refused {
            Refused::Unsupported(field) => {
                CdiError::Unsupported { name: name.clone(), path: path.clone(), field }
            }
            Refused::Invalid { field, reason } => {
                CdiError::Invalid { name: name.clone(), path: path.clone(), field, reason }
            }
        };
        if !std::mem::replace(is_used, true) {
            edits.add(&content.container_edits).map_err(refused)?;
        }
        edits.add(&content.devices[device].container_edits).map_err(refused)?;
    }
    Ok(edits)
}

/// The positions of the spec and of the device in it.
fn find_one(specs: &[Spec], name: &DeviceName) -> Result<Option<(usize, usize)>, CdiError> {
    let is_it = |device: &Device| device.name == name.device;
    let mut found: Option<(usize, usize)> = None;
    for (index, spec) in specs.iter().enumerate().filter(|(_, spec)| spec.content.kind == name.kind) {
        let Some(device) = spec.content.devices.iter().position(is_it) else { continue };
        match found.map(|(other, _)| &specs[other]) {
            Some(other) if other.priority == spec.priority => {
                let (first, second) = (other.path.clone(), spec.path.clone());
                return Err(CdiError::Twice { name: name.clone(), first, second });
            }
            _ => found = Some((index, device)),
        }
    }
    Ok(found)
}

/// All specs by priority. A file that cannot be read only affects its own devices.
fn read_all(folders: &[PathBuf]) -> (Vec<Spec>, Vec<FileError>) {
    let (mut specs, mut broken) = (Vec::new(), Vec::new());
    for (priority, folder) in folders.iter().enumerate() {
        let paths = match paths(folder) {
            Ok(paths) => paths,
            Err(error) => {
                broken.push(error);
                continue;
            }
        };
        for path in paths {
            match file::read(&path) {
                Some(Ok(content)) => specs.push(Spec { path, priority, content, is_used: false }),
                Some(Err(error)) => broken.push(error),
                None => {}
            }
        }
    }
    (specs, broken)
}

/// Sorted. Empty for a folder that does not exist.
fn paths(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FileError::io(folder)(error)),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folders(tempfile::TempDir);

    impl Folders {
        fn new() -> Self {
            let folders = Self(tempfile::tempdir().unwrap());
            fs::create_dir(folders.0.path().join("etc")).unwrap();
            fs::create_dir(folders.0.path().join("run")).unwrap();
            folders
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.0.path().join(name), text).unwrap();
        }

        fn find(&self, names: &[&str]) -> Result<Edits, String> {
            let names: Vec<_> = names.iter().map(|name| DeviceName::parse(name).unwrap()).collect();
            let folders = ["etc", "run", "none"].map(|folder| self.0.path().join(folder));
            find(&names, &folders).map_err(|error| error.to_string())
        }
    }

    fn spec(device: &str, edits: &str) -> String {
        format!(
            r#"{{"cdiVersion": "0.8.0", "kind": "v.com/gpu", "annotations": {{"a": "b"}},
                "devices": [{{"name": "{device}", "containerEdits": {edits}}}]}}"#
        )
    }

    #[test]
    fn edits_of_the_file_come_once_and_before_those_of_its_devices() {
        let folders = Folders::new();
        let yaml = r#"
cdiVersion: "0.7.0"
kind: v.com/gpu
containerEdits:
  env: [ALL=1]
  additionalGids: [0, 44]
devices:
- name: "0"
  containerEdits:
    env: [A=b=c]
    deviceNodes:
    - {path: /dev/gpu0, hostPath: /dev/null, permissions: rw, fileMode: 432, uid: 7}
    mounts:
    - {hostPath: /lib/gpu.so, containerPath: /usr/lib/gpu.so, options: [ro, nosuid, bind]}
- name: "1"
  containerEdits: {env: [B=2]}
"#;
        folders.write("etc/gpu.yaml", yaml);
        folders.write("etc/README", "no spec");
        let edits = folders.find(&["v.com/gpu=0", "v.com/gpu=1", "v.com/gpu=0"]).unwrap();
        let env = [("ALL", "1"), ("A", "b=c"), ("B", "2")];
        assert_eq!(edits.env, env.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(edits.groups, [44]);
        let node = &edits.nodes[0];
        assert_eq!(
            (node.host_path.as_path(), node.mode, node.uid),
            (Path::new("/dev/null"), Some(0o660), Some(7))
        );
        assert_eq!((edits.mounts[0].kind.as_str(), edits.mounts[0].options.len()), ("", 3));
        assert!(folders.find(&[]).unwrap().is_empty());
    }

    #[test]
    fn a_later_folder_wins_and_two_files_of_one_are_named() {
        let folders = Folders::new();
        folders.write("etc/a.json", &spec("0", r#"{"env": ["FROM=etc"]}"#));
        folders.write("run/a.json", &spec("0", r#"{"env": ["FROM=run"]}"#));
        assert_eq!(folders.find(&["v.com/gpu=0"]).unwrap().env[0].1, "run");
        folders.write("run/b.json", &spec("0", "{}"));
        let error = folders.find(&["v.com/gpu=0"]).unwrap_err();
        assert!(error.contains("run/a.json") && error.contains("run/b.json"), "{error}");
    }

    #[test]
    fn an_unknown_device_is_named_with_the_files_that_cannot_be_read() {
        let folders = Folders::new();
        folders.write("etc/good.json", &spec("0", "{}"));
        folders.write("etc/broken.json", "{");
        folders.write("run/new.json", &spec("1", r#"{"wormholes": []}"#));
        folders.write("run/later.json", &spec("2", "{}").replace("0.8.0", "2.0.0"));
        assert!(folders.find(&["v.com/gpu=0"]).is_ok());
        let error = folders.find(&["v.com/gpu=1"]).unwrap_err();
        let begin = "no CDI spec in ";
        assert!(
            error.starts_with(begin) && error.contains("has the device v.com/gpu=1 (not readable:"),
            "{error}"
        );
        for part in ["etc/broken.json: ", "run/new.json: unknown field `wormholes`", "cdiVersion \"2.0.0\""] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn hooks_of_all_kinds_are_read() {
        let folders = Folders::new();
        let yaml = r#"
cdiVersion: "0.8.0"
kind: v.com/gpu
containerEdits:
  hooks:
  - {hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, update-ldcache, --folder, /lib], env: [DEBUG=false]}
devices:
- name: "0"
  containerEdits:
    hooks:
    - {hookName: prestart, path: /x}
    - {hookName: createRuntime, path: /x}
    - {hookName: startContainer, path: /x}
    - {hookName: poststart, path: /x}
    - {hookName: poststop, path: /x, timeout: 5}
"#;
        folders.write("etc/gpu.yaml", yaml);
        let hooks = folders.find(&["v.com/gpu=0"]).unwrap().hooks;
        assert_eq!((hooks[0].args.len(), hooks[0].env.as_slice()), (4, &["DEBUG=false".to_owned()][..]));
        let kinds: Vec<_> = hooks.iter().map(|hook| hook.kind.name()).collect();
        let expected =
            ["createContainer", "prestart", "createRuntime", "startContainer", "poststart", "poststop"];
        assert_eq!((kinds.as_slice(), hooks[5].timeout), (&expected[..], Some(5)));
    }

    #[test]
    fn what_cannot_be_done_is_named_and_costs_no_other_device() {
        let folders = Folders::new();
        for (device, edits, expected) in [
            (
                "a",
                r#"{"hooks": [{"hookName": "createContainer", "path": "x"}]}"#,
                "etc/a.json: hooks[0].path: it is not an absolute path",
            ),
            (
                "g",
                r#"{"hooks": [{"hookName": "prestart", "path": "/x"}, {"hookName": "poststrt", "path": "/x"}]}"#,
                "hooks[1].hookName: it is not the name of a hook",
            ),
            (
                "h",
                r#"{"hooks": [{"hookName": "poststop", "path": "/x", "env": ["=x"]}]}"#,
                "hooks[0].env: one is not NAME=value",
            ),
            (
                "i",
                r#"{"hooks": [{"hookName": "poststart", "path": "/x", "timeout": 0}]}"#,
                "hooks[0].timeout: it is not above 0",
            ),
            ("b", r#"{"intelRdt": {}}"#, "intelRdt is not supported"),
            ("c", r#"{"env": ["x"]}"#, "env[0]: it is not NAME=value"),
            ("d", r#"{"deviceNodes": [{"path": "dev"}]}"#, "deviceNodes[0]: its path is not absolute"),
            (
                "e",
                r#"{"deviceNodes": [{"path": "/dev/../etc"}]}"#,
                "deviceNodes[0]: its path is not absolute",
            ),
            ("f", r#"{"mounts": [{"hostPath": "x", "containerPath": "/x"}]}"#, "mounts[0]: its hostPath"),
        ] {
            folders.write(&format!("etc/{device}.json"), &spec(device, edits));
            let error = folders.find(&[&format!("v.com/gpu={device}")]).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
