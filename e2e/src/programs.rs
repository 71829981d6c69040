//! Builds programs from their public Go modules.
//!
//! A folder of this crate with a go.mod pins the versions of the programs of one module; they are built
//! into target/MODULE/VERSION, once, which takes minutes when Go has not built them before.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::Result;

/// A program, found in [`ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// The name of its file, the last part of its package.
    pub name: &'static str,
    package: &'static str,
    module: Module,
    /// Whether it has code in C.
    cgo: bool,
}

/// A Go module of this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Module {
    Kubernetes,
    Containerd,
    Flannel,
    Coredns,
}

const MODULES: [Module; 4] = [Module::Kubernetes, Module::Containerd, Module::Flannel, Module::Coredns];

const fn of_kubernetes(name: &'static str, package: &'static str) -> Program {
    Program { name, package, module: Module::Kubernetes, cgo: false }
}

const fn of_containerd(name: &'static str, package: &'static str, cgo: bool) -> Program {
    Program { name, package, module: Module::Containerd, cgo }
}

pub const KUBELET: Program = of_kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet");
pub const KUBECTL: Program = of_kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl");
pub const API_SERVER: Program = of_kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver");
pub const CONTROLLER_MANAGER: Program =
    of_kubernetes("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager");
pub const SCHEDULER: Program = of_kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler");
pub const PROXY: Program = of_kubernetes("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy");
/// One of its backends has code in C.
pub const FLANNEL: Program =
    Program { name: "flannel", package: "github.com/flannel-io/flannel", module: Module::Flannel, cgo: true };
pub const COREDNS: Program = Program { name: "coredns", package: ".", module: Module::Coredns, cgo: false };
pub const CONTAINERD: Program =
    of_containerd("containerd", "github.com/containerd/containerd/v2/cmd/containerd", false);
pub const SHIM: Program = of_containerd(
    "containerd-shim-runc-v2",
    "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
    false,
);
pub const CTR: Program = of_containerd("ctr", "github.com/containerd/containerd/v2/cmd/ctr", false);
/// Building it needs gcc, pkg-config and [`LIBSECCOMP`].
pub const RUNC: Program = of_containerd("runc", "github.com/opencontainers/runc", true);
/// A file of the library that [`RUNC`] is linked with: Debian's libseccomp-dev.
pub const LIBSECCOMP: &str = "/usr/include/seccomp.h";
pub const ALL: [Program; 12] = [
    KUBELET,
    KUBECTL,
    API_SERVER,
    CONTROLLER_MANAGER,
    SCHEDULER,
    PROXY,
    FLANNEL,
    COREDNS,
    CONTAINERD,
    SHIM,
    CTR,
    RUNC,
];

impl Module {
    /// The folder with its go.mod, below this crate's.
    fn folder(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Containerd => "containerd",
            Self::Flannel => "flannel",
            Self::Coredns => "coredns",
        }
    }

    /// As in its go.mod.
    fn version(self) -> &'static str {
        match self {
            Self::Kubernetes => "v1.36.3",
            Self::Containerd => "v2.4.2",
            Self::Flannel => "v0.28.10",
            Self::Coredns => "v1.15.0",
        }
    }

    /// Options of `go build`.
    fn options(self) -> Vec<String> {
        match self {
            // Without a version some checks of Kubernetes fail.
            Self::Kubernetes => {
                let (package, version) = ("k8s.io/component-base/version", self.version());
                let minor = version.split('.').nth(1).unwrap_or_default();
                let flags = format!(
                    "-s -w -X {package}.gitVersion={version} -X {package}.gitMajor=1 -X {package}.gitMinor={minor}"
                );
                vec!["-ldflags".to_owned(), flags]
            }
            // The snapshotters need libraries in C. Kubelet sends a seccomp profile for each sandbox.
            Self::Containerd => vec!["-tags".to_owned(), "no_btrfs no_zfs no_devmapper seccomp".to_owned()],
            // Both run in images without a C library.
            Self::Flannel => {
                let flags = "-s -w -extldflags -static".to_owned();
                vec!["-tags".to_owned(), "netgo,osusergo".to_owned(), "-ldflags".to_owned(), flags]
            }
            Self::Coredns => vec!["-ldflags".to_owned(), "-s -w".to_owned()],
        }
    }

    fn source(self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(self.folder())
    }

    fn built(self) -> PathBuf {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
        target.join(self.folder()).join(self.version())
    }
}

impl Program {
    /// The version of its module, without the `v`.
    #[must_use]
    pub fn version(self) -> &'static str {
        self.module.version().trim_start_matches('v')
    }

    /// Its file, which exists after [`build`].
    #[must_use]
    pub fn path(self) -> PathBuf {
        self.module.built().join(self.name)
    }
}

impl Program {
    /// Whether it is built, from the present main.go when that is a file of this crate.
    fn is_built(self) -> bool {
        let is_same = |(ours, built)| {
            std::fs::read(ours).is_ok_and(|ours| std::fs::read(built).is_ok_and(|b| b == ours))
        };
        self.path().is_file() && self.main().is_none_or(is_same)
    }

    /// Its main.go in this crate, and the copy from which it was built.
    fn main(self) -> Option<(PathBuf, PathBuf)> {
        let ours = self.module.source().join("main.go");
        (self.package == ".").then(|| (ours, self.path().with_extension("main.go")))
    }
}

/// Whether the programs exist, or can be built.
#[must_use]
pub fn can_build(programs: &[Program]) -> bool {
    programs.iter().all(|program| program.is_built()) || crisp_skip::program("go").is_some()
}

/// Locked during a build: tests run in parallel, and two builds would do the same work twice.
static BUILDING: Mutex<()> = Mutex::new(());

/// Builds the missing programs.
///
/// # Errors
/// The error output of `go build`.
pub fn build(programs: &[Program]) -> Result<()> {
    let _one_at_a_time = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    for module in MODULES {
        for cgo in [false, true] {
            let is_wanted =
                |program: &Program| program.module == module && program.cgo == cgo && !program.is_built();
            let missing: Vec<_> = programs.iter().copied().filter(is_wanted).collect();
            if !missing.is_empty() {
                build_of(module, cgo, &missing)?;
            }
        }
    }
    Ok(())
}

fn build_of(module: Module, cgo: bool, missing: &[Program]) -> Result<()> {
    let folder = module.built();
    std::fs::create_dir_all(&folder)?;
    let partial = tempfile::Builder::new().prefix("partial-").tempdir_in(&folder)?;
    let go = crisp_skip::program("go").ok_or("go is not installed")?;
    let output = Command::new(go)
        .current_dir(module.source())
        // Two at a time, each of which takes up to a gigabyte of memory.
        .args(["build", "-p", "2"])
        .args(module.options())
        .arg("-o")
        .arg(format!("{}/", partial.path().display()))
        .args(missing.iter().map(|program| program.package))
        .env("CGO_ENABLED", if cgo { "1" } else { "0" })
        .output()?;
    if !output.status.success() {
        let names: Vec<_> = missing.iter().map(|program| program.name).collect();
        return Err(format!("go build {names:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    for program in missing {
        std::fs::rename(partial.path().join(program.name), program.path())?;
        if let Some((main, copy)) = program.main() {
            std::fs::copy(main, copy)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_that_the_modules_pin() {
        for (module, package) in [
            (Module::Kubernetes, "k8s.io/kubernetes"),
            (Module::Containerd, "github.com/containerd/containerd/v2"),
            (Module::Flannel, "github.com/flannel-io/flannel"),
            (Module::Coredns, "github.com/coredns/coredns"),
        ] {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(module.folder()).join("go.mod");
            let text = std::fs::read_to_string(file).unwrap();
            let pinned = format!("{package} {}", module.version());
            assert!(
                text.lines().any(|line| line.trim().trim_start_matches("require ") == pinned),
                "{pinned}"
            );
        }
    }
}
