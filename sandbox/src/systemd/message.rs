//! Parses D-Bus messages. See the D-Bus specification, "Type System" and "Message Protocol".

use super::reader::{Reader, u32_at};
use super::writer::{ENDIAN, VERSION, field};

/// The size of the header before its fields.
pub(super) const FIXED: usize = 16;
/// Far more than any message here needs; the protocol allows 128 MiB.
const MESSAGE_MAX: usize = 1 << 20;

const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// A received message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    kind: u8,
    /// The serial number of the call to which it responds.
    pub reply_to: Option<u32>,
    /// Its name on the bus, which the bus writes; empty without a bus.
    pub sender: String,
    /// The object that sent a signal.
    pub path: String,
    interface: String,
    member: String,
    error_name: String,
    signature: String,
    body: Vec<u8>,
}

/// The content of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// The response to a call; its first value, if that is a text.
    Return {
        first: Option<String>,
    },
    Error {
        name: String,
        message: String,
    },
    /// systemd has ended a job, see org.freedesktop.systemd1(5).
    JobRemoved {
        job: String,
        unit: String,
        result: String,
    },
    Other,
}

/// The length of a whole message, from its first [`FIXED`] bytes. None if it is not a message, or far too
/// long.
pub(super) fn total(fixed: &[u8; FIXED]) -> Option<usize> {
    let number = |at: usize| u32_at(fixed, at).and_then(|n| usize::try_from(n).ok());
    let (body, fields) = (number(4)?, number(12)?);
    let header = FIXED.checked_add(fields)?.checked_next_multiple_of(8)?;
    let total = header.checked_add(body)?;
    (fixed[0] == ENDIAN && fixed[3] == VERSION && total <= MESSAGE_MAX).then_some(total)
}

impl Message {
    /// None for a malformed message.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let fixed: &[u8; FIXED] = bytes.get(..FIXED)?.try_into().ok()?;
        if total(fixed)? != bytes.len() {
            return None;
        }
        let fields_end = FIXED + usize::try_from(u32_at(fixed, 12)?).ok()?;
        let mut message = Self { kind: fixed[1], ..Self::default() };
        message.body = bytes.get(fields_end.next_multiple_of(8)..)?.to_vec();
        let mut reader = Reader { bytes: bytes.get(..fields_end)?, at: FIXED };
        while reader.at < fields_end {
            message.read_field(&mut reader)?;
        }
        Some(message)
    }

    /// Unknown fields may have any type.
    fn read_field(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        reader.align(8)?;
        let code = reader.byte()?;
        let kind = reader.signature()?;
        match (code, kind.as_str()) {
            (field::PATH, "o") => self.path = reader.string()?,
            (field::INTERFACE, "s") => self.interface = reader.string()?,
            (field::MEMBER, "s") => self.member = reader.string()?,
            (field::ERROR_NAME, "s") => self.error_name = reader.string()?,
            (field::REPLY_SERIAL, "u") => self.reply_to = Some(reader.u32()?),
            (field::DESTINATION, "s") => drop(reader.string()?),
            (field::SENDER, "s") => self.sender = reader.string()?,
            (field::SIGNATURE, "g") => self.signature = reader.signature()?,
            (field::PATH..=field::SIGNATURE, _) => return None,
            (_, kind) => reader.skip(kind)?,
        }
        Some(())
    }

    pub(super) fn content(self, interface: &str) -> Content {
        let mut reader = Reader { bytes: &self.body, at: 0 };
        let begins_with_text = self.signature.starts_with(['s', 'o']);
        match self.kind {
            METHOD_RETURN => Content::Return { first: begins_with_text.then(|| reader.string()).flatten() },
            ERROR => {
                let message = begins_with_text.then(|| reader.string()).flatten();
                Content::Error { name: self.error_name, message: message.unwrap_or_default() }
            }
            SIGNAL if self.interface == interface && self.member == "JobRemoved" => {
                self.job_removed().unwrap_or(Content::Other)
            }
            _ => Content::Other,
        }
    }

    fn job_removed(&self) -> Option<Content> {
        let mut reader = Reader { bytes: &self.body, at: 0 };
        if self.signature != "uoss" {
            return None;
        }
        reader.u32()?;
        let (job, unit, result) = (reader.string()?, reader.string()?, reader.string()?);
        Some(Content::JobRemoved { job, unit, result })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::writer::{Writer, length};
    use super::*;

    /// A message in the form of a peer. Fields by their codes, as text.
    pub(in crate::systemd) fn incoming(
        kind: u8,
        fields: &[(u8, &str)],
        signature: &str,
        fill: impl FnOnce(&mut Writer),
    ) -> Vec<u8> {
        let mut body = Writer::default();
        fill(&mut body);
        let mut out = Writer(vec![ENDIAN, kind, 1, VERSION]);
        out.u32(length(body.0.len()));
        out.u32(3);
        out.array(8, |all| {
            for (code, text) in fields {
                let kind = match *code {
                    field::REPLY_SERIAL => "u",
                    field::PATH => "o",
                    _ => "s",
                };
                all.field(*code, kind);
                match text.parse() {
                    Ok(number) if kind == "u" => all.u32(number),
                    _ => all.string(text),
                }
            }
            all.field(field::SIGNATURE, "g");
            all.signature(signature);
        });
        out.align(8);
        out.0.extend(&body.0);
        out.0
    }

    #[test]
    fn answers_errors_and_signals_are_told_apart() {
        let content = |bytes: &[u8]| Message::parse(bytes).unwrap().content("i.f");
        let job = incoming(METHOD_RETURN, &[(field::REPLY_SERIAL, "8")], "o", |body| body.string("/job/1"));
        assert_eq!(Message::parse(&job).unwrap().reply_to, Some(8));
        assert_eq!(content(&job), Content::Return { first: Some("/job/1".into()) });
        let error = incoming(ERROR, &[(field::ERROR_NAME, "e.n")], "s", |body| body.string("why"));
        assert_eq!(content(&error), Content::Error { name: "e.n".into(), message: "why".into() });
        let signal = |member: &str, signature: &str| {
            incoming(SIGNAL, &[(field::INTERFACE, "i.f"), (field::MEMBER, member)], signature, |body| {
                body.u32(1);
                ["/job/1", "u.scope", "done"].into_iter().for_each(|text| body.string(text));
            })
        };
        let (job, unit, result) = ("/job/1".into(), "u.scope".into(), "done".into());
        assert_eq!(content(&signal("JobRemoved", "uoss")), Content::JobRemoved { job, unit, result });
        assert_eq!(content(&signal("JobRemoved", "uos")), Content::Other);
        assert_eq!(content(&signal("JobNew", "uoss")), Content::Other);
    }

    /// Headers may have fields of other types in the future.
    #[test]
    fn fields_that_are_not_known_are_passed_over() {
        let with = |kind: &str, fill: fn(&mut Writer)| {
            let mut out = Writer(vec![ENDIAN, SIGNAL, 1, VERSION]);
            out.u32(0);
            out.u32(3);
            out.array(8, |all| {
                all.field(200, kind);
                fill(all);
                all.field(field::MEMBER, "s");
                all.string("after");
            });
            out.align(8);
            Message::parse(&out.0).map(|message| message.member)
        };
        let read = |kind, fill| assert_eq!(with(kind, fill).as_deref(), Some("after"), "{kind}");
        read("y", |out| out.0.push(7));
        read("t", |out| {
            out.align(8);
            out.0.extend([0; 8]);
        });
        read("as", |out| out.array(4, |all| ["a", "bc"].iter().for_each(|text| all.string(text))));
        read("a{sv}", |out| out.array(8, |all| all.property("key", &super::super::writer::Value::Number(7))));
        read("a(yv)", |out| out.array(8, |_| {}));
        read("(yuvg)", |out| {
            out.align(8);
            out.0.push(7);
            out.u32(7);
            out.signature("s");
            out.string("text");
            out.signature("a{sv}");
        });
        for kind in ["(y", "a", "a(y", "{sv}", "?", "", "yy"] {
            assert_eq!(with(kind, |out| out.0.extend([0; 64])), None, "{kind:?}");
        }
        // Nested variants, deeper than a stack.
        let deep = |out: &mut Writer| (0..100_000).for_each(|_| out.signature("v"));
        assert_eq!(with("v", deep), None);
    }

    /// Each length in a message is checked before it is used.
    #[test]
    fn damaged_messages_are_refused_or_read_and_never_more() {
        let whole =
            incoming(SIGNAL, &[(field::INTERFACE, "i.f"), (field::MEMBER, "JobRemoved")], "uoss", |body| {
                body.u32(1);
                ["/job/1", "u.scope", "done"].into_iter().for_each(|text| body.string(text));
            });
        for end in 0..whole.len() {
            assert_eq!(Message::parse(&whole[..end]), None, "cut at {end}");
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                if let Some(message) = Message::parse(&damaged) {
                    message.content("i.f");
                }
            }
        }
        let mut long = [0xff; FIXED];
        (long[0], long[3]) = (ENDIAN, VERSION);
        assert_eq!(total(&long), None);
    }
}
