//! Protects the server against the kernel's OOM killer, because without it no pod can be started or stopped.
//! See proc(5), `/proc/PID/oom_score_adj`.

use std::io;
use std::path::Path;

/// The file of this process. Monitors and containers set their own.
const FILE: &str = "/proc/self/oom_score_adj";
/// The same as kubelet's: later than every pod, but before processes that must never be killed.
const PROTECTED: i32 = -999;

/// Logs once if the host does not allow it.
pub fn protect() {
    if let Err(error) = lower(Path::new(FILE)) {
        tracing::warn!(
            %error,
            "this server may be chosen by the OOM killer: {FILE} cannot be set to {PROTECTED}; give it CAP_SYS_RESOURCE, or OOMScoreAdjust={PROTECTED} in its systemd unit"
        );
    }
}

/// Keeps a lower value, which an administrator has set.
fn lower(file: &Path) -> io::Result<()> {
    let present = std::fs::read_to_string(file)?;
    if present.trim().parse::<i32>().is_ok_and(|present| present <= PROTECTED) {
        return Ok(());
    }
    std::fs::write(file, PROTECTED.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_lowered_and_never_raised() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("oom_score_adj");
        for (before, after) in
            [("0\n", "-999"), ("-998\n", "-999"), ("-999\n", "-999\n"), ("-1000\n", "-1000\n")]
        {
            std::fs::write(&file, before).unwrap();
            lower(&file).unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), after);
        }
        assert!(lower(&folder.path().join("absent")).is_err());
    }
}
