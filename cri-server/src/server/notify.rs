//! Notifies systemd: of readiness and reloads, for units with `Type=notify`, and that the server is alive,
//! for units with `WatchdogSec`. See sd_notify(3) and sd_watchdog_enabled(3).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Sends READY=1 if the environment names a socket for it.
pub fn ready() {
    state("READY=1");
}

/// Sends RELOADING=1 with the time that a unit with `Type=notify-reload` requires. [`ready`] ends it.
pub fn reloading() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    state(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1000));
}

fn state(message: &str) {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&address, message.as_bytes()) {
        tracing::warn!(address = %address.display(), %error, message, "cannot notify systemd");
    }
}

/// Sends WATCHDOG=1 twice per watchdog interval, forever. It is a task and so needs what all requests need:
/// threads that run tasks. Returns at once if there is no watchdog.
pub async fn keep_watchdog_calm() {
    let Some((address, pause)) = std::env::var_os("NOTIFY_SOCKET").zip(half_of_watchdog(
        std::env::var("WATCHDOG_USEC").ok().as_deref(),
        std::env::var("WATCHDOG_PID").ok().as_deref(),
    )) else {
        return;
    };
    loop {
        if let Err(error) = send(&address, b"WATCHDOG=1") {
            tracing::warn!(address = %address.display(), %error, "cannot tell systemd that the server lives");
        }
        tokio::time::sleep(pause).await;
    }
}

fn half_of_watchdog(microseconds: Option<&str>, pid: Option<&str>) -> Option<Duration> {
    let is_for_us = pid.is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    let period = microseconds?.parse().ok().filter(|period| *period > 0 && is_for_us)?;
    Some(Duration::from_micros(period) / 2)
}

fn send(address: &OsStr, message: &[u8]) -> io::Result<()> {
    // A name that begins with @ is in the abstract namespace, not in the file system: unix(7).
    let address = match address.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message, &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_of_another_process_is_not_ours() {
        let own = std::process::id().to_string();
        assert_eq!(half_of_watchdog(Some("30000000"), None), Some(Duration::from_secs(15)));
        assert_eq!(half_of_watchdog(Some("30000000"), Some(&own)), Some(Duration::from_secs(15)));
        for (period, pid) in
            [(None, None), (Some("0"), None), (Some("x"), None), (Some("30000000"), Some("1"))]
        {
            assert_eq!(half_of_watchdog(period, pid), None, "{period:?} {pid:?}");
        }
    }

    #[test]
    fn the_message_arrives_at_a_path_and_at_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("@crisp-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name.as_bytes()[1..]).unwrap();
        for (socket, address) in [
            (UnixDatagram::bind(&path).unwrap(), path.as_os_str()),
            (UnixDatagram::bind_addr(&abstract_name).unwrap(), OsStr::new(&name)),
        ] {
            send(address, b"READY=1").unwrap();
            let mut message = [0; 16];
            let length = socket.recv(&mut message).unwrap();
            assert_eq!(&message[..length], b"READY=1");
        }
    }
}
