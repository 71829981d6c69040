//! Keeps results in the form and at the paths of libcni: agents of the node read them there, and another
//! runtime can detach the pod. Crisp itself uses its own records.
//!
//! Source: libcni/api.go, `cachedInfo`.

use std::fs;
use std::path::{Path, PathBuf};

use crisp_operation::record::{Durability, remove_file, write_file};
use serde_json::{Value, json};

use super::record::{CniRecord, Joined};

/// The folder of results.
#[derive(Debug, Clone)]
pub(super) struct ResultCache(PathBuf);

impl ResultCache {
    /// In the given folder, usually `/var/lib/cni`.
    pub(super) fn in_folder(folder: &Path) -> Self {
        Self(PathBuf::from(format!("{}/results", folder.display())))
    }

    /// Keeps the result of a network. A failure is only logged, because the pod has its network anyway.
    pub(super) fn keep(&self, record: &CniRecord, joined: &Joined) {
        let path = self.path(record, joined);
        let bytes = entry(record, joined).to_string().into_bytes();
        let written =
            fs::create_dir_all(&self.0).and_then(|()| write_file(&path, &bytes, 0o600, Durability::Process));
        if let Err(error) = written {
            tracing::warn!(file = %path.display(), %error, "cannot keep the result of CNI plugins for others");
        }
    }

    pub(super) fn forget(&self, record: &CniRecord, joined: &Joined) {
        let path = self.path(record, joined);
        if let Err(error) = remove_file(&path) {
            tracing::warn!(file = %path.display(), %error, "cannot remove the result of CNI plugins");
        }
    }

    fn path(&self, record: &CniRecord, joined: &Joined) -> PathBuf {
        self.0.join(format!("{}-{}-{}", joined.network.name, record.pod, joined.interface))
    }
}

fn entry(record: &CniRecord, joined: &Joined) -> Value {
    let network = &joined.network;
    let plugins: Vec<_> = network.plugins.iter().map(|plugin| &plugin.config).collect();
    let list = json!({"cniVersion": network.version.as_str(), "name": network.name, "plugins": plugins});
    let args: Vec<_> = joined.args.split(';').filter_map(|pair| pair.split_once('=')).collect();
    json!({
        "kind": "cniCacheV1",
        "containerId": record.pod,
        "config": base64(list.to_string().as_bytes()),
        "ifName": joined.interface,
        "networkName": network.name,
        "netns": record.netns,
        "cniArgs": args,
        "capabilityArgs": joined.capabilities,
        "result": joined.result,
    })
}

/// The form in which Go writes bytes into JSON: RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().fold(0, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let letter = LETTERS[(group >> (18 - 6 * at) & 0x3f) as usize];
            text.push(if at <= chunk.len() { letter.into() } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }
}
