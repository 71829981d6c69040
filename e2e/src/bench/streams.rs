//! Exec and port-forward over SPDY, as a kubelet uses them.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use k8s_cri::v1::{ExecRequest, PortForwardRequest};

use super::series::{Series, Up};
use super::table::Row;
use super::{Effort, Target, memory};
use crate::spdy::{Event, Session};
use crate::{Client, Result};

/// A gigabyte, in pieces that fit into a pipe.
const GIGABYTE: usize = 1 << 30;
const PIECE: usize = 64 << 10;
const SEND: &str = "dd if=/dev/zero bs=65536 count=16384";
const PORT: &str = "8080";
const SESSIONS: usize = 200;
const PROCESS: &str = "v4.channel.k8s.io";

/// The pod of all measurements.
pub struct Streams {
    client: Client,
    up: Up,
}

impl Streams {
    /// # Errors
    /// The runtime's error.
    pub async fn start(target: &Target, series: &Series) -> Result<Self> {
        let mut client = Client::connect(&target.socket).await?;
        let sandbox = series.sandbox("streams");
        std::fs::create_dir_all(&sandbox.log_directory)?;
        let mut config = series.container(&format!("nc -ll -p {PORT} -e {SEND} & exec sleep 3600"));
        // Without limits, so that nothing waits for a share of a CPU.
        config.linux.get_or_insert_default().resources = None;
        let pod = client.run_pod(&sandbox).await?;
        let container = client.launch(&pod, &config, &sandbox).await?;
        Ok(Self { client, up: Up { pod, container } })
    }

    /// The id of the pod.
    #[must_use]
    pub fn pod(&self) -> &str {
        &self.up.pod
    }

    /// Takes the pod down.
    ///
    /// # Errors
    /// The runtime's error.
    pub async fn end(mut self, series: &Series) -> Result<()> {
        series.down(&mut self.client, self.up).await.map(drop)
    }

    /// Opens a session with a shell line; returns it with its stream of standard output.
    async fn exec(&mut self, line: &str, tty: bool) -> Result<(Session, u32)> {
        let request = ExecRequest {
            container_id: self.up.container.clone(),
            cmd: ["sh", "-c", line].map(str::to_owned).to_vec(),
            stdin: true,
            stdout: true,
            stderr: !tty,
            tty,
        };
        let url = self.client.runtime.exec(request).await?.into_inner().url;
        let mut session = Session::open(&url, PROCESS)?;
        session.stream(&[("streamtype", "error")], true)?;
        session.stream(&[("streamtype", "stdin")], false)?;
        let stdout = session.stream(&[("streamtype", "stdout")], true)?;
        session.stream(&[("streamtype", if tty { "resize" } else { "stderr" })], !tty)?;
        Ok((session, stdout))
    }

    /// Times from the request to the first output.
    async fn opening(&mut self, pause: Duration) -> Result<Duration> {
        tokio::time::sleep(pause).await;
        let begun = Instant::now();
        let (mut session, stdout) = self.exec("echo", false).await?;
        until_data(&mut session, stdout)?;
        let passed = begun.elapsed();
        until_end(&mut session, stdout)?;
        Ok(passed)
    }

    /// Measures a gigabyte through standard output, in megabytes per second.
    async fn exec_speed(&mut self) -> Result<f64> {
        let begun = Instant::now();
        let (mut session, stdout) = self.exec(&format!("exec {SEND} 2>/dev/null"), false).await?;
        let bytes = until_end(&mut session, stdout)?;
        speed(bytes, begun)
    }

    /// Measures the same through a forwarded port.
    async fn forward_speed(&mut self) -> Result<f64> {
        let request = PortForwardRequest { pod_sandbox_id: self.up.pod.clone(), port: vec![] };
        let url = self.client.runtime.port_forward(request).await?.into_inner().url;
        let mut session = Session::open(&url, "portforward.k8s.io")?;
        let headers = |kind| [("streamtype", kind), ("port", PORT), ("requestid", "1")];
        session.stream(&headers("error"), true)?;
        let begun = Instant::now();
        let data = session.stream(&headers("data"), false)?;
        let bytes = until_end(&mut session, data)?;
        speed(bytes, begun)
    }

    /// Opens a session, changes the size of its terminal, and drops the connection.
    ///
    /// # Errors
    /// The runtime's error.
    pub async fn vanish(&mut self) -> Result<()> {
        let (mut session, stdout) = self.exec("echo up; exec sleep 1000", true).await?;
        // The fourth stream, that of the terminal's size.
        session.write(7, b"{\"Width\":80,\"Height\":24}\n")?;
        until_data(&mut session, stdout)
    }
}

/// Measures opening, throughput and memory of streams.
///
/// # Errors
/// The runtime's error.
pub async fn streams(target: &Target, series: &Series, effort: Effort) -> Result<Vec<Row>> {
    let name = target.name.as_str();
    let mut streams = Streams::start(target, series).await?;
    let mut openings = Vec::new();
    for _ in 0..effort.execs {
        openings.push(streams.opening(series.pause).await?);
    }
    let mut rows = vec![Row::times(name, "streaming exec, request to first output, apart", &openings)];
    let mut figures: [Vec<f64>; 5] = Default::default();
    for _ in 0..effort.gigabytes {
        let plain = plain_speed()?;
        let (exec, forward) = (streams.exec_speed().await?, streams.forward_speed().await?);
        let round = [plain, exec, forward, 100.0 * exec / plain, 100.0 * forward / plain];
        figures.iter_mut().zip(round).for_each(|(all, one)| all.push(one));
    }
    let names = [
        ("1 GB over plain TCP on loopback", "MB/s"),
        ("1 GB through exec stdout", "MB/s"),
        ("1 GB through a port-forward", "MB/s"),
        ("exec stdout, of plain TCP", "%"),
        ("port-forward, of plain TCP", "%"),
    ];
    rows.extend(names.iter().zip(figures).map(|((what, unit), all)| Row::new(name, what, unit, all)));
    let before = memory::of_server(&target.socket);
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        let (mut session, stdout) = streams.exec("echo; exec sleep 1000", false).await?;
        until_data(&mut session, stdout)?;
        sessions.push(session);
    }
    let each = (memory::of_server(&target.socket) - before) / SESSIONS as f64;
    rows.push(Row::new(name, "PSS of the server, per streaming session", "kB", vec![each]));
    drop(sessions);
    streams.end(series).await?;
    Ok(rows)
}

fn until_data(session: &mut Session, stream: u32) -> Result<()> {
    loop {
        match session.event()? {
            Event::Data { stream: of, .. } if of == stream => return Ok(()),
            Event::End { stream: of } | Event::Reset { stream: of } if of == stream => {
                return Err("no output".into());
            }
            Event::Data { .. } | Event::End { .. } | Event::Reset { .. } => {}
            Event::Closed => return Err("the session ended early".into()),
        }
    }
}

/// Counts the bytes of a stream.
fn until_end(session: &mut Session, stream: u32) -> Result<usize> {
    let mut all = 0;
    loop {
        match session.event()? {
            Event::Data { stream: of, bytes } if of == stream => all += bytes,
            Event::End { stream: of } if of == stream => return Ok(all),
            Event::Reset { stream: of } if of == stream => return Err("the stream was reset".into()),
            Event::Data { .. } | Event::End { .. } | Event::Reset { .. } => {}
            Event::Closed => return Err("the session ended early".into()),
        }
    }
}

fn speed(bytes: usize, begun: Instant) -> Result<f64> {
    if bytes != GIGABYTE {
        return Err(format!("{bytes} bytes of {GIGABYTE} came").into());
    }
    Ok(bytes as f64 / 1e6 / begun.elapsed().as_secs_f64())
}

/// The speed of this machine: one thread writes to a socket, one reads.
fn plain_speed() -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let begun = Instant::now();
    let writing = std::thread::spawn(move || -> std::io::Result<()> {
        let mut socket = TcpStream::connect(address)?;
        let piece = vec![0; PIECE];
        (0..GIGABYTE / PIECE).try_for_each(|_| socket.write_all(&piece))
    });
    let (mut socket, mut piece, mut bytes) = (listener.accept()?.0, vec![0; 4 * PIECE], 0);
    loop {
        match socket.read(&mut piece)? {
            0 => break,
            more => bytes += more,
        }
    }
    writing.join().map_err(|_| "the writer panicked")??;
    speed(bytes, begun)
}
