//! The kernel's table of TCP connections, proc_pid_net(5).

use std::fs::File;
use std::io::{BufRead as _, BufReader};

use rustix::fd::OwnedFd;

/// Whether the peer has confirmed all bytes that were sent on the connection. Its program may not have read
/// them yet; it still can after this side has closed the connection.
pub(crate) fn is_all_taken(socket: &OwnedFd) -> bool {
    let Ok(inode) = rustix::fs::fstat(socket).map(|stat| stat.st_ino.to_string()) else { return true };
    // A connection that is in neither table has been given up by the kernel.
    unconfirmed("/proc/self/net/tcp", &inode)
        .or_else(|| unconfirmed("/proc/self/net/tcp6", &inode))
        .is_none_or(|bytes| bytes == 0)
}

/// The number of bytes that wait for the peer's confirmation. The end of the connection counts as one.
fn unconfirmed(table: &str, inode: &str) -> Option<u64> {
    let lines = BufReader::new(File::open(table).ok()?).lines().map_while(Result::ok);
    lines.skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields.get(9) != Some(&inode) {
            return None;
        }
        let (sending, _) = fields.get(4)?.split_once(':')?;
        u64::from_str_radix(sending, 16).ok()
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_a_peer_has_not_taken_shows_until_it_has() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let mut receiver = listener.accept().unwrap().0;
            sender.set_nonblocking(true).unwrap();
            while sender.write(&[0; 64 << 10]).is_ok() {}
            sender.shutdown(std::net::Shutdown::Write).unwrap();
            let socket = OwnedFd::from(sender);
            assert!(!is_all_taken(&socket));
            let mut all = Vec::new();
            receiver.read_to_end(&mut all).unwrap();
            let begun = std::time::Instant::now();
            while !is_all_taken(&socket) {
                assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{address}");
            }
        }
    }
}
