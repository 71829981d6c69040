use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

/// A root whose parser is a script: it stores its input, and adds the profile to the kernel's list.
struct Host(tempfile::TempDir);

impl Host {
    fn new(enabled: &str) -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        host.write(ENABLED, enabled);
        host.write(PROFILES, "usr.bin.man (enforce)\nweb server (1) (complain)\n");
        host
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.path().join(path)).unwrap()
    }

    fn parser(&self, script: &str) {
        let folder = self.0.path().display();
        self.write("sbin/apparmor_parser", &format!("#!/bin/sh\ncd {folder}\n{script}\n"));
        let path = self.0.path().join("sbin/apparmor_parser");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn apparmor(&self) -> AppArmor {
        AppArmor::below(self.0.path())
    }
}

#[test]
fn a_host_without_apparmor_runs_without_and_refuses_a_named_profile() {
    for host in [Host::new("N\n"), Host(tempfile::tempdir().unwrap())] {
        assert_eq!(host.apparmor().default_profile().unwrap(), None);
        let error = host.apparmor().loaded_profile("mine").unwrap_err().to_string();
        assert_eq!(error, "profile \"mine\" is asked for, but AppArmor is not enabled on this host");
    }
}

#[test]
fn the_default_profile_is_generated_and_loaded_once() {
    let host = Host::new("Y\n");
    host.parser(&format!(
        "echo \"$@\" >> calls; cat > given; echo '{DEFAULT_PROFILE} (enforce)' >> {PROFILES}"
    ));
    host.write("etc/apparmor.d/tunables/global", "");
    host.write(OWN_PROFILE, "crisp-server (enforce)\n");
    let apparmor = host.apparmor();
    for _ in 0..3 {
        assert_eq!(apparmor.default_profile().unwrap(), Some(DEFAULT_PROFILE));
    }
    assert_eq!(host.read("calls"), "--skip-cache --replace\n");
    let text = host.read("given");
    assert!(text.starts_with("#include <tunables/global>\n\nprofile crisp-default flags="), "{text}");
    assert!(!text.contains("abstractions/base"), "not installed: {text}");
    for rule in ["  deny mount,", "signal (receive) peer=\"crisp-server\",", "  deny @{PROC}/kcore rwklx,"] {
        assert!(text.contains(rule), "{rule}: {text}");
    }
    // A newer server loads its own version over the older one's.
    host.apparmor().default_profile().unwrap();
    assert_eq!(host.read("calls").lines().count(), 2);
}

#[test]
fn a_default_profile_that_cannot_be_loaded_is_an_error_each_time() {
    let host = Host::new("Y");
    let apparmor = host.apparmor();
    let error = apparmor.default_profile().unwrap_err().to_string();
    assert!(error.contains("apparmor_parser is missing") && error.contains("install"), "{error}");
    host.parser("echo 'syntax error in line 1' >&2; exit 3");
    let error = apparmor.default_profile().unwrap_err().to_string();
    assert!(error.contains("exit status: 3: syntax error in line 1"), "{error}");
    host.parser("exit 0");
    assert_eq!(apparmor.default_profile().unwrap(), Some(DEFAULT_PROFILE));
}

#[test]
fn a_default_profile_that_is_loaded_needs_no_parser() {
    let host = Host::new("Y");
    host.write(PROFILES, "crisp-default (enforce)\n");
    assert_eq!(host.apparmor().default_profile().unwrap(), Some(DEFAULT_PROFILE));
}

#[test]
fn a_named_profile_must_be_loaded() {
    let host = Host::new("Y");
    let apparmor = host.apparmor();
    for name in ["usr.bin.man", "web server (1)"] {
        assert_eq!(apparmor.loaded_profile(name).unwrap(), name);
    }
    let error = apparmor.loaded_profile("usr.bin").unwrap_err().to_string();
    assert_eq!(error, "profile \"usr.bin\" is not loaded on this host: load it with apparmor_parser");
}

#[test]
fn the_real_parser_takes_the_profile() {
    crisp_skip::needs!("apparmor_parser");
    let text = profile::text(Path::new("/"), Some("crisp-server"));
    let mut child = std::process::Command::new("apparmor_parser")
        .args(["--skip-kernel-load", "--skip-cache", "--names"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), DEFAULT_PROFILE);
}
