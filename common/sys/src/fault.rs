//! Pages of a mapping that cannot be read.
//!
//! When the disk does not give a page of a mapped file, or somebody has cut the file short, the kernel sends `SIGBUS`
//! to whoever reads there, and a process that is not prepared for it dies. A hub that dies of one bad block dies again
//! at its next start. So the page is replaced, for this process, by one that reads as zeros, and the fault is counted:
//! checksums tell the reader that these are not the octets that were written, and what is damaged is an error like any
//! other. `systemd-journald` meets bad blocks of its files in the same way.
//!
//! A fault anywhere else is none of our business: what was installed before takes it.

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use libc::{c_int, c_void, siginfo_t};

/// Mappings that are looked after at a time: as many as Linux allows a process to have (`vm.max_map_count`).
const REGIONS_MAX: usize = 65_536;

/// A mapping; free when its length is zero.
struct Region {
    start: AtomicUsize,
    length: AtomicUsize,
}

/// Untouched, and so without cost, beyond what is used.
static REGIONS: [Region; REGIONS_MAX] =
    [const { Region { start: AtomicUsize::new(0), length: AtomicUsize::new(0) } }; REGIONS_MAX];
/// Regions from here on were never used.
static USED: AtomicUsize = AtomicUsize::new(0);
static FAULTS: AtomicU64 = AtomicU64::new(0);
static PAGE: AtomicUsize = AtomicUsize::new(0);
/// What took the signal before us.
static FORMER: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// How many pages of mapped files could not be read since the start of the process, and read as zeros now.
pub fn unreadable_pages() -> u64 {
    FAULTS.load(Ordering::Relaxed)
}

/// Looks after the octets of a mapping until it is dropped, which must happen before they are unmapped.
#[derive(Debug)]
pub(crate) struct Guard(Option<usize>);

impl Guard {
    /// For a mapping of files; when there are more than [`REGIONS_MAX`], this one is not looked after.
    pub(crate) fn new(start: *const u8, length: usize) -> Self {
        install();
        if length == 0 {
            return Self(None);
        }
        for (index, region) in REGIONS.iter().enumerate() {
            // The start is set first, so that the handler never sees a length with the start of another mapping.
            let taken = region.start.compare_exchange(0, start as usize, Ordering::AcqRel, Ordering::Relaxed);
            if taken.is_ok() {
                region.length.store(length, Ordering::Release);
                USED.fetch_max(index + 1, Ordering::AcqRel);
                return Self(Some(index));
            }
        }
        Self(None)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(region) = self.0.and_then(|index| REGIONS.get(index)) {
            region.length.store(0, Ordering::Release);
            region.start.store(0, Ordering::Release);
        }
    }
}

fn is_ours(address: usize) -> bool {
    let used = REGIONS.get(..USED.load(Ordering::Acquire)).unwrap_or_default();
    used.iter().any(|region| {
        let length = region.length.load(Ordering::Acquire);
        address.checked_sub(region.start.load(Ordering::Acquire)).is_some_and(|offset| offset < length)
    })
}

/// Once for the process.
#[allow(unsafe_code)]
fn install() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        PAGE.store(rustix::param::page_size(), Ordering::Release);
        let mut former = Box::new(MaybeUninit::<libc::sigaction>::zeroed());
        // SAFETY: all fields of `sigaction` are integers, an optional function pointer and a set made of integers, for
        // all of which zero is a value.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = on_fault as *const () as usize;
        // On the alternate stack that the standard library gives every thread, because it may be the stack that is full.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: both pointers are valid for the call; the handler has the signature that `SA_SIGINFO` asks for and does
        // only what is safe in a handler: loads and stores of atomics, `mmap` and `sigaction`, which are plain system
        // calls on Linux.
        let status = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, former.as_mut_ptr()) };
        if status == 0 {
            FORMER.store(Box::leak(former).as_mut_ptr(), Ordering::Release);
        }
    });
}

#[allow(unsafe_code)]
extern "C" fn on_fault(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` to a handler with `SA_SIGINFO`; for SIGBUS it holds an address.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let page = PAGE.load(Ordering::Acquire);
    // The two codes of memory that cannot be had: by the file, by a broken machine. A misaligned access is a bug.
    if [libc::BUS_ADRERR, libc::BUS_MCEERR_AR].contains(&code) && page > 0 && is_ours(address) {
        let at = (address & !(page - 1)) as *mut c_void;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: the page lies in a mapping that is registered, so it is mapped for reading and not yet unmapped: its
        // guard is dropped before. Nobody has seen octets of it that could change now, or else they are lost already.
        let replaced = unsafe { libc::mmap(at, page, libc::PROT_READ, flags, -1, 0) };
        if replaced != libc::MAP_FAILED {
            FAULTS.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
    let former = FORMER.load(Ordering::Acquire);
    // SAFETY: `former` is null, for the default, or what `sigaction` has filled in once, and is never freed. On return
    // the faulting instruction runs again, and what was installed before takes the signal.
    unsafe {
        if former.is_null() {
            libc::signal(signal, libc::SIG_DFL);
        } else {
            libc::sigaction(signal, former, ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;
    use crate::Map;

    #[test]
    fn a_page_that_is_not_there_any_more_reads_as_zeros_and_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let page = rustix::param::page_size();
        File::create(&path).unwrap().write_all(&vec![b'x'; 3 * page]).unwrap();
        let map = Map::open(&path).unwrap();
        let before = unreadable_pages();
        File::options().write(true).open(&path).unwrap().set_len(page as u64).unwrap();

        let octets = map.get(0, 3 * page as u64).unwrap();

        assert!(octets[..page].iter().all(|octet| *octet == b'x'));
        assert!(octets[page..].iter().all(|octet| *octet == 0));
        assert!(unreadable_pages() >= before + 2);
    }

    #[test]
    fn regions_come_and_go() {
        let here = [0_u8; 64];
        let (start, address) = (here.as_ptr(), here.as_ptr() as usize);
        let guard = Guard::new(start, 32);
        assert!(is_ours(address) && is_ours(address + 31) && !is_ours(address + 32));
        drop(guard);
        assert!(!is_ours(address));
    }
}
