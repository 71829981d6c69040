//! pax extended headers: `length keyword=value\n` records that override header fields.

use super::header::{owner, size};
use super::{TarError, Time};

/// The values of one entry's extended header. Missing values leave those of the header.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub modified: Option<Time>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The prefix of extended attributes.
const XATTR: &[u8] = b"SCHILY.xattr.";

impl Pax {
    /// Adds the records of one extended header.
    pub fn read(&mut self, mut records: &[u8]) -> Result<(), TarError> {
        while !records.is_empty() {
            let space = records.iter().position(|b| *b == b' ').ok_or(TarError::Pax)?;
            let length = decimal(&records[..space]).and_then(|n| usize::try_from(n).ok());
            let length = length.filter(|n| *n > space + 1 && *n <= records.len()).ok_or(TarError::Pax)?;
            let (record, rest) = records.split_at(length);
            let record = record[space + 1..].strip_suffix(b"\n").ok_or(TarError::Pax)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or(TarError::Pax)?;
            self.set(&record[..equals], &record[equals + 1..])?;
            records = rest;
        }
        Ok(())
    }

    fn set(&mut self, keyword: &[u8], value: &[u8]) -> Result<(), TarError> {
        match keyword {
            // An empty value cancels that of an earlier header.
            b"path" => self.path = text("name", value)?,
            b"linkpath" => self.link = text("link target", value)?,
            b"size" => self.size = Some(size(decimal(value)).ok_or(TarError::Number("size"))?),
            b"uid" => self.uid = Some(owner(decimal(value)).ok_or(TarError::Number("user id"))?),
            b"gid" => self.gid = Some(owner(decimal(value)).ok_or(TarError::Number("group id"))?),
            b"mtime" => self.modified = Some(time(value).ok_or(TarError::Number("modification time"))?),
            _ if keyword.starts_with(b"GNU.sparse.") => return Err(TarError::Sparse),
            _ => {
                if let Some(name) = keyword.strip_prefix(XATTR) {
                    if name.is_empty() || name.contains(&0) {
                        return Err(TarError::Pax);
                    }
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

fn text(what: &'static str, value: &[u8]) -> Result<Option<Vec<u8>>, TarError> {
    if value.contains(&0) {
        return Err(TarError::ZeroByte(what));
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

fn decimal(digits: &[u8]) -> Option<i64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// Seconds with a fraction, possibly negative; digits beyond nanoseconds are dropped.
fn time(value: &[u8]) -> Option<Time> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(value) => (true, value),
        None => (false, value),
    };
    let point = value.iter().position(|b| *b == b'.').unwrap_or(value.len());
    let seconds = decimal(&value[..point])?;
    let fraction = value.get(point + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0u32, |value, digit| value * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds: 0 },
        (true, nanoseconds) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_override_and_xattrs_keep_their_bytes() {
        let mut pax = Pax::default();
        pax.read(b"11 path=a/b\n20 mtime=1.25\n").unwrap_err();
        let mut pax = Pax::default();
        pax.read(b"12 path=a/b\n14 mtime=1.25\n36 SCHILY.xattr.user.x=1\n2=\x00 and so\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(pax.modified, Some(Time { seconds: 1, nanoseconds: 250_000_000 }));
        assert_eq!(pax.xattrs, [(b"user.x".to_vec(), b"1\n2=\x00 and so".to_vec())]);
    }

    #[test]
    fn times_before_1970_count_backwards() {
        assert_eq!(time(b"-1.25"), Some(Time { seconds: -2, nanoseconds: 750_000_000 }));
        assert_eq!(time(b"-3"), Some(Time { seconds: -3, nanoseconds: 0 }));
        assert_eq!(time(b"7.1234567891"), Some(Time { seconds: 7, nanoseconds: 123_456_789 }));
        for bad in [&b""[..], b".5", b"1.x", b"--1", b"99999999999999999999"] {
            assert_eq!(time(bad), None);
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [&b"x"[..], b"5 a=b", b"99 path=x\n", b"0 path=x\n", b"9 path=x!", b"7 path\n", b"3 a"] {
            assert!(Pax::default().read(bad).is_err(), "{bad:?}");
        }
        for (records, part) in [
            (&b"9 size=x\n"[..], "size"),
            (b"18 uid=4294967295\n", "user id"),
            (b"12 path=a\0b\n", "zero byte"),
            (b"22 GNU.sparse.major=1\n", "sparse"),
            (b"29 size=99999999999999999999\n", "size"),
        ] {
            let error = Pax::default().read(records).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
