//! Pressure stall information, `cpu.pressure` and its like (Documentation/accounting/psi.rst).

use super::dir::Dir;
use super::error::CgroupError;
use super::stats::{Psi, PsiLine};

/// None if the kernel does not support it, or it is disabled.
pub(super) fn read(dir: &Dir, file: &'static str, buffer: &mut [u8]) -> Result<Option<Psi>, CgroupError> {
    Ok(dir.read_opt(file, buffer)?.map(parse))
}

/// `some avg10=0.00 avg60=1.25 avg300=0.00 total=123`, then the same for `full`.
fn parse(text: &str) -> Psi {
    let mut psi = Psi::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let target = match words.next() {
            Some("some") => &mut psi.some,
            Some("full") => &mut psi.full,
            _ => continue,
        };
        *target = parse_line(words);
    }
    psi
}

fn parse_line<'a>(words: impl Iterator<Item = &'a str>) -> PsiLine {
    let mut line = PsiLine::default();
    for (key, value) in words.filter_map(|w| w.split_once('=')) {
        match key {
            "avg10" => line.avg10 = hundredths(value),
            "avg60" => line.avg60 = hundredths(value),
            "avg300" => line.avg300 = hundredths(value),
            "total" => line.total_us = value.parse().unwrap_or_default(),
            _ => {}
        }
    }
    line
}

/// The kernel prints exactly two decimals.
fn hundredths(text: &str) -> u32 {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let number = |t: &str| t.parse::<u32>().unwrap_or_default();
    number(whole).saturating_mul(100).saturating_add(number(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let psi = parse(
            "some avg10=0.07 avg60=12.50 avg300=100.00 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
        );
        assert_eq!(
            (psi.some.avg10, psi.some.avg60, psi.some.avg300, psi.some.total_us),
            (7, 1250, 10_000, 42)
        );
        assert_eq!(psi.full.total_us, 7);
    }
}
