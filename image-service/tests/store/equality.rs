//! The same archive gives the same tree: alone or among others, however compressed, in whatever pieces
//! it arrives.

use std::io::{self, Read};
use std::sync::Arc;
use std::thread;

use crate::archive::{Archive, gzip, item, zstd};
use crate::fixture::{Fixture, diff_of};
use crate::tree::{self, Tree};

/// A small generator of archives: every seed another mixture of what entries can be.
fn archive(seed: u64) -> Archive {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let root = rustix::process::geteuid().is_root();
    let mut archive = Archive::new();
    for n in 0..120 {
        let folder = ["", "a/", "a/b/", "c/", "l/"][random(5) as usize];
        let name = format!("{folder}n{}", random(40));
        let owner = if root { random(3) * 1000 } else { 0 };
        let mode = [0o644, 0o755, 0o600, 0o4755, 0o1777][random(5) as usize];
        let size = [0, 1, 511, 512, 513, 5000, 300_000][random(7) as usize];
        archive = match random(8) {
            0 => archive.add(&item(b'5', format!("{folder}d{}", random(5))).mode(mode).mtime(n)),
            1 => archive.symlink(&name, format!("n{}", random(40))),
            2 if root => archive.file(format!("{folder}.wh.gone{}", random(9)), ""),
            3 if root => archive.add(&item(b'6', &name).mode(mode)),
            4 => archive.file("a/b/target", "t").hard_link(&name, "a/b/target"),
            _ => archive
                .add(&item(b'0', &name).mode(mode).owner(owner, owner).mtime(n).content(vec![n as u8; size])),
        };
        if n == 60 {
            archive = archive.symlink("l", "a/b");
        }
    }
    archive
}

/// A reader that gives little at a time.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.1 = self.1 * 7 % 1013 + 1;
        let n = self.1.min(self.0.len()).min(into.len());
        into[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

#[test]
fn parallel_and_serial_unpacking_agree() {
    let archives: Vec<Vec<u8>> = (1..9).map(|seed| no_dangling_links(archive(seed)).tar()).collect();
    let serial = Fixture::new();
    let expected: Vec<Tree> = archives
        .iter()
        .map(|tar| {
            let diff = diff_of(tar);
            serial.store.ingest_layer(&diff, &tar[..]).unwrap();
            tree::read(&serial.layer(&diff))
        })
        .collect();
    assert!(expected.iter().all(|tree| tree.len() > 30), "the archives say little");
    let parallel = Arc::new(Fixture::new());
    let workers: Vec<_> = archives
        .iter()
        .cloned()
        .enumerate()
        .map(|(n, tar)| {
            let fixture = Arc::clone(&parallel);
            thread::spawn(move || {
                let diff = diff_of(&tar);
                let bytes = match n % 3 {
                    0 => gzip(&tar),
                    1 => zstd(&tar),
                    _ => tar,
                };
                fixture.store.ingest_layer(&diff, Trickle(&bytes, n)).unwrap();
                tree::read(&fixture.layer(&diff))
            })
        })
        .collect();
    for (worker, expected) in workers.into_iter().zip(expected) {
        let found = worker.join().unwrap();
        // Not assert_eq: its message would hold all contents.
        let different: Vec<_> =
            found.iter().filter(|(path, node)| expected.get(*path) != Some(node)).collect();
        let paths: Vec<_> = different.iter().map(|(path, _)| path).collect();
        assert!(different.is_empty() && found.len() == expected.len(), "different: {paths:?}");
    }
    assert_eq!(serial.store.usage(), parallel.store.usage());
}

/// Links among the names are made at random; a folder must stay one.
fn no_dangling_links(archive: Archive) -> Archive {
    Archive::new().dir("a").dir("a/b").dir("c").dir("l").file("a/b/target", "").raw(&archive.unfinished())
}

#[test]
fn members_and_frames_in_a_row_are_one_stream() {
    let fixture = Fixture::new();
    let tar = Archive::new().file("a", vec![1; 70_000]).file("b", vec![2; 70_000]).tar();
    let (first, rest) = tar.split_at(50_001);
    let diff = diff_of(&tar);
    for bytes in [[gzip(first), gzip(rest)].concat(), [zstd(first), zstd(rest)].concat()] {
        fixture.store.ingest_layer(&diff, &bytes[..]).unwrap();
    }
    assert_eq!(tree::names(&fixture.layer(&diff)), ["f a", "f b"]);
}

#[test]
fn an_empty_layer_is_a_layer() {
    let fixture = Fixture::new();
    for tar in [Archive::new().tar(), Vec::new()] {
        let diff = diff_of(&tar);
        fixture.store.ingest_layer(&diff, &gzip(&tar)[..]).unwrap();
        assert!(tree::names(&fixture.layer(&diff)).is_empty());
    }
}
