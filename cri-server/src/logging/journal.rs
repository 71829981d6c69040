//! The log for journald in its own protocol, in which each field can be searched for. Entries wait in the queue:
//! a journald that has stopped holds nothing up.
//!
//! Source: systemd.io, native journal protocol; systemd.journal-fields(7).

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr, sendto,
};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::queue::LineQueue;

pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// The socket of journald; each write is an entry.
pub(super) struct JournalSocket {
    socket: UnixDatagram,
    path: PathBuf,
}

impl JournalSocket {
    /// Opens a socket, and asks whether journald is there.
    ///
    /// # Errors
    /// Nothing listens there.
    pub fn open(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // journald ignores an empty entry. One that reads nothing is there too.
        match sendto(&socket, &[], SendFlags::DONTWAIT | SendFlags::NOSIGNAL, &SocketAddrUnix::new(path)?) {
            Ok(_) | Err(Errno::AGAIN) => Ok(Self { socket, path: path.to_owned() }),
            Err(errno) => Err(errno.into()),
        }
    }

    /// An entry that is too long for a datagram is sent as a sealed file.
    fn send_as_file(&self, entry: &[u8]) -> io::Result<()> {
        let file = memfd_create(c"crisp-log", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut file = File::from(file);
        file.write_all(entry)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        let file = OwnedFd::from(file);
        fcntl_add_seals(&file, seals)?;
        let files = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&files));
        let to = SocketAddrUnix::new(&self.path)?;
        sendmsg_addr(&self.socket, &to, &[IoSlice::new(&[])], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

impl Write for JournalSocket {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        let to = SocketAddrUnix::new(&self.path)?;
        match retry_on_intr(|| sendto(&self.socket, entry, SendFlags::NOSIGNAL, &to)) {
            Err(Errno::MSGSIZE | Errno::NOBUFS) => self.send_as_file(entry)?,
            sent => drop(sent?),
        }
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Encodes events, with the fields of their spans.
pub(super) struct JournalLayer(pub LineQueue);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for JournalLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        fields.put("SPAN_NAME", span.name());
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut entry = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<Fields>() {
                entry.0.extend_from_slice(&fields.0);
            }
        }
        entry.put_metadata(event.metadata());
        event.record(&mut entry);
        // The queue counts what it loses.
        let _ = self.0.clone().write(&entry.0);
    }
}

/// Encoded fields.
#[derive(Debug, Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn put_metadata(&mut self, of: &Metadata<'_>) {
        let priority = match *of.level() {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "5",
            Level::DEBUG => "6",
            Level::TRACE => "7",
        };
        self.put("PRIORITY", priority);
        self.put("SYSLOG_IDENTIFIER", "crisp");
        self.put("TARGET", of.target());
        if let (Some(file), Some(line)) = (of.file(), of.line()) {
            self.put("CODE_FILE", file);
            self.put("CODE_LINE", &line.to_string());
        }
    }

    /// A value of several lines has its length in front.
    fn put(&mut self, name: &str, value: &str) {
        self.0.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            self.0.push(b'\n');
            self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(&name(field.name()), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(&name(field.name()), &format!("{value:?}"));
    }
}

/// The name in capitals; journald ignores fields with other characters, and those that begin with `_`.
fn name(field: &str) -> String {
    let allowed = field.chars().filter_map(|c| match c {
        '.' | '_' | '-' => Some('_'),
        c => c.is_ascii_alphanumeric().then(|| c.to_ascii_uppercase()),
    });
    allowed.skip_while(|c| *c == '_' || c.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};
    use std::time::{Duration, Instant};

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::super::queue::FlushAtEnd;
    use super::*;

    fn journald() -> (tempfile::TempDir, UnixDatagram, LineQueue, FlushAtEnd) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        journald.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (queue, flush) = LineQueue::start(JournalSocket::open(&path).unwrap()).unwrap();
        assert_eq!(journald.recv(&mut [0; 8]).unwrap(), 0, "the question whether it is there");
        (dir, journald, queue, flush)
    }

    #[test]
    fn fields_of_events_and_their_spans_are_sent() {
        let (_dir, journald, queue, flush) = journald();
        let log = tracing_subscriber::registry().with(JournalLayer(queue));
        tracing::subscriber::with_default(log, || {
            let _span = tracing::info_span!("run_pod", pod = "p1", late = tracing::field::Empty).entered();
            tracing::Span::current().record("late", 7);
            tracing::warn!(error.text = %"two\nlines", "it fails");
        });
        drop(flush);
        let mut entry = [0; 4096];
        let length = journald.recv(&mut entry).unwrap();
        let entry = String::from_utf8(entry[..length].to_vec()).unwrap();
        for field in ["SPAN_NAME=run_pod", "POD=p1", "LATE=7", "PRIORITY=4", "MESSAGE=it fails"] {
            assert!(entry.lines().any(|line| line == field), "{field}: {entry}");
        }
        assert!(entry.contains("ERROR_TEXT\n\u{9}\0\0\0\0\0\0\0two\nlines\n"), "{entry}");
    }

    #[test]
    fn a_journald_that_stops_holds_nothing_up() {
        let (dir, journald, queue, flush) = journald();
        let started = Instant::now();
        let log = tracing_subscriber::registry().with(JournalLayer(queue));
        tracing::subscriber::with_default(log, || (0..3000).for_each(|n| tracing::info!(n, "x")));
        drop(flush);
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        let path = dir.path().join("socket");
        // Nothing more fits.
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        while sender.send_to(b"x", &path).is_ok() {}
        assert!(JournalSocket::open(&path).is_ok(), "the next server starts all the same");
        let mut entry = [0; 4096];
        let length = journald.recv(&mut entry).unwrap();
        assert!(String::from_utf8_lossy(&entry[..length]).contains("\nN=0\n"), "the first is kept");
    }

    #[test]
    fn an_entry_that_is_too_long_for_a_datagram_comes_as_a_file() {
        let (_dir, journald, queue, flush) = journald();
        let long = "x".repeat(4 << 20);
        let log = tracing_subscriber::registry().with(JournalLayer(queue));
        tracing::subscriber::with_default(log, || tracing::info!("{long}"));
        drop(flush);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&journald, &mut [], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        let Some(RecvAncillaryMessage::ScmRights(mut files)) = control.drain().next() else {
            panic!("no file")
        };
        let mut file = File::from(files.next().unwrap());
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert!(text.contains(&format!("MESSAGE={long}\n")));
    }

    #[test]
    fn names_are_those_that_journald_takes() {
        for (field, expected) in [("pod", "POD"), ("_9.cni.verb", "CNI_VERB"), ("r#type", "RTYPE")] {
            assert_eq!(name(field), expected);
        }
    }
}
