//! TCP between two pods, by threads in their network namespaces.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::sandboxes::Sandbox;
use super::table::Row;
use crate::Result;

const MEGABYTE: usize = 1 << 20;
const ROUNDS: usize = 3000;

/// Sends `megabytes` from one pod to the other, and then single bytes to and fro.
///
/// # Errors
/// A system call failed.
pub fn between(runtime: &str, from: &Sandbox, to: &Sandbox, megabytes: usize) -> Result<Vec<Row>> {
    let (said, port) = mpsc::channel();
    let place = to.namespace.clone();
    let receiver = std::thread::spawn(move || -> Result<()> {
        enter(&place)?;
        let listener = TcpListener::bind(("0.0.0.0", 0))?;
        said.send(listener.local_addr()?.port())?;
        receive(&listener.accept()?.0, megabytes)
    });
    let (place, ip) = (from.namespace.clone(), to.ip.clone());
    let port = port.recv_timeout(Duration::from_secs(10))?;
    let sender = std::thread::spawn(move || -> Result<(f64, Vec<Duration>)> {
        enter(&place)?;
        send(TcpStream::connect((ip, port))?, megabytes)
    });
    let failed = |_| crate::Error::from("a thread of the measurement has panicked");
    let (rate, times) = sender.join().map_err(failed)??;
    receiver.join().map_err(failed)??;
    Ok(vec![
        Row::new(runtime, "pod to pod, one TCP stream", "MB/s", vec![rate]),
        Row::times(runtime, "pod to pod, one byte and back", &times),
    ])
}

/// Moves this thread into the namespace; its sockets stay there.
fn enter(path: &str) -> Result<()> {
    let namespace = File::open(path)?;
    Ok(move_into_thread_name_spaces(namespace.as_fd(), ThreadNameSpaceType::NETWORK)?)
}

fn receive(mut stream: &TcpStream, megabytes: usize) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; MEGABYTE];
    let mut left = megabytes * MEGABYTE;
    while left > 0 {
        let most = left.min(MEGABYTE);
        match stream.read(&mut buffer[..most])? {
            0 => return Err("the stream ended early".into()),
            count => left -= count,
        }
    }
    stream.write_all(b"!")?;
    let mut one = [0];
    for _ in 0..ROUNDS {
        stream.read_exact(&mut one)?;
        stream.write_all(&one)?;
    }
    Ok(())
}

/// Megabytes per second, and the times of the single bytes.
fn send(mut stream: TcpStream, megabytes: usize) -> Result<(f64, Vec<Duration>)> {
    stream.set_nodelay(true)?;
    let buffer = vec![7; MEGABYTE];
    let begun = Instant::now();
    for _ in 0..megabytes {
        stream.write_all(&buffer)?;
    }
    let mut one = [0];
    stream.read_exact(&mut one)?;
    let rate = megabytes as f64 / begun.elapsed().as_secs_f64();
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        stream.write_all(&one)?;
        stream.read_exact(&mut one)?;
        times.push(begun.elapsed());
    }
    Ok((rate, times))
}
