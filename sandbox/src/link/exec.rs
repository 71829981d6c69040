//! Execs: additional processes in a container.

use std::sync::Arc;

use crisp_monitor::wire::request::{ExecRequest, KillExec, SignalExec};
use crisp_monitor::wire::response::Started;
use crisp_monitor::wire::{ExitStatus, Failure, Header, Op, Request};

use super::reader::Connection;
use super::{LinkError, MonitorLink};

impl MonitorLink {
    /// An id that no exec on this link has.
    #[must_use]
    pub fn next_exec_id(&self) -> u64 {
        self.connection.next_id()
    }

    /// Starts an additional process in a container: returns after its exec. [`wait_exec`](Self::wait_exec)
    /// returns its end. Dropping the future before it completes kills the process.
    ///
    /// # Errors
    /// [`LinkError::Stage`] with the stage that failed.
    pub async fn exec(&self, request: ExecRequest) -> Result<Started, LinkError> {
        let starting = StartingExec::register(self, request.exec_id)?;
        let exec = request.exec_id;
        let started = self.call(request).await?;
        starting.keep();
        if let Some(status) = started.ended {
            self.connection.execs.ended(exec, status);
        }
        Ok(started)
    }

    /// Waits for an exec's end without a limit. May be called after its end, but only the first call that
    /// returns gets the status.
    ///
    /// # Errors
    /// [`LinkError::Gone`] when the connection closed, and with it the exec ended;
    /// [`LinkError::Refused`] for an id that was never started here.
    pub async fn wait_exec(&self, exec_id: u64) -> Result<ExitStatus, LinkError> {
        let connection = &self.connection;
        let Some(mut end) = connection.execs.subscribe(exec_id) else {
            if connection.is_closed() {
                return Err(connection.gone(Op::Exec));
            }
            return Err(LinkError::Refused { request: "wait for exec", failure: unknown(exec_id) });
        };
        let status = end.wait_for(Option::is_some).await.map(|status| *status);
        connection.execs.remove(exec_id);
        status.ok().flatten().ok_or_else(|| connection.gone(Op::Exec))
    }

    /// Signals an exec's process group.
    ///
    /// # Errors
    /// [`Failure::UnknownExec`] once it has ended, [`Failure::UnknownOperation`] of an older monitor.
    pub async fn signal_exec(&self, exec_id: u64, signal: i32) -> Result<(), LinkError> {
        self.call(SignalExec { exec: exec_id, signal }).await
    }

    /// Kills an exec and its process group.
    ///
    /// # Errors
    /// [`Failure::UnknownExec`] once it has ended.
    pub async fn kill_exec(&self, exec_id: u64) -> Result<(), LinkError> {
        self.call(KillExec { exec: exec_id }).await
    }
}

fn unknown(exec: u64) -> Failure {
    Failure::UnknownExec { exec }
}

/// Kills the exec when dropped before it is known to run.
struct StartingExec {
    connection: Arc<Connection>,
    protocol: u16,
    exec: u64,
    kept: bool,
}

impl StartingExec {
    fn register(link: &MonitorLink, exec: u64) -> Result<Self, LinkError> {
        let connection = Arc::clone(&link.connection);
        if !connection.execs.add(exec) {
            return Err(LinkError::Refused {
                request: Op::Exec.name(),
                failure: Failure::ExecExists { exec },
            });
        }
        Ok(Self { connection, protocol: link.protocol(), exec, kept: false })
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for StartingExec {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        self.connection.execs.remove(self.exec);
        // If the exec was never started the monitor refuses, and the response is dropped.
        let version = self.protocol;
        let header = Header { version, ..Header::request(KillExec::OP, self.connection.next_id()) };
        if let Ok(message) = (KillExec { exec: self.exec }).encode(version) {
            self.connection.send_unanswered(header, message.body);
        }
    }
}
