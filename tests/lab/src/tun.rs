//! A TUN device: a network interface whose packets are read and written by a process.
//!
//! The only `unsafe` of this crate: the one `ioctl` that turns an open `/dev/net/tun` into a device has no safe form in
//! the crates that the hub uses anyway, and a crate for TUN devices would bring address and route handling along.

use std::ffi::{c_char, c_int};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

mod raw {
    #![allow(unsafe_code)]
    nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, libc::ifreq);
}

/// Makes the device `name` in the network namespace of the calling thread. Reads and writes of the file never block and
/// carry one IP packet each. The device is gone when the file is closed.
///
/// # Errors
/// What the system says: no `/dev/net/tun`, no right to it, the name is taken.
#[allow(unsafe_code)]
pub(crate) fn open(name: &str) -> io::Result<File> {
    let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let mut ifr_name: [c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
    // One less, so that the name ends with a zero.
    for (place, octet) in ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *place = octet.cast_signed();
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI;
    let request = libc::ifreq {
        ifr_name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: i16::try_from(flags).unwrap_or_default() },
    };
    let descriptor: c_int = file.as_raw_fd();
    // SAFETY: the descriptor is open as long as `file` lives; TUNSETIFF reads one `ifreq`, which `request` is, with a
    // name that ends with a zero and the flags as its active union member, and keeps no pointer to it.
    unsafe { raw::set_interface(descriptor, &raw const request) }?;
    Ok(file)
}
