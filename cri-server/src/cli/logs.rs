//! `crisp logs`: prints a container's output from its log file.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use crisp_proto::runtime::v1::{ContainerStatus, ContainerStatusRequest};

use super::client::refused;
use super::names::Names;
use super::reconnect::Reconnect;
use super::{Client, wait};
use crate::log::{Follower, Line, Stream};
use crate::time;

/// Pause between two reads of a followed file.
const TICK: Duration = Duration::from_millis(100);

/// Print the output of a container
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  crisp logs --tail 20 -f web
  crisp logs -t --since 1h --until 30m shop/web")]
pub struct Logs {
    /// Print new lines until the container ends
    #[arg(long, short)]
    follow: bool,
    /// Print only this many lines from the end; `all` for all
    #[arg(long, short = 'n', value_name = "LINES", value_parser = tail)]
    tail: Option<usize>,
    /// Print the time of each line
    #[arg(long, short)]
    timestamps: bool,
    /// Print only lines newer than this: 10s, 5m, 1h30m, or a time such as 2026-01-01T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Print only lines older than this, in the same form
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    until: Option<String>,
    /// Container, as an id, the beginning of one, NAME or POD/NAME
    container: String,
}

impl Logs {
    /// Lines of a container from a time on, in nanoseconds since 1970.
    pub fn since(time: i64) -> Printer {
        Printer { timestamps: false, since: Some(time), until: None }
    }

    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let since = self.since.as_deref().map(|text| time::moment("--since", text)).transpose()?;
        let until = self.until.as_deref().map(|text| time::moment("--until", text)).transpose()?;
        let id = Names::load(&mut client).await?.container(&self.container)?.id.clone();
        let status = status(&mut client, &id).await?;
        if status.log_path.is_empty() {
            bail!("container {} keeps no log: it was created without a log path", self.container);
        }
        let mut printer = Printer { timestamps: self.timestamps, since, until };
        let mut follower = Follower::with_rotated(&PathBuf::from(&status.log_path))?;
        self.print_what_is_there(&mut follower, &mut printer)?;
        if self.follow {
            follow(&mut client, &id, &mut follower, &mut printer).await?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn print_what_is_there(&self, follower: &mut Follower, printer: &mut Printer) -> io::Result<()> {
        // Without a tail, no line needs to be kept.
        let Some(tail) = self.tail.filter(|tail| *tail != usize::MAX) else {
            return follower.read_what_is_there(&mut |line| printer.print(&line));
        };
        let mut last = VecDeque::new();
        let mut whole = 0;
        follower.read_what_is_there(&mut |line| {
            if !printer.is_within(&line) {
                return Ok(());
            }
            whole += usize::from(!line.partial);
            last.push_back(line);
            // The parts of one line count as one line.
            while whole > tail {
                whole -= usize::from(last.pop_front().is_some_and(|l: Line| !l.partial));
            }
            Ok(())
        })?;
        last.iter().try_for_each(|line| printer.print(line))
    }
}

/// Prints a container's output until the container ends.
///
/// # Errors
/// The container has no log, or the output cannot be written.
pub async fn print_to_end(client: &mut Client, id: &str, mut printer: Printer) -> anyhow::Result<()> {
    let mut follower = Follower::new(&log_path(client, id).await?);
    follow(client, id, &mut follower, &mut printer).await
}

/// The path of the log file.
///
/// # Errors
/// The container has no log.
pub async fn log_path(client: &mut Client, id: &str) -> anyhow::Result<PathBuf> {
    let status = status(client, id).await?;
    if status.log_path.is_empty() {
        bail!("container {id} keeps no log: it was created without a log path");
    }
    Ok(PathBuf::from(status.log_path))
}

async fn status(client: &mut Client, id: &str) -> anyhow::Result<ContainerStatus> {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    let reply = client.runtime.container_status(request).await.map_err(refused)?;
    reply.into_inner().status.ok_or_else(|| anyhow::anyhow!("the server knows no state of container {id}"))
}

async fn follow(
    client: &mut Client,
    id: &str,
    follower: &mut Follower,
    printer: &mut Printer,
) -> anyhow::Result<()> {
    let mut reconnect = Reconnect::default();
    loop {
        // The state is read before the file: the file then has all output from before the end.
        let over = match wait::now(client, id).await {
            Ok(end) => {
                reconnect.answered();
                end.is_some()
            }
            // The container writes on while the server restarts, and the file is on this machine. A `crisp run` that
            // ends removes the folder with its server.
            Err(status) if reconnect.may_repeat(&status) => !follower.has_folder(),
            Err(status) => return Err(refused(status)),
        };
        // The status is requested once a second; the file is read more often.
        for _ in 0..10 {
            follower.read_what_is_there(&mut |line| printer.print(&line))?;
            if over {
                return Ok(());
            }
            tokio::time::sleep(TICK).await;
        }
    }
}

/// Prints each line to the stream that the container wrote it to.
pub struct Printer {
    timestamps: bool,
    since: Option<i64>,
    until: Option<i64>,
}

impl Printer {
    /// A line without a time is not within any span.
    fn is_within(&self, line: &Line) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        let Some(time) = time::parse(&line.time) else { return false };
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time <= until)
    }

    fn print(&mut self, line: &Line) -> io::Result<()> {
        if !self.is_within(line) {
            return Ok(());
        }
        let mut text = Vec::with_capacity(line.content.len() + 40);
        if self.timestamps {
            text.extend_from_slice(line.time.as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(&line.content);
        if !line.partial {
            text.push(b'\n');
        }
        match line.stream {
            Stream::Stdout => io::stdout().write_all(&text),
            Stream::Stderr => io::stderr().write_all(&text),
        }
    }
}

fn tail(text: &str) -> Result<usize, String> {
    if text == "all" || text == "-1" {
        return Ok(usize::MAX);
    }
    text.parse().map_err(|_| "expected a number of lines, or all".to_owned())
}
