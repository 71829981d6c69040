//! The 512-byte block that starts an entry.

use super::{TarError, Time};

pub(super) const BLOCK: usize = 512;

/// A block with a valid checksum.
pub(super) struct Header<'a>(&'a [u8; BLOCK]);

impl<'a> Header<'a> {
    /// `None` for the zero block that ends an archive.
    pub fn read(block: &'a [u8; BLOCK]) -> Result<Option<Self>, TarError> {
        let stored = number(&block[148..156]);
        let mut unsigned: u64 = 8 * u64::from(b' ');
        // Some old writers summed signed characters.
        let mut signed: i64 = 8 * i64::from(b' ');
        for byte in block[..148].iter().chain(&block[156..]) {
            unsigned += u64::from(*byte);
            signed += i64::from(byte.cast_signed());
        }
        if unsigned == 8 * u64::from(b' ') && block[148..156] == [0; 8] {
            return Ok(None);
        }
        match stored {
            Some(sum) if u64::try_from(sum) == Ok(unsigned) || sum == signed => Ok(Some(Self(block))),
            _ => Err(TarError::Checksum),
        }
    }

    pub fn kind(&self) -> u8 {
        self.0[156]
    }

    /// Appends the name, with the ustar prefix before it.
    pub fn path(&self, into: &mut Vec<u8>) {
        if &self.0[257..263] == b"ustar\0" && self.0[345] != 0 {
            // star keeps times in the last part of the field, and marks that at the block's end.
            let end = if &self.0[508..] == b"tar\0" { 476 } else { 500 };
            into.extend_from_slice(text(&self.0[345..end]));
            into.push(b'/');
        }
        into.extend_from_slice(text(&self.0[..100]));
    }

    pub fn link(&self) -> &[u8] {
        text(&self.0[157..257])
    }

    pub fn mode(&self) -> Result<u32, TarError> {
        let mode = number(&self.0[100..108]).ok_or(TarError::Number("mode"))?;
        // Some writers also put the file type there.
        u32::try_from(mode & 0o7777).map_err(|_| TarError::Number("mode"))
    }

    pub fn uid(&self) -> Result<u32, TarError> {
        owner(number(&self.0[108..116])).ok_or(TarError::Number("user id"))
    }

    pub fn gid(&self) -> Result<u32, TarError> {
        owner(number(&self.0[116..124])).ok_or(TarError::Number("group id"))
    }

    pub fn size(&self) -> Result<u64, TarError> {
        size(number(&self.0[124..136])).ok_or(TarError::Number("size"))
    }

    pub fn modified(&self) -> Result<Time, TarError> {
        let seconds = number(&self.0[136..148]).ok_or(TarError::Number("modification time"))?;
        Ok(Time { seconds, nanoseconds: 0 })
    }

    pub fn device(&self) -> Result<(u32, u32), TarError> {
        // The kernel has 12 and 20 bits; a larger number would silently become another device.
        let part = |range: &[u8], bits: u32| {
            number(range).and_then(|n| u32::try_from(n).ok()).filter(|n| n >> bits == 0)
        };
        let (major, minor) = (part(&self.0[329..337], 12), part(&self.0[337..345], 20));
        major.zip(minor).ok_or(TarError::Number("device number"))
    }
}

/// A user or group id. The highest means "unchanged" to the kernel and belongs to no user.
pub(super) fn owner(number: Option<i64>) -> Option<u32> {
    number.and_then(|n| u32::try_from(n).ok()).filter(|id| *id != u32::MAX)
}

/// A size whose end, padded, still has an offset.
pub(super) fn size(number: Option<i64>) -> Option<u64> {
    number.filter(|n| *n <= i64::MAX - 512).and_then(|n| u64::try_from(n).ok())
}

/// The text up to the first zero byte.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    &field[..end]
}

/// Octal digits, or GNU's binary form, which the first bit announces. An empty field is zero.
fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Big-endian two's complement in all bits but the first.
        let mut value: i64 = if first & 0x40 != 0 { -1 } else { 0 };
        value = value.checked_mul(64)? + i64::from(first & 0x3f);
        for byte in rest {
            value = value.checked_mul(256)?.checked_add(i64::from(*byte))?;
        }
        return Some(value);
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"0000648\0"), None);
        assert_eq!(number(b"-000001\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 2]), Some(258));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]), None);
        assert_eq!(owner(Some(-1)), None);
        assert_eq!(owner(Some(i64::from(u32::MAX))), None);
        assert_eq!(size(Some(i64::MAX)), None);
    }
}
