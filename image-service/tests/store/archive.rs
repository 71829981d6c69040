//! Archives, also ones that no decent writer makes.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

/// One entry to write.
#[derive(Clone)]
pub struct Item {
    pub kind: u8,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: u64,
    pub device: (u32, u32),
    pub content: Vec<u8>,
    pub pax: Vec<(Vec<u8>, Vec<u8>)>,
}

pub fn item(kind: u8, path: impl AsRef<[u8]>) -> Item {
    Item {
        kind,
        path: path.as_ref().to_vec(),
        link: Vec::new(),
        mode: if kind == b'5' { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        mtime: 1_600_000_000,
        device: (0, 0),
        content: Vec::new(),
        pax: Vec::new(),
    }
}

impl Item {
    pub fn link(mut self, target: impl AsRef<[u8]>) -> Self {
        self.link = target.as_ref().to_vec();
        self
    }
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }
    pub fn mtime(mut self, mtime: u64) -> Self {
        self.mtime = mtime;
        self
    }
    pub fn device(mut self, major: u32, minor: u32) -> Self {
        self.device = (major, minor);
        self
    }
    pub fn content(mut self, content: impl AsRef<[u8]>) -> Self {
        self.content = content.as_ref().to_vec();
        self
    }
    pub fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.as_bytes().to_vec(), value.as_ref().to_vec()));
        self
    }
}

/// An archive being written. Order is kept; nothing is checked.
#[derive(Clone, Default)]
pub struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn dir(self, path: impl AsRef<[u8]>) -> Self {
        self.add(&item(b'5', path))
    }
    pub fn file(self, path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        self.add(&item(b'0', path).content(content))
    }
    pub fn symlink(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.add(&item(b'2', path).link(target))
    }
    pub fn hard_link(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.add(&item(b'1', path).link(target))
    }

    pub fn add(mut self, item: &Item) -> Self {
        if !item.pax.is_empty() {
            let records: Vec<u8> = item.pax.iter().flat_map(|(k, v)| pax_record(k, v)).collect();
            self = self.extension(b'x', &records);
        }
        if item.path.len() > 100 {
            self = self.extension(b'L', &[&item.path[..], b"\0"].concat());
        }
        if item.link.len() > 100 {
            self = self.extension(b'K', &[&item.link[..], b"\0"].concat());
        }
        self.raw(&header(item)).padded(&item.content)
    }

    /// A header that is about the next entry.
    pub fn extension(self, kind: u8, content: &[u8]) -> Self {
        let name = item(kind, "././@LongLink").content(content);
        self.raw(&header(&name)).padded(content)
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn padded(self, content: &[u8]) -> Self {
        let padding = content.len().next_multiple_of(512) - content.len();
        self.raw(content).raw(&vec![0; padding])
    }

    /// With the two zero blocks that end it.
    pub fn tar(self) -> Vec<u8> {
        self.raw(&[0; 1024]).bytes
    }

    /// As it is.
    pub fn unfinished(self) -> Vec<u8> {
        self.bytes
    }
}

pub fn header(item: &Item) -> [u8; 512] {
    let mut header = tar::Header::new_gnu();
    let cut = |bytes: &[u8], field: &mut [u8]| {
        let n = bytes.len().min(field.len());
        field[..n].copy_from_slice(&bytes[..n]);
    };
    let old = header.as_old_mut();
    cut(&item.path, &mut old.name);
    cut(&item.link, &mut old.linkname);
    old.linkflag = [item.kind];
    header.set_mode(item.mode);
    header.set_uid(item.uid);
    header.set_gid(item.gid);
    header.set_mtime(item.mtime);
    header.set_size(item.content.len() as u64);
    header.set_device_major(item.device.0).unwrap();
    header.set_device_minor(item.device.1).unwrap();
    header.set_cksum();
    *header.as_bytes()
}

fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}
