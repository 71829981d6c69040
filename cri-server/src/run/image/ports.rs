//! Ports in the syntax of `docker run -p`: `[[ADDRESS:][HOST]:]CONTAINER[/PROTOCOL]`, with ranges.

use std::net::{IpAddr, TcpListener, UdpSocket};
use std::str::FromStr;

use anyhow::Context as _;
use serde_json::{Value, json};

/// More ports in one option are probably a mistake.
const MOST: u16 = 1000;

/// The value of `-p` or `--expose`: one port or a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports {
    pub address: Option<IpAddr>,
    /// The first port; None for any free port.
    pub host: Option<u16>,
    /// The first port.
    pub container: u16,
    pub count: u16,
    pub protocol: &'static str,
}

/// Parses the value of `-p`.
pub fn publish(text: &str) -> Result<Ports, String> {
    let (rest, protocol) = protocol(text)?;
    // An IPv6 address contains colons.
    let (address, rest) = match rest.strip_prefix('[').map(|inside| inside.split_once("]:")) {
        Some(Some((address, rest))) => (address, rest),
        Some(None) => return Err("expected [ADDRESS]:HOST:CONTAINER".to_owned()),
        None if rest.matches(':').count() == 2 => rest.split_once(':').unwrap_or(("", rest)),
        None => ("", rest),
    };
    let (host, container) = match rest.split_once(':') {
        Some((host, container)) => (host, container),
        None if address.is_empty() => ("", rest),
        None => return Err("expected ADDRESS:HOST:CONTAINER".to_owned()),
    };
    let address = if address.is_empty() {
        None
    } else {
        Some(IpAddr::from_str(address).map_err(|_| format!("{address:?} is not an IP address"))?)
    };
    let (container, count) = range(container)?;
    let host = if host.is_empty() { None } else { Some(range(host)?) };
    if host.is_some_and(|(_, hosts)| hosts != count) {
        return Err("as many ports of the host are needed as there are of the container".to_owned());
    }
    Ok(Ports { address, host: host.map(|(first, _)| first), container, count, protocol })
}

/// Parses the value of `--expose`.
pub fn expose(text: &str) -> Result<Ports, String> {
    let (rest, protocol) = protocol(text)?;
    let (container, count) = range(rest)?;
    Ok(Ports { address: None, host: None, container, count, protocol })
}

fn protocol(text: &str) -> Result<(&str, &'static str), String> {
    match text.rsplit_once('/') {
        None | Some((_, "tcp")) => Ok((text.strip_suffix("/tcp").unwrap_or(text), "TCP")),
        Some((rest, "udp")) => Ok((rest, "UDP")),
        Some((rest, "sctp")) => Ok((rest, "SCTP")),
        Some((_, other)) => Err(format!("{other:?} is none of tcp, udp and sctp")),
    }
}

/// The first port and the number of ports.
fn range(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| {
        let number = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
        number.filter(|port| *port != 0).ok_or_else(|| format!("{text:?} is not a port: 1 to 65535"))
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    match last.checked_sub(first) {
        None => Err(format!("{text:?}: the last port is before the first")),
        Some(more) if more >= MOST => Err(format!("{text:?} has more than {MOST} ports")),
        Some(more) => Ok((first, more + 1)),
    }
}

impl Ports {
    /// Converts to entries of a manifest's `ports`; with `is_published`, each gets a port of the host.
    ///
    /// # Errors
    /// No port of the host is free.
    pub fn entries(&self, is_published: bool) -> anyhow::Result<Vec<Value>> {
        (0..self.count).map(|index| self.entry(index, is_published)).collect()
    }

    fn entry(&self, index: u16, is_published: bool) -> anyhow::Result<Value> {
        let mut entry = json!({ "containerPort": self.container + index, "protocol": self.protocol });
        if is_published {
            let host = match self.host {
                Some(first) => first + index,
                None => free_port(self.protocol).context("--publish: no port of the host is free")?,
            };
            entry["hostPort"] = json!(host);
            if let Some(address) = self.address {
                entry["hostIP"] = json!(address.to_string());
            }
        }
        Ok(entry)
    }
}

/// A port at which no program listens now. The pod's network checks this again when the pod starts.
fn free_port(protocol: &str) -> std::io::Result<u16> {
    let any = ("0.0.0.0", 0);
    let address = if protocol == "UDP" {
        UdpSocket::bind(any)?.local_addr()
    } else {
        TcpListener::bind(any)?.local_addr()
    };
    Ok(address?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_published_port_is_read() {
        let all = |text| {
            let Ports { address, host, container, count, protocol } = publish(text).unwrap();
            (address.map(|a| a.to_string()).unwrap_or_default(), host, container, count, protocol)
        };
        assert_eq!(all("80"), (String::new(), None, 80, 1, "TCP"));
        assert_eq!(all("8080:80"), (String::new(), Some(8080), 80, 1, "TCP"));
        assert_eq!(all("127.0.0.1:8080:80/udp"), ("127.0.0.1".into(), Some(8080), 80, 1, "UDP"));
        assert_eq!(all("127.0.0.1::80"), ("127.0.0.1".into(), None, 80, 1, "TCP"));
        assert_eq!(all("[::1]:8080:80/tcp"), ("::1".into(), Some(8080), 80, 1, "TCP"));
        assert_eq!(all("8000-8002:80-82/sctp"), (String::new(), Some(8000), 80, 3, "SCTP"));
        let entries = publish("127.0.0.1:8000-8001:80-81").unwrap().entries(true).unwrap();
        assert_eq!((&entries[1]["hostPort"], &entries[1]["hostIP"]), (&json!(8001), &json!("127.0.0.1")));
        assert!(publish("80").unwrap().entries(true).unwrap()[0]["hostPort"].as_u64().is_some_and(|p| p > 0));
        assert!(expose("80-81/udp").unwrap().entries(false).unwrap()[1].get("hostPort").is_none());
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for text in [
            "",
            ":",
            "::",
            "0",
            "65536",
            "-1",
            "80-",
            "82-80",
            "1-65535",
            "+80",
            "80/icmp",
            "80/",
            "a:80",
            "80:b",
            "1:2:3:4",
            "256.0.0.1:1:2",
            "host:1:2",
            "[::1]",
            "[::1]:80",
            "[x]:1:2",
            "::1:80:80",
            "8000-8001:80",
            "80:80-81",
            "80 :80",
            "80:80\n",
        ] {
            assert!(publish(text).is_err(), "{text}");
        }
        for text in ["", "8080:80", "80/x", "0"] {
            assert!(expose(text).is_err(), "{text}");
        }
    }
}
