//! Encodes bodies with postcard so that fields can be added at the end.

use postcard::de_flavors::Flavor;
use postcard::{Deserializer, Error};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{EncodeError, Malformed};

/// Writes a body.
pub(super) fn to_bytes(body: &impl Serialize) -> Result<Vec<u8>, EncodeError> {
    postcard::to_allocvec(body).map_err(|error| EncodeError::Format { reason: error.to_string() })
}

/// Reads a body of this or any other release: missing fields at its end are zero (false, none, empty),
/// additional fields are ignored.
pub(super) fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    T::deserialize(&mut Deserializer::from_flavor(Extended { bytes, zeros: ZEROS }))
        .map_err(|error| Malformed { reason: error.to_string() })
}

/// Limit for zeros that stand for missing fields. A length that promises more elements than there are bytes
/// must not read zeros forever.
const ZEROS: u8 = 64;

/// The bytes of a body followed by zeros, which are only returned one by one: text that is cut in its middle
/// is still an error.
struct Extended<'a> {
    bytes: &'a [u8],
    zeros: u8,
}

impl<'a> Flavor<'a> for Extended<'a> {
    type Remainder = ();
    type Source = &'a [u8];

    fn pop(&mut self) -> Result<u8, Error> {
        if let Some((first, rest)) = self.bytes.split_first() {
            self.bytes = rest;
            return Ok(*first);
        }
        self.zeros = self.zeros.checked_sub(1).ok_or(Error::DeserializeUnexpectedEnd)?;
        Ok(0)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.bytes.len())
    }

    fn try_take_n(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(Error::DeserializeUnexpectedEnd)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn finalize(self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Old = (String, bool);
    type New = (String, bool, Option<u32>, Vec<String>, u64);

    #[test]
    fn added_fields_are_left_out_by_an_older_reader_and_zero_for_a_newer_one() {
        let old: Old = ("a".into(), true);
        let new: New = ("a".into(), true, Some(5), vec!["b".into()], 6);
        assert_eq!(from_bytes::<Old>(&to_bytes(&new).unwrap()), Ok(old.clone()));
        assert_eq!(from_bytes::<New>(&to_bytes(&old).unwrap()), Ok(("a".into(), true, None, vec![], 0)));
    }

    #[test]
    fn a_text_cut_in_its_middle_is_malformed_and_a_huge_length_is_no_allocation() {
        let bytes = to_bytes(&("word", true)).unwrap();
        assert!(from_bytes::<Old>(&bytes[..3]).is_err());
        assert!(from_bytes::<Vec<u64>>(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").is_err());
    }
}
