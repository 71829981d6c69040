//! Writes D-Bus messages. See the D-Bus specification, "Type System" and "Message Protocol". Both ends are on
//! one machine, so numbers have its byte order.

pub(super) const ENDIAN: u8 = if cfg!(target_endian = "little") { b'l' } else { b'B' };
pub(super) const VERSION: u8 = 1;
const METHOD_CALL: u8 = 1;

/// Fields of a header by their codes.
pub(super) mod field {
    pub(in crate::systemd) const PATH: u8 = 1;
    pub(in crate::systemd) const INTERFACE: u8 = 2;
    pub(in crate::systemd) const MEMBER: u8 = 3;
    pub(in crate::systemd) const ERROR_NAME: u8 = 4;
    pub(in crate::systemd) const REPLY_SERIAL: u8 = 5;
    pub(in crate::systemd) const DESTINATION: u8 = 6;
    pub(in crate::systemd) const SENDER: u8 = 7;
    pub(in crate::systemd) const SIGNATURE: u8 = 8;
}

/// A method call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'static str,
    /// The signature of the body.
    pub signature: &'a str,
}

/// A property's value, of the kinds that are used here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Flag(bool),
    Number(u64),
    Numbers(Vec<u32>),
}

/// Bytes in which every value is aligned to its size, counted from the first byte.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn string(&mut self, text: &str) {
        self.u32(length(text.len()));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// `fill` writes the elements; `align` is their alignment.
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

    /// The beginning of a header field: its code and the type of its value.
    pub(super) fn field(&mut self, code: u8, kind: &str) {
        self.align(8);
        self.0.push(code);
        self.signature(kind);
    }

    pub(super) fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    pub(super) fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }
}

pub(super) fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl Call<'_> {
    pub(super) fn write(&self, serial: u32, body: &Writer) -> Vec<u8> {
        let mut out = Writer(vec![ENDIAN, METHOD_CALL, 0, VERSION]);
        out.u32(length(body.0.len()));
        out.u32(serial);
        out.array(8, |fields| {
            let text = [
                (field::PATH, "o", self.path),
                (field::INTERFACE, "s", self.interface),
                (field::MEMBER, "s", self.member),
                (field::DESTINATION, "s", self.destination),
            ];
            for (code, kind, text) in text {
                fields.field(code, kind);
                fields.string(text);
            }
            if !self.signature.is_empty() {
                fields.field(field::SIGNATURE, "g");
                fields.signature(self.signature);
            }
        });
        out.align(8);
        out.0.extend(&body.0);
        out.0
    }
}
