//! Returns freed memory to the kernel.

use std::ops::Range;

/// Larger allocations come from the kernel and are returned when they are freed; the C library starts with
/// the same limit.
#[cfg(target_env = "gnu")]
const MMAP_THRESHOLD: libc::c_int = 128 << 10;

/// Fixes the size from which allocations are returned to the kernel when they are freed. The C library raises
/// it when large allocations are freed, up to 32 MiB; the buffers of pulls would then stay in its arenas,
/// some megabytes for every thread that ever unpacked a layer.
///
/// Call it at the start of a server, before there are other threads.
pub fn give_large_buffers_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) only sets a number of the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD);
    }
}

/// Returns freed memory to the kernel that the C library keeps because memory behind it is in use. Takes some
/// hundred microseconds, in which other threads wait for allocations.
pub fn give_freed_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) has no preconditions, and changes nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Unmaps the pages of this process's program that are equal to its file; pages that are used again are
/// mapped again from the page cache. A server uses few of the pages that its start has used.
pub fn give_program_pages_back() {
    let program = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    for Range { start, end } in unchanged(&maps, &program.to_string_lossy()) {
        // SAFETY: a mapping of the program's file that is not writable and has no page of its own: each
        // page reads the same when it is mapped again, as the file of a running program cannot be written.
        // The mappings of a program stay as they are for its life.
        unsafe {
            libc::madvise(std::ptr::without_provenance_mut(start), end - start, libc::MADV_DONTNEED);
        }
    }
}

/// The mappings of `program` that are not writable and have no page that differs from its file, from a text
/// in the form of proc_pid_smaps(5): one line for the mapping, `5581-5582 r-xp 0 fe:00 42 /usr/bin/crisp`,
/// and one for each value, `Anonymous:  0 kB`. A changed page may also be swapped out, a line after that.
fn unchanged(maps: &str, program: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut mapping = None;
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("Anonymous:"), pages) if pages != Some("0") => mapping = None,
            (Some("Swap:"), Some("0")) => found.extend(mapping.take()),
            (Some(figure), _) if figure.ends_with(':') => {}
            (Some(range), Some(access)) => {
                let ours = words.nth(3) == Some(program) && !access.contains('w');
                mapping = if ours { parse_range(range) } else { None };
            }
            _ => {}
        }
    }
    found
}

fn parse_range(text: &str) -> Option<Range<usize>> {
    let (start, end) = text.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
1000-3000 r--p 00000000 fe:00 42    /usr/bin/crisp
Rss:                   8 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd mr mw me
3000-5000 r-xp 00002000 fe:00 42    /usr/bin/crisp
Anonymous:             0 kB
Swap:                  0 kB
4000-5000 r-xp 00002000 fe:00 42    /usr/bin/crisp
Anonymous:             0 kB
Swap:                  4 kB
5000-6000 r--p 00004000 fe:00 42    /usr/bin/crisp
Anonymous:             4 kB
Swap:                  0 kB
6000-7000 rw-p 00005000 fe:00 42    /usr/bin/crisp
Anonymous:             0 kB
Swap:                  0 kB
7000-8000 r-xp 00000000 fe:00 43    /usr/lib/libc.so.6
Anonymous:             0 kB
Swap:                  0 kB
9000-a000 r--p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
";

    #[test]
    fn only_unchanged_pages_of_the_program_are_given_back() {
        assert_eq!(unchanged(MAPS, "/usr/bin/crisp"), [0x1000..0x3000, 0x3000..0x5000]);
        assert!(unchanged(MAPS, "").is_empty());
    }

    #[test]
    fn a_program_without_its_pages_goes_on() {
        let mapped = || -> u32 {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let before = mapped();
        give_program_pages_back();
        let after = mapped();
        assert!(after < before, "{after} of {before} kB");
    }
}
