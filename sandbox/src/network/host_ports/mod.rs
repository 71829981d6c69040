//! The host ports of pods. Whichever network publishes them, two pods never have the same port, and no
//! program of the host can use it while a pod has it, because a socket holds it.
//!
//! ```text
//!              reserve      open pod            restart                        stop
//!   server     socket ──────────┬── socket ──┤  ├── bind is refused ─── copy ──┬── closed
//!                               │ copy                                 ^ copy   │
//!   monitor                     └── socket ────────────────────────────┴── closed with its end
//! ```
//!
//! The server keeps its sockets too: a port is released last, when no packet rule leads from it to the pod any more.
//! Monitors of earlier releases hold none; then the bind after the restart is not refused.

mod holder;
mod restore;
mod socket;

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crisp_executor::ids::PodId;
use rustix::io::Errno;

use super::{NetworkError, PortMapping};

/// Time in which a released port may still be in use: a process that is being started has a copy of the server's
/// sockets until it runs its program.
const CLOSING: Duration = Duration::from_secs(1);
/// Pause before such a port is tried again.
const PAUSE: Duration = Duration::from_millis(2);

/// Reservations of all pods, built-in network and CNI alike.
#[derive(Debug)]
pub(super) struct HostPorts {
    held: Mutex<HashMap<PodId, Held>>,
    /// The ports that were released within `closing`, and perhaps some older ones.
    released: Mutex<Vec<(Instant, PortMapping)>>,
    /// [`CLOSING`], but in tests.
    closing: Duration,
}

impl Default for HostPorts {
    fn default() -> Self {
        Self { held: Mutex::default(), released: Mutex::default(), closing: CLOSING }
    }
}

/// The ports of one pod.
#[derive(Debug)]
struct Held {
    /// Namespace and name of the pod, for people.
    name: String,
    ports: Vec<PortMapping>,
    /// Those that could not be opened again at a restart: the pod's monitor or another program has them.
    missing: Vec<PortMapping>,
    /// Sockets that keep the other ports until they are closed.
    sockets: Vec<OwnedFd>,
}

/// The ports in the record of a pod.
#[derive(Debug)]
pub(super) struct HeldPorts {
    pub pod: PodId,
    pub name: String,
    pub ports: Vec<PortMapping>,
}

impl HeldPorts {
    pub(super) fn new(pod: &PodId, namespace: &str, name: &str, ports: &[PortMapping]) -> Self {
        Self { pod: pod.clone(), name: format!("{namespace}/{name}"), ports: ports.to_vec() }
    }
}

/// The mappings that publish something; or an invalid one, with the reason.
pub(crate) fn published(mappings: &[PortMapping]) -> Result<Vec<PortMapping>, (&PortMapping, &'static str)> {
    let mut ports: Vec<PortMapping> = Vec::new();
    for asked in mappings.iter().filter(|m| m.host_port != 0) {
        if asked.container_port == 0 {
            return Err((asked, "the container port is missing"));
        }
        if ports.contains(asked) {
            continue;
        }
        if ports.iter().any(|p| clash(p, asked)) {
            return Err((asked, "the pod publishes it twice"));
        }
        ports.push(asked.clone());
    }
    Ok(ports)
}

pub(super) fn refused(port: &PortMapping, why: &str) -> NetworkError {
    NetworkError::PortRefused { port: port.host_port, protocol: port.protocol, why: why.to_owned() }
}

fn clash(a: &PortMapping, b: &PortMapping) -> bool {
    let address = match (a.host_ip, b.host_ip) {
        (Some(a), Some(b)) => {
            a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
        }
        _ => true,
    };
    address && a.protocol == b.protocol && a.host_port == b.host_port
}

impl HostPorts {
    /// Takes the ports for the pod, all or none; fails if another pod or a program uses one. `why_left` tells
    /// for another pod that is gone why it still has its ports. Blocks, for [`CLOSING`] at most, on a port
    /// that was released just before.
    pub(super) fn reserve(
        &self,
        pod: &PodId,
        name: &str,
        ports: &[PortMapping],
        why_left: impl Fn(&PodId) -> Option<String>,
    ) -> Result<(), NetworkError> {
        if ports.is_empty() {
            return Ok(());
        }
        let begun = Instant::now();
        let taken = loop {
            match self.take(pod, name, ports) {
                Err(Refusal::Kernel(port, Errno::ADDRINUSE))
                    if begun.elapsed() < self.closing && self.was_released(port) =>
                {
                    std::thread::park_timeout(PAUSE);
                }
                taken => break taken,
            }
        };
        // The holder is searched without the lock: that reads all of /proc.
        taken.map_err(|refusal| match refusal {
            Refusal::Pod(port, other, holder) => match why_left(&other) {
                None => in_use(port, holder),
                Some(why) => {
                    in_use(port, format!("{holder}, which is gone, but not all of its network is: {why}; that is tried again now"))
                }
            },
            Refusal::Kernel(port, errno) => refused_by_kernel(port, errno),
        })
    }

    fn take<'p>(&self, pod: &PodId, name: &str, ports: &'p [PortMapping]) -> Result<(), Refusal<'p>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.get(pod).is_some_and(|held| held.ports == ports) {
            return Ok(());
        }
        let mut sockets = Vec::new();
        for (at, port) in ports.iter().enumerate() {
            for (other, theirs) in held.iter().filter(|(other, _)| *other != pod) {
                if let Some(taken) = theirs.ports.iter().find(|p| clash(p, port)) {
                    let holder = format!("pod {} ({}){}", theirs.name, other.short(), elsewhere(taken, port));
                    return Err(Refusal::Pod(port, other.clone(), holder));
                }
            }
            sockets.extend(socket::hold(port).map_err(|errno| {
                self.note_released(&ports[..at]);
                Refusal::Kernel(port, errno)
            })?);
        }
        let (name, ports) = (name.to_owned(), ports.to_vec());
        held.insert(pod.clone(), Held { name, ports, missing: Vec::new(), sockets });
        Ok(())
    }

    /// The ports of all pods.
    pub(super) fn all(&self) -> Vec<(PodId, Vec<PortMapping>)> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().map(|(pod, held)| (pod.clone(), held.ports.clone())).collect()
    }

    /// Releases the pod's ports.
    pub(super) fn release(&self, pod: &PodId) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(pod);
        let Some(Held { ports, .. }) = &held else { return };
        self.note_released(ports);
        // Sockets are closed without a lock: there may be thousands.
        drop(held);
    }

    fn note_released(&self, ports: &[PortMapping]) {
        let now = Instant::now();
        let mut released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
        released.retain(|(at, _)| now - *at < self.closing);
        released.extend(ports.iter().map(|port| (now, port.clone())));
    }

    fn was_released(&self, port: &PortMapping) -> bool {
        let released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
        released.iter().any(|(at, other)| at.elapsed() < self.closing && clash(other, port))
    }
}

/// The reason why a port cannot be taken.
enum Refusal<'p> {
    /// Another pod has it; its name and address.
    Pod(&'p PortMapping, PodId, String),
    Kernel(&'p PortMapping, Errno),
}

fn refused_by_kernel(port: &PortMapping, errno: Errno) -> NetworkError {
    match errno {
        Errno::ADDRINUSE => in_use(port, holder::find(port)),
        errno => NetworkError::PortNotHeld { port: port.host_port, protocol: port.protocol, errno },
    }
}

fn in_use(port: &PortMapping, holder: String) -> NetworkError {
    let (host_ip, protocol) = (port.host_ip, port.protocol);
    NetworkError::PortInUse {
        port: port.host_port,
        protocol,
        place: host_ip.map_or(String::new(), on),
        holder,
    }
}

/// The address on which the other one has it, if it differs from the requested one.
fn elsewhere(theirs: &PortMapping, asked: &PortMapping) -> String {
    match theirs.host_ip {
        same if same == asked.host_ip => String::new(),
        Some(ip) => on(ip),
        None => " on all addresses".to_owned(),
    }
}

fn on(ip: IpAddr) -> String {
    format!(" on {ip}")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::slice::from_ref;

    use super::*;
    use crate::network::Protocol;

    pub(super) fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    pub(super) fn tcp(host_port: u16, host_ip: Option<&str>) -> PortMapping {
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port, host_ip }
    }

    #[test]
    fn only_published_ports_remain() {
        let ports = published(&[tcp(0, None), tcp(8080, None), tcp(8080, None)]).unwrap();
        assert_eq!(ports, [tcp(8080, None)]);
        let twice = [tcp(80, None), PortMapping { container_port: 81, ..tcp(80, Some("127.0.0.1")) }];
        assert!(matches!(published(&twice), Err((_, "the pod publishes it twice"))));
        assert!(published(&[PortMapping { container_port: 0, ..tcp(80, None) }]).is_err());
        let families = [tcp(80, Some("0.0.0.0")), tcp(80, Some("::"))];
        assert_eq!(published(&families).unwrap(), families);
    }

    #[test]
    fn another_pods_port_is_refused_by_name_until_released() {
        let (ports, a, b) = (HostPorts::default(), PodId::random(), PodId::random());
        let number = free_port();
        ports.restore(HeldPorts::new(&a, "default", "web", &[tcp(number, None)]));
        let refused =
            |asked: &PortMapping| ports.reserve(&b, "b", from_ref(asked), |_| None).unwrap_err().to_string();
        let holder = format!("is already in use by pod default/web ({})", a.short());
        assert_eq!(refused(&tcp(number, None)), format!("host port {number}/tcp {holder}"));
        let expected = format!("host port {number}/tcp on 127.0.0.1 {holder} on all addresses");
        assert_eq!(refused(&tcp(number, Some("127.0.0.1"))), expected);
        let udp = PortMapping { protocol: Protocol::Udp, ..tcp(number, None) };
        ports.reserve(&b, "b", from_ref(&udp), |_| None).unwrap();
        ports.release(&a);
        ports.reserve(&a, "a", &[tcp(number, None)], |_| None).unwrap();
    }

    #[test]
    fn a_listener_of_the_host_is_named_and_no_later_one_gets_the_port() {
        let (ports, pod) = (HostPorts::default(), PodId::random());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (number, me) = (listener.local_addr().unwrap().port(), std::process::id());
        let other = tcp(free_port(), None);
        let both = [other.clone(), tcp(number, None)];
        let error = ports.reserve(&pod, "a", &both, |_| None).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("host port {number}/tcp is already in use by process ")),
            "{error}"
        );
        assert!(error.ends_with(&format!("(pid {me}) on 127.0.0.1")), "{error}");
        // All or none.
        drop((TcpListener::bind(("127.0.0.1", other.host_port)).unwrap(), listener));
        ports.reserve(&pod, "a", &both, |_| None).unwrap();
        ports.reserve(&pod, "a", &both, |_| None).unwrap();
        TcpListener::bind(("127.0.0.1", number)).unwrap_err();
        ports.release(&pod);
        TcpListener::bind(("127.0.0.1", number)).unwrap();
    }

    #[test]
    fn a_released_port_that_is_still_closing_is_waited_for_and_no_other_one() {
        let pod = PodId::random();
        let mut ports = HostPorts { closing: Duration::from_secs(20), ..HostPorts::default() };
        let both = [tcp(free_port(), None), tcp(free_port(), None)];
        ports.reserve(&pod, "a", &both, |_| None).unwrap();
        // As in a process that is being started.
        let copy_of = |at: usize| ports.held.lock().unwrap()[&pod].sockets[at].try_clone().unwrap();
        let copy = copy_of(1);
        ports.release(&pod);
        let closing = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(2));
            drop(copy);
        });
        ports.reserve(&pod, "a", &both, |_| None).unwrap();
        closing.join().unwrap();
        // A copy that is not closed, and a port that was not released.
        ports.closing = Duration::from_millis(100);
        let copy = copy_of(1);
        ports.release(&pod);
        let error = ports.reserve(&pod, "a", &both, |_| None).unwrap_err().to_string();
        assert!(error.contains("is already in use by"), "{error}");
        assert!(!ports.was_released(&tcp(1, None)));
        drop(copy);
    }
}
