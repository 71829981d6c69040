//! The keys that end a session and leave the container running, in the syntax of docker: `ctrl-p,ctrl-q`.

/// The keys that detach, one after the other.
pub const DEFAULT: &str = "ctrl-p,ctrl-q";

/// The bytes of the keys, as a terminal sends them. None detach when there are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys(Vec<u8>);

/// A word that is no key.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is no key: expected a character of ASCII, DEL, or ctrl- and one of a-z @ [ \\ ] ^ _, with commas between \
     keys, or nothing at all to never detach"
)]
pub struct NoKey(String);

impl Keys {
    /// Reads keys with commas between them. An empty text is no keys.
    ///
    /// # Errors
    /// [`NoKey`].
    pub fn parse(text: &str) -> Result<Self, NoKey> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        text.split(',')
            .map(|word| key(word).ok_or_else(|| NoKey(word.to_owned())))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Finds the keys in input. None when there are none to find.
    pub fn finder(self) -> Option<DetachKeys> {
        (!self.0.is_empty()).then_some(DetachKeys { keys: self.0, held: 0 })
    }
}

/// The byte that a terminal sends for a key.
fn key(word: &str) -> Option<u8> {
    if word == "DEL" {
        return Some(0x7f);
    }
    let (named, is_ctrl) = word.strip_prefix("ctrl-").map_or((word, false), |named| (named, true));
    let &[byte] = named.as_bytes() else { return None };
    match byte {
        b'a'..=b'z' | b'@' | b'['..=b'_' if is_ctrl => Some(byte & 0x1f),
        b' '..=b'~' if !is_ctrl => Some(byte),
        _ => None,
    }
}

/// Finds the keys that detach in the input of a session.
#[derive(Debug)]
pub struct DetachKeys {
    keys: Vec<u8>,
    /// How many of the keys came last. They are held back until it is clear whether the others follow.
    held: usize,
}

impl DetachKeys {
    /// The part of `bytes` that goes to the program. None when the user detaches.
    pub fn filter(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut rest = Vec::with_capacity(bytes.len() + self.held);
        for byte in bytes {
            while self.held > 0 && self.keys[self.held] != *byte {
                let kept = self.border();
                rest.extend_from_slice(&self.keys[..self.held - kept]);
                self.held = kept;
            }
            if self.keys[self.held] != *byte {
                rest.push(*byte);
                continue;
            }
            self.held += 1;
            if self.held == self.keys.len() {
                return None;
            }
        }
        Some(rest)
    }

    /// How many of the held keys may begin another occurrence of the keys.
    fn border(&self) -> usize {
        let held = &self.keys[..self.held];
        (1..self.held).rev().find(|length| held.ends_with(&held[..*length])).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finder(keys: &str) -> DetachKeys {
        Keys::parse(keys).unwrap().finder().unwrap()
    }

    #[test]
    fn keys_are_characters_and_ctrl_with_letters_and_six_signs() {
        for (text, bytes) in [
            (DEFAULT, &[0x10, 0x11][..]),
            ("", &[]),
            ("q", b"q"),
            ("ctrl-a,d", &[1, b'd']),
            ("ctrl-z,ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", &[26, 0, 27, 28, 29, 30, 31]),
            ("Q,a,Z", b"QaZ"),
            ("1,~, ,-,DEL", b"1~ -\x7f"),
        ] {
            assert_eq!(Keys::parse(text).unwrap().0, bytes, "{text}");
        }
        for text in [
            ",",
            "a,",
            ",a",
            "ab",
            "ctrl-",
            "ctrl-ab",
            "ctrl-A",
            "ctrl-1",
            "ctrl-`",
            "Ctrl-a",
            "del",
            "ctrl-DEL",
            "\t",
            "\x7f",
            "ä",
            "ctrl-p ctrl-q",
            " a",
        ] {
            assert!(Keys::parse(text).is_err(), "{text}");
        }
        assert!(Keys::parse("").unwrap().finder().is_none());
        let error = Keys::parse("ctrl-p,ctrl-F1").unwrap_err().to_string();
        assert!(error.starts_with("\"ctrl-F1\" is no key"), "{error}");
    }

    #[test]
    fn only_both_keys_one_after_the_other_detach() {
        let mut keys = finder(DEFAULT);
        assert_eq!(keys.filter(b"ls\r").unwrap(), b"ls\r");
        assert_eq!(keys.filter(b"a\x10").unwrap(), b"a");
        assert_eq!(keys.filter(b"b").unwrap(), b"\x10b");
        assert_eq!(keys.filter(b"\x11").unwrap(), b"\x11");
        assert_eq!(keys.filter(b"\x10\x10").unwrap(), b"\x10");
        assert_eq!(keys.filter(b"\x11"), None);
    }

    #[test]
    fn one_key_and_keys_that_repeat_are_found() {
        assert_eq!(finder("q").filter(b"abq"), None);
        let mut keys = finder("a,a,b,a,a,c");
        assert_eq!(keys.filter(b"aabaab").unwrap(), b"aab");
        assert_eq!(keys.filter(b"aax").unwrap(), b"aabaax");
        assert_eq!(keys.filter(b"aaabaab").unwrap(), b"aaab");
        assert_eq!(keys.filter(b"aac"), None);
    }
}
