//! The operations that a server can request; `perform` maps them to methods.

mod exec;
mod forget;
mod hold;
mod host_ports;
mod pod;
pub(crate) mod shutdown;
mod signal;
mod start;
mod streams;

use crisp_executor::ids::ContainerId;
use crisp_monitor::wire::{Failure, Header, Op, PROTOCOL};
use rustix::io::Errno;

use crate::container::Container;
use crate::monitor::{Call, Monitor, Reply};
use crate::poller::Key;

pub(crate) fn perform(monitor: &mut Monitor, call: Call) -> Result<Reply, Failure> {
    let Header { op: number, version, .. } = call.requester.header;
    // A newer server writes in this monitor's protocol, once it has read the greeting.
    if number >= Op::FIRST_NEGOTIATED && version > PROTOCOL {
        return Err(Failure::Version { monitor: PROTOCOL, client: version });
    }
    let op = Op::from_number(number).ok_or(Failure::UnknownOperation { op: number })?;
    match op {
        Op::Hello => monitor.hello(),
        Op::Report => monitor.report(),
        Op::Signal => monitor.signal(call),
        Op::Shutdown => monitor.shutdown(call),
        Op::Event => Err(Failure::UnknownOperation { op: number }),
        Op::OpenPod => monitor.open_pod(call),
        Op::Network => monitor.network(),
        Op::Start => monitor.start(call),
        Op::Exec => monitor.exec(call),
        Op::KillExec => monitor.kill_exec(call),
        Op::ReopenLog => monitor.reopen_log(call),
        Op::Forget => monitor.forget(call),
        Op::Resize => monitor.resize(call),
        Op::OpenStdin => monitor.open_stdin(call),
        Op::CloseStdin => monitor.close_stdin(call),
        Op::Attach => monitor.attach(call),
        Op::SignalExec => monitor.signal_exec(call),
        Op::HoldPorts => monitor.hold_ports(call),
        Op::CopyPorts => monitor.copy_ports(call),
    }
}

impl Monitor {
    fn find(&mut self, id: &ContainerId) -> Result<(Key, &mut Container), Failure> {
        self.containers
            .iter_mut()
            .find(|(_, container)| container.id == *id)
            .map(|(key, container)| (*key, container))
            .ok_or_else(|| Failure::UnknownContainer { container: id.to_string() })
    }
}

fn system(action: &str) -> impl Fn(Errno) -> Failure + '_ {
    move |errno| Failure::System { action: action.to_owned(), errno: errno.raw_os_error() }
}
