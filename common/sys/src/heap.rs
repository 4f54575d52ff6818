//! Giving memory back.

/// Gives the kernel back what the heap of this process holds and does not use. Takes some milliseconds for each hundred
/// megabytes, so it is for the end of what took much memory for a while; the heap of the C library keeps nearly all of it
/// otherwise, above all what one thread took and another one gave back. Nothing, where the C library can not.
pub fn release_unused_memory() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: `malloc_trim` takes no pointer, may be called from any thread at any time, and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    fn resident() -> u64 {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn what_small_pieces_took_goes_back_to_the_kernel() {
        // Every tenth one stays, so that the heap can not just become shorter.
        let mut pieces: Vec<Option<Vec<u8>>> = (0..10_000).map(|_| Some(vec![1; 10_000])).collect();
        let full = resident();
        pieces.iter_mut().enumerate().filter(|(number, _)| number % 10 != 0).for_each(|(_, piece)| *piece = None);
        release_unused_memory();
        assert!(resident() < full / 2, "{} of {full} pages", resident());
        assert_eq!(pieces.iter().flatten().count(), 1000);
    }
}
