//! The server and the monitor of a pod after sessions: they still serve, and hold no more than before.

use std::time::{Duration, Instant};

use crisp_e2e::session::{Channel, Protocol};
use crisp_e2e::{Lab, Result};

use super::protocols::{PIPES, exec};

/// The server serves another session.
pub async fn is_alive(lab: &mut Lab, id: &str, protocol: Protocol, what: &str) -> Result<()> {
    let mut process = exec(lab, id, "echo alive", protocol, PIPES).await?;
    assert_eq!((process.exit_code()?, process.text(Channel::Stdout).as_str()), (0, "alive\n"), "{what}");
    Ok(())
}

/// The number of open descriptors on both sides of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pod: String,
    server: usize,
    /// The sum over the monitors of the pod.
    monitors: usize,
}

impl Held {
    fn now(lab: &Lab, pod: &str) -> Result<Self> {
        let open = |pid: String| std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count);
        let monitors = lab.machine.monitors(pod);
        assert!(!monitors.is_empty(), "pod {pod} has no monitor");
        let monitors =
            monitors.into_iter().map(|pid| open(pid.to_string())).sum::<std::io::Result<usize>>()?;
        Ok(Self { pod: pod.to_owned(), server: open(lab.machine.server_pid().to_string())?, monitors })
    }

    /// The descriptors after a session of each protocol, once their number no longer changes.
    pub async fn warmed_up(lab: &mut Lab, pod: &str, id: &str) -> Result<Self> {
        for protocol in Protocol::USUAL {
            is_alive(lab, id, protocol, "before").await?;
        }
        let begun = Instant::now();
        let mut last = Self::now(lab, pod)?;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = Self::now(lab, pod)?;
            if now == last {
                return Ok(now);
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{last:?}, and a second later {now:?}");
            last = now;
        }
    }

    /// Waits until there are no more descriptors than before.
    pub async fn again(self, lab: &Lab) -> Result<()> {
        self.until(lab, |before, now| now.server <= before.server && now.monitors <= before.monitors).await
    }

    /// Waits until the monitors have no more descriptors than before; the server may be another one.
    pub async fn again_in_monitors(self, lab: &Lab) -> Result<()> {
        self.until(lab, |before, now| now.monitors <= before.monitors).await
    }

    async fn until(self, lab: &Lab, is_reached: impl Fn(&Self, &Self) -> bool) -> Result<()> {
        let begun = Instant::now();
        loop {
            let now = Self::now(lab, &self.pod)?;
            if is_reached(&self, &now) {
                return Ok(());
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{self:?} before, {now:?} after");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
