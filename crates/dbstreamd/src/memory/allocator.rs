//! How the C library's allocator is set up: what it cannot give back counts against the promises of memory too.
//!
//! Beside one line in `main.rs` the only unsafe code of this crate outside its tests.
#![allow(unsafe_code)]

/// Lets glibc keep one heap for every two of the threads that serve, shared with those that read databases, where it would keep eight for each processor.
///
/// A chunk's memory is taken by a source's thread and given back by the log's writer: with a heap for every thread each of
/// them keeps room of its own, a tenth of the peak in a drain. To be called before there is a second thread.
pub(crate) fn limit_heaps(workers: usize) {
    let heaps = libc::c_int::try_from(workers / 2).unwrap_or(libc::c_int::MAX).max(1);
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes two numbers; should it refuse, nothing changes.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, heaps)
    };
    #[cfg(not(target_env = "gnu"))]
    let _ = heaps;
}
