//! The images of the cluster's pods: busybox with the programs that were built, and the host's nft and iptables.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::image::Compression;
use crate::programs::{COREDNS, FLANNEL, PROXY, Program};
use crate::{Image, Layer, Registry, Result};

/// Pushes all of them.
pub(super) fn push(registry: &Registry) -> Result<()> {
    registry.push("busybox", "1", &Image::busybox().build())?;
    registry.push("coredns", "1", &Image::busybox().layer(program(COREDNS)?).build())?;
    for (name, own) in [("kube-proxy", PROXY), ("flannel", FLANNEL)] {
        let image = Image::busybox().layer(packet_filters()?).layer(program(own)?);
        registry.push(name, "1", &image.build())?;
    }
    Ok(())
}

fn program(program: Program) -> Result<Layer> {
    let bytes = std::fs::read(program.path())?;
    let layer = Layer::new().compressed(Compression::None);
    Ok(layer.file(&format!("bin/{}", program.name), 0o755, &bytes))
}

/// nft and iptables with their libraries.
fn packet_filters() -> Result<Layer> {
    let mut layer = Layer::new();
    let mut libraries = Vec::new();
    for name in ["nft", "iptables", "ip6tables"] {
        let path = crisp_skip::program(name).ok_or_else(|| format!("{name} is not installed"))?;
        layer = layer.file(&format!("bin/{name}"), 0o755, &std::fs::read(&path)?);
        libraries.extend(libraries_of(&path)?);
    }
    libraries.extend(extensions(&libraries));
    libraries.sort();
    libraries.dedup();
    for library in libraries {
        let path = library.display().to_string();
        layer = layer.file(path.trim_start_matches('/'), 0o755, &std::fs::read(&library)?);
    }
    Ok(layer)
}

fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).collect())
}

/// The libraries that iptables opens by their names, beside the one that it is linked with.
fn extensions(libraries: &[PathBuf]) -> Vec<PathBuf> {
    let named = |path: &&PathBuf| path.to_string_lossy().contains("libxtables");
    let folder = libraries.iter().find(named).and_then(|path| Some(path.parent()?.join("xtables")));
    // The loader's /lib may be a link to /usr/lib, where programs look.
    let folder = folder.map(|folder| Path::new("/usr").join(folder.strip_prefix("/").unwrap_or(&folder)));
    let entries = folder.and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "so")).collect()
}
