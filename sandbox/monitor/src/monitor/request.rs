//! Handles a request of a connection, from its packet to its response.

use crisp_monitor::wire::Packet;

use super::{Call, Monitor, Reply};
use crate::ops;
use crate::poller::Key;

impl Monitor {
    pub(super) fn request(&mut self, connection: Key, packet: Packet) {
        let Some(call) = Call::new(connection, packet) else { return };
        let requester = call.requester;
        match ops::perform(self, call) {
            Ok(Reply::Now(message)) => self.send_response(requester, message),
            Ok(Reply::Later) => {}
            Err(failure) => self.refuse(requester, failure),
        }
        // After the response to the request that opened the pod: the server continues meanwhile.
        self.pod.leave_host();
    }
}
