//! How fast whole pulls are, from docker-registry on this machine into an empty store:
//! `cargo run --release -p crisp-image-service --example pull_speed -- [FOLDER] [ROUNDS]`
//!
//! Three images: 11 layers with about 82 MB of gzip, 24,000 small files in 4 layers, and 6 layers with
//! about 194 MB of gzip that hardly compresses.

#[path = "../tests/support/mod.rs"]
mod support;

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use crisp_image_service::{ImageConfig, ImageService, PullRequest};
use support::docker_registry::DockerRegistry;
use support::image::{Image, Layer, Packing, noise};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| "/var/tmp".to_owned());
    let rounds: usize = arguments.next().map_or(Ok(5), |n| n.parse())?;
    let dir = tempfile::Builder::new().prefix("pull-speed").tempdir_in(folder)?;
    let Some(registry) = DockerRegistry::start(&dir.path().join("registry"), &[]) else { return Ok(()) };
    let images = [
        ("layers", "11 layers, 82 MB", mixed(11, 40, 360_000)),
        ("files", "24,000 files in 4 layers", mixed(4, 6000, 4000)),
        ("large", "6 layers, 194 MB", incompressible(6, 32_300_000)),
    ];
    for (tag, what, image) in &images {
        registry.push(tag, image);
        let bytes: usize = image.layers.iter().map(|l| l.blob.len()).sum();
        println!("{what}: {:.1} MB compressed", bytes as f64 / 1e6);
        let mut times = Vec::new();
        for round in 0..rounds {
            times.push(
                pull(&dir.path().join(format!("{tag}-{round}")), &format!("{}/app:{tag}", registry.address))
                    .await?,
            );
        }
        times.sort();
        let cpu = times.iter().map(|(_, cpu)| *cpu).min().unwrap_or_default();
        let times: Vec<_> = times.into_iter().map(|(time, _)| time).collect();
        let (min, p50, max) = (times[0], times[rounds / 2], times[rounds - 1]);
        println!("  n {rounds}, min {min:?}, p50 {p50:?}, max {max:?}; processor time of this side {cpu:?}");
    }
    Ok(())
}

async fn pull(root: &Path, reference: &str) -> Result<(Duration, Duration), Box<dyn Error>> {
    let metrics = crisp_metrics::Metrics::new("0")?;
    let config = ImageConfig { root: root.to_owned(), ..ImageConfig::default() };
    let service = ImageService::open(config, &metrics).await?;
    let request = PullRequest { reference: reference.to_owned(), auth: None, pod: None };
    let (started, cpu) = (Instant::now(), cpu_time()?);
    service.pull(&request, None).await?;
    let times = (started.elapsed(), cpu_time()? - cpu);
    std::fs::remove_dir_all(root)?;
    Ok(times)
}

/// Of this process and all of its threads; the registry's is its own.
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// Half noise, half text: compresses about as programs do.
fn mixed(layers: u64, files: u64, size: usize) -> Image {
    let layer = |n: u64| {
        let files: Vec<_> = (0..files)
            .map(|i| {
                let mut content = noise(n * 100_000 + i, size / 2);
                content.resize(size, b'x');
                (format!("usr/lib/{}/{n}-{i}", i % 60), content)
            })
            .collect();
        let files: Vec<_> = files.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect();
        Layer::new(&files, Packing::Gzip)
    };
    Image::new((0..layers).map(layer).collect())
}

fn incompressible(layers: u64, size: usize) -> Image {
    Image::new((0..layers).map(|n| Layer::new(&[("data", &noise(n, size))], Packing::Gzip)).collect())
}
