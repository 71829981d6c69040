//! D-Bus messages: the call that is written, and the answers that are read. See the D-Bus specification, "Type
//! System" and "Message Protocol". Both ends are on one machine, so numbers are in its own byte order.

const ENDIAN: u8 = if cfg!(target_endian = "little") { b'l' } else { b'B' };
const VERSION: u8 = 1;
/// Up to the fields of the header.
pub(super) const FIXED: usize = 16;
/// Far more than any message here has; the protocol allows 128 MiB.
const MESSAGE_MAX: usize = 1 << 20;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// Fields of a header by their codes.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A method call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'static str,
    /// Of the body.
    pub signature: &'a str,
}

/// A property's value, the kinds that are used here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Flag(bool),
    Number(u64),
    Numbers(Vec<u32>),
}

/// Bytes in which every value is aligned to its size, counted from the first byte.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn string(&mut self, text: &str) {
        self.u32(length(text.len()));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// Elements are written by `fill`; `align` is theirs.
    pub(super) fn array(&mut self, align: usize, fill: impl FnOnce(&mut Self)) {
        self.u32(0);
        let at = self.0.len() - 4;
        self.align(align);
        let start = self.0.len();
        fill(self);
        let bytes = length(self.0.len() - start);
        self.0[at..at + 4].copy_from_slice(&bytes.to_ne_bytes());
    }

    /// `(sv)`: a name and its value.
    pub(super) fn property(&mut self, name: &str, value: &Value) {
        self.align(8);
        self.string(name);
        match value {
            Value::Text(text) => {
                self.signature("s");
                self.string(text);
            }
            Value::Flag(flag) => {
                self.signature("b");
                self.u32((*flag).into());
            }
            Value::Number(number) => {
                self.signature("t");
                self.align(8);
                self.0.extend(number.to_ne_bytes());
            }
            Value::Numbers(numbers) => {
                self.signature("au");
                self.array(4, |all| numbers.iter().for_each(|number| all.u32(*number)));
            }
        }
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_ne_bytes());
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl Call<'_> {
    pub(super) fn write(&self, serial: u32, body: &Writer) -> Vec<u8> {
        let mut out = Writer(vec![ENDIAN, METHOD_CALL, 0, VERSION]);
        out.u32(length(body.0.len()));
        out.u32(serial);
        out.array(8, |fields| {
            let text = [
                (PATH, "o", self.path),
                (INTERFACE, "s", self.interface),
                (MEMBER, "s", self.member),
                (DESTINATION, "s", self.destination),
            ];
            for (code, kind, text) in text {
                fields.field(code, kind);
                fields.string(text);
            }
            if !self.signature.is_empty() {
                fields.field(SIGNATURE, "g");
                fields.signature(self.signature);
            }
        });
        out.align(8);
        out.0.extend(&body.0);
        out.0
    }
}

impl Writer {
    fn field(&mut self, code: u8, kind: &str) {
        self.align(8);
        self.0.push(code);
        self.signature(kind);
    }
}

/// A message that came in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    kind: u8,
    /// The call that it answers.
    pub reply_to: Option<u32>,
    interface: String,
    member: String,
    error_name: String,
    signature: String,
    body: Vec<u8>,
}

/// What a message says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// The answer to a call, with what it begins with, if that is a text.
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

/// The bytes of a whole message, from its first [`FIXED`] ones. None: not a message, or far too long.
pub(super) fn total(fixed: &[u8; FIXED]) -> Option<usize> {
    let number = |at: usize| u32_at(fixed, at).and_then(|n| usize::try_from(n).ok());
    let (body, fields) = (number(4)?, number(12)?);
    let header = FIXED.checked_add(fields)?.checked_next_multiple_of(8)?;
    let total = header.checked_add(body)?;
    (fixed[0] == ENDIAN && fixed[3] == VERSION && total <= MESSAGE_MAX).then_some(total)
}

impl Message {
    /// None: malformed.
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

    /// All fields that the specification has are a text, a signature or a number.
    fn read_field(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        reader.align(8)?;
        let code = reader.byte()?;
        let (mut text, mut number) = (String::new(), None);
        match reader.signature()?.as_str() {
            "s" | "o" => text = reader.string()?,
            "g" => text = reader.signature()?,
            "u" => number = Some(reader.u32()?),
            _ => return None,
        }
        match code {
            INTERFACE => self.interface = text,
            MEMBER => self.member = text,
            ERROR_NAME => self.error_name = text,
            REPLY_SERIAL => self.reply_to = number,
            SIGNATURE => self.signature = text,
            _ => {}
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

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) -> Option<()> {
        self.at = self.at.checked_next_multiple_of(to)?;
        Some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4)?;
        let number = u32_at(self.bytes, self.at)?;
        self.at += 4;
        Some(number)
    }

    fn string(&mut self) -> Option<String> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.text(length)
    }

    fn signature(&mut self) -> Option<String> {
        let length = self.byte()?.into();
        self.text(length)
    }

    /// Ends with a NUL byte that the length does not count.
    fn text(&mut self, length: usize) -> Option<String> {
        let end = self.at.checked_add(length)?;
        let text = std::str::from_utf8(self.bytes.get(self.at..end)?).ok()?.to_owned();
        (self.bytes.get(end) == Some(&0)).then_some(())?;
        self.at = end + 1;
        Some(text)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A message as a peer sends it. Fields by their codes, as text.
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
                    REPLY_SERIAL => "u",
                    PATH => "o",
                    _ => "s",
                };
                all.field(*code, kind);
                match text.parse() {
                    Ok(number) if kind == "u" => all.u32(number),
                    _ => all.string(text),
                }
            }
            all.field(SIGNATURE, "g");
            all.signature(signature);
        });
        out.align(8);
        out.0.extend(&body.0);
        out.0
    }

    #[test]
    fn answers_errors_and_signals_are_told_apart() {
        let content = |bytes: &[u8]| Message::parse(bytes).unwrap().content("i.f");
        let job = incoming(METHOD_RETURN, &[(REPLY_SERIAL, "8")], "o", |body| body.string("/job/1"));
        assert_eq!(Message::parse(&job).unwrap().reply_to, Some(8));
        assert_eq!(content(&job), Content::Return { first: Some("/job/1".into()) });
        let error = incoming(ERROR, &[(ERROR_NAME, "e.n")], "s", |body| body.string("why"));
        assert_eq!(content(&error), Content::Error { name: "e.n".into(), message: "why".into() });
        let signal = |member: &str, signature: &str| {
            incoming(SIGNAL, &[(INTERFACE, "i.f"), (MEMBER, member)], signature, |body| {
                body.u32(1);
                ["/job/1", "u.scope", "done"].into_iter().for_each(|text| body.string(text));
            })
        };
        let (job, unit, result) = ("/job/1".into(), "u.scope".into(), "done".into());
        assert_eq!(content(&signal("JobRemoved", "uoss")), Content::JobRemoved { job, unit, result });
        assert_eq!(content(&signal("JobRemoved", "uos")), Content::Other);
        assert_eq!(content(&signal("JobNew", "uoss")), Content::Other);
    }

    /// No length in a message is believed before it is checked.
    #[test]
    fn damaged_messages_are_refused_or_read_and_never_more() {
        let whole = incoming(SIGNAL, &[(INTERFACE, "i.f"), (MEMBER, "JobRemoved")], "uoss", |body| {
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
