//! One entry point to every parser of this module, for fuzz targets.

use crisp_executor::plan::Plan;

use super::request::{
    Attach, CloseStdin, CopyPorts, ExecRequest, Forget, HoldPorts, KillExec, OpenPod, OpenStdin, ReopenLog,
    Resize, Shutdown, Signal, SignalExec, StartRequest,
};
use super::response::{Event, Greeting, PodNetwork, PodOpened, PodReport, PortSockets, Started, StdinOpened};
use super::{ExitRecord, Failure, Header, Message, Op, Request, Response, plan};

/// Parses `bytes` as everything that they could be: a message of each kind, a plan, an exit record.
pub fn fuzz_packet(bytes: &[u8]) {
    let _ = plan::from_bytes::<Plan>(bytes);
    let _ = plan::from_bytes::<plan::Exec>(bytes);
    let _ = std::str::from_utf8(bytes).map(ExitRecord::parse);
    let Ok(header) = Header::parse(bytes) else { return };
    let body = &bytes[Header::LEN..];
    let _ = Failure::decode(body);
    let _ = Event::decode(body);
    let message = || Message { body: body.to_vec(), fds: Vec::new() };
    let _ = Greeting::decode(message());
    let _ = PodReport::decode(message());
    let _ = PodOpened::decode(message());
    let _ = PodNetwork::decode(message());
    let _ = Started::decode(message());
    let _ = StdinOpened::decode(message());
    let _ = PortSockets::decode(message());
    if let Some(op) = Op::from_number(header.op) {
        request(op, message(), header.version);
    }
}

fn request(op: Op, message: Message, version: u16) {
    match op {
        Op::Hello | Op::Report | Op::Network | Op::Event => {}
        Op::Signal => drop(Signal::decode(message, version)),
        Op::Shutdown => drop(Shutdown::decode(message, version)),
        Op::OpenPod => drop(OpenPod::decode(message, version)),
        Op::Start => drop(StartRequest::decode(message, version)),
        Op::Exec => drop(ExecRequest::decode(message, version)),
        Op::KillExec => drop(KillExec::decode(message, version)),
        Op::ReopenLog => drop(ReopenLog::decode(message, version)),
        Op::Forget => drop(Forget::decode(message, version)),
        Op::Resize => drop(Resize::decode(message, version)),
        Op::OpenStdin => drop(OpenStdin::decode(message, version)),
        Op::CloseStdin => drop(CloseStdin::decode(message, version)),
        Op::Attach => drop(Attach::decode(message, version)),
        Op::SignalExec => drop(SignalExec::decode(message, version)),
        Op::HoldPorts => drop(HoldPorts::decode(message, version)),
        Op::CopyPorts => drop(CopyPorts::decode(message, version)),
    }
}
