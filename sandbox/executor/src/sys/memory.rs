//! How the C library keeps the memory that is freed.

/// Larger pieces come from the kernel and go back to it when they are freed; the C library's own default
/// at the start.
#[cfg(target_env = "gnu")]
const MMAP_THRESHOLD: libc::c_int = 128 << 10;

/// Fixes the size from which pieces of memory are given back to the kernel when they are freed. The C
/// library raises it when large pieces are freed, up to 32 MiB; then the buffers of pulls stay in its
/// arenas, some megabytes for every thread that ever unpacked a layer.
///
/// Call it at the start of a server, before there are threads.
pub fn give_large_buffers_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) only sets a number of the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD);
    }
}
