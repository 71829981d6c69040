//! Reads the values of a D-Bus message in order. See the D-Bus specification, "Marshaling".

/// Limit for nested types; the specification has 64.
const NESTING_MAX: usize = 64;

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(super) struct Reader<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl Reader<'_> {
    pub(super) fn align(&mut self, to: usize) -> Option<()> {
        self.at = self.at.checked_next_multiple_of(to)?;
        Some(())
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.align(4)?;
        let number = u32_at(self.bytes, self.at)?;
        self.at += 4;
        Some(number)
    }

    pub(super) fn string(&mut self) -> Option<String> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.text(length)
    }

    pub(super) fn signature(&mut self) -> Option<String> {
        let length = self.byte()?.into();
        self.text(length)
    }

    /// Ends with a NUL byte that the length does not include.
    fn text(&mut self, length: usize) -> Option<String> {
        let end = self.at.checked_add(length)?;
        let text = std::str::from_utf8(self.bytes.get(self.at..end)?).ok()?.to_owned();
        (self.bytes.get(end) == Some(&0)).then_some(())?;
        self.at = end + 1;
        Some(text)
    }

    /// Skips a value of a type.
    pub(super) fn skip(&mut self, kind: &str) -> Option<()> {
        self.skip_one(kind.as_bytes(), 0)?.is_empty().then_some(())
    }

    /// Skips a value of the first of these types, and returns the others.
    fn skip_one<'t>(&mut self, types: &'t [u8], depth: usize) -> Option<&'t [u8]> {
        let (kind, rest) = types.split_first().filter(|_| depth < NESTING_MAX)?;
        match kind {
            b's' | b'o' => drop(self.string()?),
            b'g' => drop(self.signature()?),
            b'v' => {
                let inner = self.signature()?;
                self.skip_one(inner.as_bytes(), depth + 1)?.is_empty().then_some(())?;
            }
            b'a' => {
                let length = usize::try_from(self.u32()?).ok()?;
                self.align(alignment(*rest.first()?))?;
                self.advance(length)?;
                return after_first(rest, depth + 1);
            }
            b'(' => {
                self.align(8)?;
                let mut members = rest;
                while members.first() != Some(&b')') {
                    members = self.skip_one(members, depth + 1)?;
                }
                return members.get(1..);
            }
            kind => {
                let size = fixed_size(*kind)?;
                self.align(size)?;
                self.advance(size)?;
            }
        }
        Some(rest)
    }

    fn advance(&mut self, bytes: usize) -> Option<()> {
        self.at = self.at.checked_add(bytes).filter(|at| *at <= self.bytes.len())?;
        Some(())
    }
}

/// The types after the first one.
fn after_first(types: &[u8], depth: usize) -> Option<&[u8]> {
    let (kind, rest) = types.split_first().filter(|_| depth < NESTING_MAX)?;
    let end = match kind {
        b'a' => return after_first(rest, depth + 1),
        b'(' => b')',
        b'{' => b'}',
        _ => return Some(rest),
    };
    let mut members = rest;
    while *members.first()? != end {
        members = after_first(members, depth + 1)?;
    }
    members.get(1..)
}

fn alignment(kind: u8) -> usize {
    match kind {
        b's' | b'o' | b'a' => 4,
        b'(' | b'{' => 8,
        kind => fixed_size(kind).unwrap_or(1),
    }
}

fn fixed_size(kind: u8) -> Option<usize> {
    Some(match kind {
        b'y' => 1,
        b'n' | b'q' => 2,
        b'b' | b'i' | b'u' | b'h' => 4,
        b'x' | b't' | b'd' => 8,
        _ => return None,
    })
}
