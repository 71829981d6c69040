//! Flow control: how much may be sent to a peer, and how much the peer may send.

use crate::stream::WINDOW;

/// The initial window of a stream and of a session in the specification.
const INITIAL: i64 = 64 << 10;

/// The windows of one stream, or of the whole session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    /// Below 0 when a peer has announced its window late.
    send: i64,
    /// Bytes that were received and are not yet announced as free again.
    received: usize,
}

impl Window {
    pub(super) fn new(send: i64) -> Self {
        Self { send, received: 0 }
    }

    pub(super) fn room(&self) -> usize {
        usize::try_from(self.send).unwrap_or(0)
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.send = self.send.saturating_sub_unsigned(bytes as u64);
    }

    pub(super) fn widen(&mut self, by: i64) {
        self.send = self.send.saturating_add(by);
    }

    /// Notes that the peer may send this many more bytes. Returns the number to announce when it is worth a
    /// frame.
    pub(super) fn free(&mut self, bytes: usize) -> Option<u32> {
        self.received += bytes;
        (self.received >= WINDOW / 2).then(|| {
            let all = std::mem::take(&mut self.received);
            u32::try_from(all).unwrap_or(u32::MAX >> 1)
        })
    }
}

/// The windows that the peer has announced.
#[derive(Debug, Clone, Copy)]
pub(super) struct Announced {
    /// The window of new streams.
    pub(super) initial: i64,
    /// Whether it has ever announced the window of a stream.
    pub(super) streams: bool,
    /// Whether it has ever announced the window of the session.
    pub(super) session: bool,
    /// A client assumes that its server has windows, until the server responds without having announced any.
    is_assumed: bool,
}

impl Announced {
    /// `heeded`: whether the windows of the specification count before the peer announces any.
    pub(super) fn nothing(heeded: bool) -> Self {
        Self { initial: INITIAL, streams: heeded, session: heeded, is_assumed: heeded }
    }

    pub(super) fn stream_window(&mut self, initial: Option<i64>) {
        self.initial = initial.unwrap_or(self.initial);
        (self.streams, self.is_assumed) = (true, false);
    }

    pub(super) fn session_window(&mut self) {
        (self.session, self.is_assumed) = (true, false);
    }

    /// Notes a response of the peer. A peer with windows announces them before it. Returns whether this shows
    /// that the peer has none.
    pub(super) fn are_denied(&mut self) -> bool {
        let are_denied = std::mem::take(&mut self.is_assumed);
        if are_denied {
            (self.streams, self.session) = (false, false);
        }
        are_denied
    }

    /// How many bytes may be sent now.
    pub(super) fn room(&self, stream: &Window, session: &Window) -> usize {
        let of_stream = if self.streams { stream.room() } else { usize::MAX };
        let of_session = if self.session { session.room() } else { usize::MAX };
        of_stream.min(of_session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_count_from_the_first_announcement_on() {
        let (mut stream, mut session) = (Window::new(INITIAL), Window::new(INITIAL));
        let mut announced = Announced::nothing(false);
        stream.sent(100 << 10);
        session.sent(100 << 10);
        assert_eq!(announced.room(&stream, &session), usize::MAX);
        announced.streams = true;
        assert_eq!(announced.room(&stream, &session), 0);
        stream.widen(50 << 10);
        assert_eq!(announced.room(&stream, &session), 14 << 10);
        announced.session = true;
        assert_eq!(announced.room(&stream, &session), 0);
    }

    #[test]
    fn absurd_announcements_do_not_overflow() {
        let mut window = Window::new(INITIAL);
        (0..10).for_each(|_| window.widen(i64::MAX / 2));
        assert!(window.room() > 0);
    }

    #[test]
    fn freed_bytes_are_announced_by_halves_of_the_window() {
        let mut window = Window::new(INITIAL);
        assert_eq!(window.free(WINDOW / 2 - 1), None);
        assert_eq!(window.free(1).map(|n| n as usize), Some(WINDOW / 2));
        assert_eq!(window.free(1), None);
    }
}
