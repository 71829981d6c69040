//! Encodes netlink messages and attributes, and decodes attributes.

use std::net::IpAddr;

/// `nlmsghdr` is 16 bytes.
pub(super) const HEADER: usize = 16;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// `NLM_F_ROOT | NLM_F_MATCH`.
const NLM_F_DUMP: u16 = 0x300;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// The position and the state of one message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub start: usize,
    pub step: &'static str,
    pub answered: bool,
    pub optional: bool,
}

/// Messages that are sent in one datagram and executed in order.
#[derive(Debug, Default)]
pub(in crate::network) struct Messages {
    pub(super) bytes: Vec<u8>,
    pub(super) entries: Vec<Entry>,
}

impl Messages {
    pub(in crate::network) fn new() -> Self {
        Self::default()
    }

    /// Starts a message that the kernel must acknowledge. `step` names it in errors, `fixed` is the structure
    /// after the header.
    pub(in crate::network) fn request(
        &mut self,
        step: &'static str,
        kind: u16,
        flags: u16,
        fixed: &[u8],
    ) -> &mut Self {
        self.start(step, kind, flags | NLM_F_REQUEST | NLM_F_ACK, fixed, true)
    }

    /// Starts a message whose response is a list.
    pub(in crate::network) fn dump(&mut self, step: &'static str, kind: u16, fixed: &[u8]) -> &mut Self {
        self.start(step, kind, NLM_F_REQUEST | NLM_F_DUMP, fixed, true)
    }

    /// Starts a message that only gets a response when it fails.
    pub(in crate::network) fn silent(&mut self, step: &'static str, kind: u16, fixed: &[u8]) -> &mut Self {
        self.start(step, kind, NLM_F_REQUEST, fixed, false)
    }

    /// The last message may fail without failing the others.
    pub(in crate::network) fn optional(&mut self) -> &mut Self {
        if let Some(entry) = self.entries.last_mut() {
            entry.optional = true;
        }
        self
    }

    /// The number of messages with this name.
    pub(in crate::network) fn count(&self, step: &str) -> usize {
        self.entries.iter().filter(|entry| entry.step == step).count()
    }

    fn start(
        &mut self,
        step: &'static str,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        answered: bool,
    ) -> &mut Self {
        let start = self.bytes.len();
        self.entries.push(Entry { start, step, answered, optional: false });
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.raw(fixed)
    }

    /// Bytes outside of attributes, padded to four.
    pub(in crate::network) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    pub(in crate::network) fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        // The length of an attribute has 16 bits; all values here are names, addresses or numbers.
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.raw(value)
    }

    pub(in crate::network) fn attr_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// An address of either family.
    pub(in crate::network) fn attr_ip(&mut self, kind: u16, address: IpAddr) -> &mut Self {
        match address {
            IpAddr::V4(address) => self.attr(kind, &address.octets()),
            IpAddr::V6(address) => self.attr(kind, &address.octets()),
        }
    }

    /// A number in network byte order, as nf_tables requires.
    pub(in crate::network) fn attr_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// A text with the closing NUL that the kernel expects.
    pub(in crate::network) fn attr_str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    pub(in crate::network) fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.attr(kind | NLA_F_NESTED, &[]);
        inside(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Fills in lengths and sequence numbers, beginning with `first`.
    pub(super) fn seal(&mut self, first: u32) {
        let ends = self.entries.iter().skip(1).map(|e| e.start).chain([self.bytes.len()]);
        let spans: Vec<(usize, usize)> = self.entries.iter().map(|e| e.start).zip(ends).collect();
        for ((start, end), seq) in spans.into_iter().zip(first..) {
            let length = u32::try_from(end - start).unwrap_or(u32::MAX);
            self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
            self.bytes[start + 8..start + 12].copy_from_slice(&seq.to_ne_bytes());
        }
    }
}

/// A received message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received<'a> {
    pub kind: u16,
    pub flags: u16,
    pub seq: u32,
    pub payload: &'a [u8],
}

/// The messages in one received datagram. A damaged rest ends the iteration.
pub(super) fn received(mut datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(datagram, 0)? as usize;
        if length < HEADER || length > datagram.len() {
            return None;
        }
        let message = Received {
            kind: u16_at(datagram, 4)?,
            flags: u16_at(datagram, 6)?,
            seq: u32_at(datagram, 8)?,
            payload: &datagram[HEADER..length],
        };
        datagram = &datagram[length.next_multiple_of(4).min(datagram.len())..];
        Some(message)
    })
}

/// The attributes in `bytes`, as (type without flags, value).
pub(in crate::network) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & NLA_TYPE_MASK;
        if length < 4 || length > bytes.len() {
            return None;
        }
        let value = &bytes[4..length];
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
        Some((kind, value))
    })
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read_back() {
        let mut messages = Messages::new();
        messages.request("a", 16, 0, &[1, 2, 3]).attr_str(3, "eth0").nest(18, |m| {
            m.attr_u32(1, 7).attr(2, &[]);
        });
        messages.silent("b", 17, &[]);
        messages.seal(40);
        let all: Vec<Received<'_>> = received(&messages.bytes).collect();
        assert_eq!(all.iter().map(|m| (m.kind, m.seq)).collect::<Vec<_>>(), [(16, 40), (17, 41)]);
        let attrs: Vec<_> = attributes(&all[0].payload[4..]).collect();
        assert_eq!(attrs[0], (3, &b"eth0\0"[..]));
        assert_eq!(attrs[1].0, 18);
        let inner: Vec<_> = attributes(attrs[1].1).collect();
        assert_eq!(inner, [(1, &7u32.to_ne_bytes()[..]), (2, &[][..])]);
    }

    #[test]
    fn damaged_lengths_end_the_walk() {
        assert_eq!(received(&[0; 15]).count(), 0);
        assert_eq!(received(&[0xff; 64]).count(), 0);
        assert_eq!(received(&[0; 64]).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[5, 0, 1, 0, 9]).count(), 1);
    }
}
