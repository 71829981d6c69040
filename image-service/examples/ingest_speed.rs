//! How fast layers become files, without a registry or a network:
//! `cargo run --release -p crisp-image-service --example ingest_speed -- [FOLDER] [ROUNDS] [repull]`
//!
//! Two images are made in memory and ingested as a pull does it, all layers at once: many small files
//! (24,000 in 4 layers), and few large ones (11 layers, about 82 MB of gzip). Every round starts with an
//! empty store; times are for layers, the commit, and both. With `repull` as a third argument each
//! round's files are deleted before the next: see `store::open` on why that matters.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crisp_image_service::digest::Digest;
use crisp_image_service::store::{Document, NewImage};
use crisp_image_service::{DiffId, Reference, Store};
use flate2::Compression;
use flate2::write::GzEncoder;

type Failure = Box<dyn Error + Send + Sync>;

struct Layer {
    diff: DiffId,
    gzip: Vec<u8>,
    tar: usize,
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| "/var/tmp".to_owned());
    let rounds = arguments.next().map_or(Ok(5), |n| n.parse())?;
    let repull = arguments.next().is_some();
    let small: Vec<Layer> =
        (0..4).map(|n| layer(n, 6000, |i| 300 + i * 37 % 6000)).collect::<Result<_, _>>()?;
    measure("24,000 small files, 4 layers", &small, Path::new(&folder), rounds, repull)?;
    let large: Vec<Layer> =
        (0..11).map(|n| layer(n, 40, |i| 200_000 + i * 15_000)).collect::<Result<_, _>>()?;
    measure("large files, 11 layers", &large, Path::new(&folder), rounds, repull)
}

/// Content that compresses about as well as programs and libraries do.
fn layer(seed: usize, files: usize, size: impl Fn(usize) -> usize) -> Result<Layer, Failure> {
    let mut state = seed as u64 + 1;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let mut archive = tar::Builder::new(Vec::new());
    for i in 0..files {
        let mut content = Vec::with_capacity(size(i));
        while content.len() < size(i) {
            let word = random();
            if word % 100 < 55 {
                content.extend_from_slice(b"fn common(pattern: usize) ");
            } else {
                content.extend_from_slice(&word.to_le_bytes());
                content.extend_from_slice(&random().to_le_bytes());
            }
        }
        content.truncate(size(i));
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        if i % 20 == 0 {
            let mut folder = tar::Header::new_gnu();
            folder.set_entry_type(tar::EntryType::Directory);
            folder.set_mode(0o755);
            folder.set_size(0);
            archive.append_data(&mut folder, format!("usr/lib/{seed}/{}/", i / 20), std::io::empty())?;
        }
        archive.append_data(&mut header, format!("usr/lib/{seed}/{}/file-{i}", i / 20), &content[..])?;
    }
    let bytes = archive.into_inner()?;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::new(6));
    gzip.write_all(&bytes)?;
    Ok(Layer { diff: DiffId::from(Digest::sha256(&bytes)), gzip: gzip.finish()?, tar: bytes.len() })
}

fn measure(what: &str, layers: &[Layer], folder: &Path, rounds: usize, repull: bool) -> Result<(), Failure> {
    let gzip: usize = layers.iter().map(|layer| layer.gzip.len()).sum();
    let tar: usize = layers.iter().map(|layer| layer.tar).sum();
    println!("{what}: {:.1} MB gzip, {:.1} MB tar", gzip as f64 / 1e6, tar as f64 / 1e6);
    let mut totals = Vec::new();
    // Deleted at the end only: for a minute after files are deleted, ext4 searches past their inodes
    // for each new file, which would be measured instead.
    let mut roots = Vec::new();
    for _ in 0..rounds {
        let root = tempfile::tempdir_in(folder)?;
        rustix::fs::sync();
        let cpu_before = cpu();
        let (ingest, commit, entries) = round(layers, root.path())?;
        let total = (ingest + commit).as_secs_f64();
        println!(
            "  layers {:6.1} ms  commit {:6.1} ms  total {:6.1} ms  {:8.0} entries/s  {:6.0} MB/s of tar  cpu {:.0} ms",
            ingest.as_secs_f64() * 1e3,
            commit.as_secs_f64() * 1e3,
            total * 1e3,
            entries as f64 / total,
            tar as f64 / total / 1e6,
            (cpu() - cpu_before) * 1e3,
        );
        totals.push(total * 1e3);
        if !repull {
            roots.push(root);
        }
    }
    totals.sort_by(f64::total_cmp);
    println!("  total p50 {:.1} ms", totals[totals.len() / 2]);
    Ok(())
}

/// Seconds of processor time used so far, in user and kernel mode.
fn cpu() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

fn round(layers: &[Layer], root: &Path) -> Result<(Duration, Duration, u64), Failure> {
    let store = Store::open(root)?;
    let started = Instant::now();
    let entries = thread::scope(|scope| {
        let workers: Vec<_> = layers
            .iter()
            .map(|layer| {
                let store = &store;
                scope.spawn(move || store.ingest_layer(&layer.diff, &layer.gzip[..]))
            })
            .collect();
        workers
            .into_iter()
            .map(|w| w.join().map_err(|_| "a worker panicked"))
            .try_fold(0, |sum, layer| Ok::<_, Failure>(sum + layer??.entries))
    })?;
    let ingest = started.elapsed();
    let started = Instant::now();
    let image = store.commit_image(image(layers)?)?;
    let commit = started.elapsed();
    assert_eq!(Arc::clone(&image).diff_ids.len(), layers.len());
    // Not measured, as no pull waits for it; but a folder that is still written to cannot be deleted.
    store.sync()?;
    Ok((ingest, commit, entries))
}

fn image(layers: &[Layer]) -> Result<NewImage, Failure> {
    let diffs: Vec<&str> = layers.iter().map(|layer| layer.diff.as_str()).collect();
    let config = serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diffs},
    }))?;
    let document = |bytes: Vec<u8>| Document { digest: Digest::sha256(&bytes), bytes };
    let manifest = document(b"{}".to_vec());
    Ok(NewImage {
        reference: Reference::parse("bench.example/image:latest")?,
        resolved: manifest.digest.clone(),
        manifest,
        config: document(config),
    })
}
