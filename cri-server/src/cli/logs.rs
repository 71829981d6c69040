//! `crisp logs`: what a container wrote, out of its log file.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use crisp_operation::{clock, parse_duration};
use crisp_proto::runtime::v1::{ContainerState, ContainerStatus, ContainerStatusRequest};

use super::Client;
use super::client::refused;
use super::names::Names;
use crate::log::{Follower, Line, Stream};
use crate::time;

/// Time between two readings of a followed file.
const TICK: Duration = Duration::from_millis(100);

/// Print what a container wrote
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// Print new lines until the container ends
    #[arg(long, short)]
    follow: bool,
    /// Print only this many lines from the end
    #[arg(long, short = 'n', value_name = "LINES")]
    tail: Option<usize>,
    /// Print the time of each line
    #[arg(long, short)]
    timestamps: bool,
    /// Print only lines newer than this: 10s, 5m, 1h30m, or a time such as 2026-01-01T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Container, as an id, the beginning of one, NAME or POD/NAME
    container: String,
}

impl Logs {
    pub async fn run(self, mut client: Client) -> anyhow::Result<ExitCode> {
        let since = self.since.as_deref().map(since).transpose()?;
        let id = Names::load(&mut client).await?.container(&self.container)?.id.clone();
        let status = status(&mut client, &id).await?;
        if status.log_path.is_empty() {
            bail!("container {} keeps no log: it was created without a log path", self.container);
        }
        let mut printer = Printer { timestamps: self.timestamps, since };
        let mut follower = Follower::new(&PathBuf::from(&status.log_path));
        self.print_what_is_there(&mut follower, &mut printer)?;
        if self.follow {
            follow(&mut client, &id, &mut follower, &mut printer).await?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn print_what_is_there(&self, follower: &mut Follower, printer: &mut Printer) -> io::Result<()> {
        let Some(tail) = self.tail else {
            return follower.read_what_is_there(&mut |line| printer.print(&line));
        };
        let mut last = VecDeque::new();
        let mut whole = 0;
        follower.read_what_is_there(&mut |line| {
            whole += usize::from(!line.partial);
            last.push_back(line);
            // Parts of a line count together, as one line.
            while whole > tail {
                whole -= usize::from(last.pop_front().is_some_and(|l: Line| !l.partial));
            }
            Ok(())
        })?;
        last.iter().try_for_each(|line| printer.print(line))
    }
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
    loop {
        // The state is read before the file: all that was written before the end is then in the file.
        let over = match status(client, id).await {
            Ok(status) => status.state() == ContainerState::ContainerExited,
            Err(_) => true,
        };
        // The server is asked once a second, the file is looked at more often.
        for _ in 0..10 {
            follower.read_what_is_there(&mut |line| printer.print(&line))?;
            if over {
                return Ok(());
            }
            tokio::time::sleep(TICK).await;
        }
    }
}

/// Writes lines to where they were written by the container.
struct Printer {
    timestamps: bool,
    since: Option<i64>,
}

impl Printer {
    fn print(&mut self, line: &Line) -> io::Result<()> {
        if self.since.is_some_and(|since| time::parse(&line.time).is_none_or(|t| t < since)) {
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

fn since(text: &str) -> anyhow::Result<i64> {
    if let Some(time) = time::parse(text) {
        return Ok(time);
    }
    let ago = parse_duration(text).ok_or_else(|| {
        anyhow::anyhow!(
            "--since {text:?}: expected an age such as 10m, or a time such as 2026-01-01T12:00:00Z"
        )
    })?;
    Ok(clock::now() - i64::try_from(ago.as_nanos()).unwrap_or(i64::MAX))
}
