//! Pulls of images with a known shape from a registry on this machine.

use std::time::Instant;

use k8s_cri::v1::{ImageSpec, RemoveImageRequest};

use super::table::Row;
use super::{Effort, Target};
use crate::image::Built;
use crate::{Client, Image, Layer, Registry, Result};

/// Name in the table, and the image.
pub type Shape = (&'static str, Built);

/// The typical images: few big layers, many layers, many small files.
#[must_use]
pub fn shapes() -> Vec<Shape> {
    vec![
        ("pull 11 layers", layers(11, 12, 1 << 20)),
        ("pull 24,000 small files in 4 layers", layers(4, 6_000, 600)),
        ("pull 6 big layers", layers(6, 4, 8 << 20)),
    ]
}

fn layers(count: usize, files: usize, size: usize) -> Built {
    let mut image = Image::new().config("Cmd", serde_json::json!(["x"]));
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for number in 0..count {
        let mut layer = Layer::new().folder(&format!("l{number}/"), 0o755);
        for file in 0..files {
            layer = layer.file(&format!("l{number}/f{file}"), 0o644, &content(size, &mut seed));
        }
        image = image.layer(layer);
    }
    image.build()
}

/// Content that is half noise, half text: it compresses about as program files do.
fn content(size: usize, seed: &mut u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 16);
    while bytes.len() < size {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        bytes.extend_from_slice(&seed.to_le_bytes());
        bytes.extend_from_slice(b"padding ");
    }
    bytes.truncate(size);
    bytes
}

/// Pulls each shape, and removes it in between; the targets take turns.
///
/// # Errors
/// The error of the registry or of a runtime.
pub async fn pulls(targets: &[Target], registry: &Registry, effort: Effort) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    if effort.pulls == 0 {
        return Ok(rows);
    }
    for (number, (what, image)) in shapes().into_iter().enumerate() {
        let reference = registry.push(&format!("bench/shape{number}"), "1", &image)?;
        let mut times = vec![Vec::new(); targets.len()];
        for _ in 0..effort.pulls {
            for (target, times) in targets.iter().zip(&mut times) {
                let mut client = Client::connect(&target.socket).await?;
                let start = Instant::now();
                client.pull(&reference).await?;
                times.push(start.elapsed());
                let image = Some(ImageSpec { image: reference.clone(), ..Default::default() });
                client.images.remove_image(RemoveImageRequest { image }).await?;
                // Layers are deleted after the response; the next pull must not share the disk with that.
                tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
            }
        }
        rows.extend(targets.iter().zip(&times).map(|(target, times)| Row::times(&target.name, what, times)));
    }
    Ok(rows)
}
