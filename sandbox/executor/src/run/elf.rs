//! The two fields of an ELF file that explain a failed exec: its machine and its interpreter.
//!
//! Layouts: elf(5). Every read is checked; a damaged file gives None.

use std::ffi::CString;

const PT_INTERP: u32 = 3;
/// No interpreter's name is longer.
const NAME: usize = 4096;
/// Program headers looked at; real programs have about a dozen.
const HEADERS: usize = 64;

/// Sizes and places that differ between the two classes.
struct Class {
    wide: bool,
    big: bool,
}

impl Class {
    fn of(head: &[u8]) -> Option<Self> {
        let ident = head.strip_prefix(b"\x7fELF")?;
        Some(Self { wide: *ident.first()? == 2, big: *ident.get(1)? == 2 })
    }

    fn number(&self, bytes: &[u8], at: usize, size: usize) -> Option<u64> {
        let bytes = bytes.get(at..at.checked_add(size)?)?;
        let digit = |value: u64, &byte: &u8| value << 8 | u64::from(byte);
        Some(if self.big { bytes.iter().fold(0, digit) } else { bytes.iter().rev().fold(0, digit) })
    }

    /// An address or offset.
    fn word(&self, bytes: &[u8], narrow: usize, wide: usize) -> Option<u64> {
        if self.wide { self.number(bytes, wide, 8) } else { self.number(bytes, narrow, 4) }
    }
}

/// `e_machine`, when this is the start of an ELF file.
pub(crate) fn machine(head: &[u8]) -> Option<u16> {
    Class::of(head)?.number(head, 18, 2).and_then(|m| u16::try_from(m).ok())
}

/// As `std::env::consts::ARCH` calls it.
pub(crate) fn machine_name(machine: u16) -> String {
    let name = match machine {
        3 => "x86",
        8 => "mips",
        20 => "powerpc",
        21 => "powerpc64",
        22 => "s390x",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv64",
        258 => "loongarch64",
        other => return format!("ELF machine {other}"),
    };
    name.to_owned()
}

/// The program interpreter that the file asks for. `read(at, length)` reads more of it.
pub(crate) fn interpreter(head: &[u8], read: impl Fn(u64, usize) -> Option<Vec<u8>>) -> Option<CString> {
    let class = Class::of(head)?;
    let table = class.word(head, 28, 32)?;
    let (size_at, count_at) = if class.wide { (54, 56) } else { (42, 44) };
    let size = usize::try_from(class.number(head, size_at, 2)?).ok()?;
    let count = usize::try_from(class.number(head, count_at, 2)?).ok()?;
    if size < 32 {
        return None;
    }
    let headers = read(table, size.checked_mul(count.min(HEADERS))?)?;
    let header = headers.chunks_exact(size).find(|h| class.number(h, 0, 4) == Some(PT_INTERP.into()))?;
    let (at, length) = (class.word(header, 4, 8)?, class.word(header, 16, 32)?);
    let name = read(at, usize::try_from(length).ok()?.min(NAME))?;
    let end = name.iter().position(|&b| b == 0)?;
    CString::new(&name[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_file(path: &str) -> (Vec<u8>, Option<CString>) {
        let bytes = std::fs::read(path).unwrap();
        let found = interpreter(&bytes[..bytes.len().min(256)], |at, length| {
            let at = usize::try_from(at).ok()?;
            bytes.get(at..at.checked_add(length)?).map(<[u8]>::to_vec)
        });
        (bytes, found)
    }

    #[test]
    fn this_very_program_names_its_interpreter_and_machine() {
        let own = std::env::current_exe().unwrap();
        let (bytes, interpreter) = of_file(own.to_str().unwrap());
        assert!(interpreter.unwrap().to_bytes().starts_with(b"/lib"));
        assert_eq!(machine_name(machine(&bytes).unwrap()), std::env::consts::ARCH);
    }

    #[test]
    fn damaged_headers_give_none() {
        assert_eq!(machine(b"\x7fELF\x02\x01"), None);
        let mut head = vec![0xff; 256];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        assert_eq!(interpreter(&head, |_, _| Some(Vec::new())), None);
        assert_eq!(interpreter(&head, |_, length| Some(vec![3; length.min(1 << 20)])), None);
    }
}
