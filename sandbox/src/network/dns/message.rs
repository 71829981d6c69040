//! DNS queries and answers, as far as names of pods need them (RFC 1035).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const HEADER: usize = 12;
/// The maximal UDP answer for every client.
pub(super) const UDP_ANSWER: usize = 512;
/// Seconds for which an answer may be cached.
const TTL: u32 = 5;

const RESPONSE: u8 = 0x80;
const AUTHORITATIVE: u8 = 0x04;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;
/// The bits of the opcode, after [`RESPONSE`].
const OPCODE: u8 = 0x78;

const IN: u16 = 1;
const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;

/// The result code of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    NoError = 0,
    Failure = 2,
    Refused = 5,
}

/// A query that can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query {
    /// In lower case, without a final dot.
    pub name: String,
    kind: u16,
    /// The id and flags of the header.
    head: [u8; 4],
    /// The question as it was received.
    question: Vec<u8>,
}

/// The answer for a name or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DnsAnswer {
    Addresses(Vec<IpAddr>),
    /// The name of an address.
    Pointer(String),
}

impl Query {
    /// Parses a message with one question. None when it is not a query, or not of the class Internet; no
    /// client sends several questions.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let head: [u8; 4] = message.get(..4)?.try_into().ok()?;
        let counts = message.get(4..6)?;
        if head[2] & (RESPONSE | OPCODE) != 0 || counts != [0, 1] {
            return None;
        }
        let (name, end) = read_name(message, HEADER)?;
        let rest = message.get(end..end + 4)?;
        let (kind, class) = (u16::from_be_bytes([rest[0], rest[1]]), u16::from_be_bytes([rest[2], rest[3]]));
        let question = message.get(HEADER..end + 4)?.to_vec();
        (class == IN).then_some(Self { name, kind, head, question })
    }

    /// The address in a reverse query.
    pub(super) fn pointer(&self) -> Option<IpAddr> {
        if self.kind != PTR {
            return None;
        }
        if let Some(labels) = self.name.strip_suffix(".in-addr.arpa") {
            let reversed: Vec<&str> = labels.split('.').rev().collect();
            return reversed.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::from);
        }
        let nibbles: String = self.name.strip_suffix(".ip6.arpa")?.split('.').rev().collect();
        let number = (nibbles.len() == 32).then(|| u128::from_str_radix(&nibbles, 16).ok())??;
        Some(Ipv6Addr::from(number).into())
    }

    /// Whether a message from a resolver answers this query.
    pub(super) fn is_answered_by(&self, message: &[u8]) -> bool {
        let end = HEADER + self.question.len();
        let is_response = message.get(2).is_some_and(|flags| flags & RESPONSE != 0);
        let same = message.get(HEADER..end).is_some_and(|asked| asked.eq_ignore_ascii_case(&self.question));
        is_response && message.get(..2) == Some(&self.head[..2]) && same
    }

    /// The response with this answer, of at most `limit` bytes.
    pub(super) fn answer(&self, known: &DnsAnswer, limit: usize) -> Vec<u8> {
        let records: Vec<Vec<u8>> = match known {
            DnsAnswer::Addresses(addresses) => addresses.iter().filter_map(|ip| self.data_of(*ip)).collect(),
            DnsAnswer::Pointer(name) => encode_name(name).into_iter().collect(),
        };
        let mut answer = self.start(Code::NoError, AUTHORITATIVE);
        let mut count = 0_u16;
        for data in records {
            // A pointer to the name in the question, type, class, time to live, length.
            let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
            if answer.len() + 12 + data.len() > limit {
                answer[2] |= TRUNCATED;
                break;
            }
            answer.extend_from_slice(&[0xc0, 0x0c]);
            answer.extend_from_slice(&self.kind.to_be_bytes());
            answer.extend_from_slice(&IN.to_be_bytes());
            answer.extend_from_slice(&TTL.to_be_bytes());
            answer.extend_from_slice(&length.to_be_bytes());
            answer.extend_from_slice(&data);
            count += 1;
        }
        answer[6..8].copy_from_slice(&count.to_be_bytes());
        answer
    }

    /// A response without an answer.
    pub(super) fn fail(&self, code: Code) -> Vec<u8> {
        self.start(code, 0)
    }

    fn start(&self, code: Code, flags: u8) -> Vec<u8> {
        let mut answer = self.head.to_vec();
        answer[2] = RESPONSE | flags | self.head[2] & RECURSION_DESIRED;
        answer[3] = RECURSION_AVAILABLE | code as u8;
        answer.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        answer.extend_from_slice(&self.question);
        answer
    }

    fn data_of(&self, address: IpAddr) -> Option<Vec<u8>> {
        match (self.kind, address) {
            (A, IpAddr::V4(address)) => Some(address.octets().to_vec()),
            (AAAA, IpAddr::V6(address)) => Some(address.octets().to_vec()),
            _ => None,
        }
    }
}

/// The name at `at`, and its end. A question has no pointers to other names.
fn read_name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((name, at));
        }
        let label = message.get(at..at + length).filter(|_| length < 64)?;
        if !name.is_empty() {
            name.push('.');
        }
        // No name of ours has bytes beyond ASCII.
        name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
        at += length;
        if name.len() > 255 {
            return None;
        }
    }
}

fn encode_name(name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        bytes.push(length);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(encode_name(name).unwrap());
        message.extend(kind.to_be_bytes());
        message.extend(IN.to_be_bytes());
        message
    }

    #[test]
    fn a_name_is_answered_in_the_family_that_was_asked_for() {
        let known = DnsAnswer::Addresses(vec!["10.1.1.2".parse().unwrap(), "fd01::2".parse().unwrap()]);
        for (kind, data) in
            [(A, &[10, 1, 1, 2][..]), (AAAA, &"fd01::2".parse::<Ipv6Addr>().unwrap().octets())]
        {
            let query = Query::read(&question("Web.Default", kind)).unwrap();
            assert_eq!(query.name, "web.default");
            let answer = query.answer(&known, UDP_ANSWER);
            assert_eq!(answer[..8], [0xab, 0xcd, 0x85, 0x80, 0, 1, 0, 1]);
            assert!(answer.ends_with(data));
            assert!(query.is_answered_by(&answer));
        }
        let other = Query::read(&question("web", 15)).unwrap();
        assert_eq!(other.answer(&known, UDP_ANSWER)[3..8], [0x80, 0, 1, 0, 0]);
    }

    #[test]
    fn what_does_not_fit_is_cut_and_said_to_be() {
        let query = Query::read(&question("web", A)).unwrap();
        let many = DnsAnswer::Addresses((0..100).map(|n| Ipv4Addr::new(10, 0, 0, n).into()).collect());
        let answer = query.answer(&many, UDP_ANSWER);
        assert!(answer.len() <= UDP_ANSWER && answer[2] & TRUNCATED != 0);
        assert_eq!(query.answer(&many, 65_535)[6..8], [0, 100]);
    }

    #[test]
    fn addresses_have_names() {
        let query = Query::read(&question("2.1.1.10.in-addr.arpa", PTR)).unwrap();
        assert_eq!(query.pointer(), Some("10.1.1.2".parse().unwrap()));
        assert!(
            query
                .answer(&DnsAnswer::Pointer("web.default".to_owned()), 512)
                .ends_with(b"\x03web\x07default\0")
        );
        let nibbles = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.d.f.ip6.arpa";
        assert_eq!(Query::read(&question(nibbles, PTR)).unwrap().pointer(), Some("fd01::2".parse().unwrap()));
        assert_eq!(Query::read(&question("2.1.in-addr.arpa", PTR)).unwrap().pointer(), None);
        assert_eq!(Query::read(&question("web", A)).unwrap().pointer(), None);
    }

    #[test]
    fn what_is_no_question_is_not_read() {
        let good = question("web", A);
        for end in 0..good.len() {
            assert_eq!(Query::read(&good[..end]), None, "{end}");
        }
        let change = |at: usize, byte: u8| {
            let mut message = good.clone();
            message[at] = byte;
            Query::read(&message)
        };
        assert_eq!(change(2, RESPONSE), None);
        assert_eq!(change(2, OPCODE), None);
        assert_eq!(change(5, 2), None, "two questions");
        assert_eq!(change(12, 0xc0), None, "a pointer");
        assert_eq!(change(good.len() - 1, 3), None, "another class");
    }
}
