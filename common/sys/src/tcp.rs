//! What the kernel knows of a TCP connection.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use socket2::SockRef;

/// The parts of Linux's `TCP_INFO` that the hub uses. What an older kernel does not report is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpInfo {
    /// Smoothed round trip time.
    pub rtt: Duration,
    /// Mean deviation of the round trip time.
    pub rtt_variation: Duration,
    /// Smallest round trip time seen of late; zero when none was measured.
    pub min_rtt: Duration,
    /// Congestion window, in segments.
    pub cwnd: u32,
    /// Maximum segment size for sending, in octets.
    pub mss: u32,
    /// Rate at which data was delivered lately, in octets per second.
    pub delivery_rate: u64,
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    /// Octets written and not sent.
    pub notsent: u32,
    /// Octets acknowledged by the peer.
    pub acked: u64,
    /// Segments retransmitted over the life of the connection.
    pub retransmits: u32,
    /// Segments received ahead of one that is missing, over the life of the connection.
    pub out_of_order: u32,
}

/// Reads `TCP_INFO` of a connected TCP socket.
///
/// # Errors
/// Whatever `getsockopt(2)` reports, as for a descriptor that is not a TCP socket.
#[allow(unsafe_code)]
pub fn tcp_info(socket: &impl AsFd) -> io::Result<TcpInfo> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open as long as `socket` is borrowed; `info` is writable for `length` octets, and the
    // kernel writes no more than that.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `tcp_info` is made of integers only, for which every bit pattern is a value, and all of it was zeroed
    // before the kernel filled in the fields that it knows.
    let info = unsafe { info.assume_init() };
    let micros = |value: u32| Duration::from_micros(u64::from(value));
    Ok(TcpInfo {
        rtt: micros(info.tcpi_rtt),
        rtt_variation: micros(info.tcpi_rttvar),
        // The kernel says "never measured" with all bits set.
        min_rtt: if info.tcpi_min_rtt == u32::MAX { Duration::ZERO } else { micros(info.tcpi_min_rtt) },
        cwnd: info.tcpi_snd_cwnd,
        mss: info.tcpi_snd_mss,
        delivery_rate: info.tcpi_delivery_rate,
        unacked: info.tcpi_unacked,
        notsent: info.tcpi_notsent_bytes,
        acked: info.tcpi_bytes_acked,
        retransmits: info.tcpi_total_retrans,
        out_of_order: info.tcpi_rcv_ooopack,
    })
}

/// Acknowledges what has arrived, and what arrives next, without delay. The kernel falls back to delayed
/// acknowledgements by itself, so this is armed again before every read.
///
/// # Errors
/// Whatever `setsockopt(2)` reports.
pub fn quickack(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_tcp_quickack(true)
}

/// Lets a connection begin together with the first octets written (TCP Fast Open, RFC 7413 §4.2), to be called before
/// `connect(2)`: where the kernel holds a cookie of the peer, that returns at once and the first write makes the
/// connection; else it connects in the usual way, and asks for a cookie.
///
/// The network may deliver such octets twice, to two connections: write nothing in the first flight that must not happen
/// twice.
///
/// # Errors
/// Whatever `setsockopt(2)` reports: the kernel does not know it, or is told not to (`net.ipv4.tcp_fastopen`).
pub fn fast_open(socket: &impl AsFd) -> io::Result<()> {
    set_tcp_option(socket, libc::TCP_FASTOPEN_CONNECT, 1)
}

/// Takes octets that come with a connection (TCP Fast Open, RFC 7413), to be called on a listening socket; `queue`
/// connections may wait that have not shown yet that they are not forged. Has an effect where the system allows it
/// (bit 1 of `net.ipv4.tcp_fastopen`).
///
/// # Errors
/// Whatever `setsockopt(2)` reports.
pub fn accept_fast_open(listener: &impl AsFd, queue: u16) -> io::Result<()> {
    set_tcp_option(listener, libc::TCP_FASTOPEN, queue.into())
}

#[allow(unsafe_code)]
fn set_tcp_option(socket: &impl AsFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open as long as `socket` is borrowed; the kernel reads `length` octets of `value`, which
    // lives until the call returns.
    let status = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), libc::IPPROTO_TCP, option, (&raw const value).cast(), length)
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn a_connection_on_loopback_reports_its_round_trip() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        quickack(&server).unwrap();
        client.write_all(b"EHLO\r\n").unwrap();
        server.read_exact(&mut [0; 6]).unwrap();
        server.write_all(b"250\r\n").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();

        let info = tcp_info(&client).unwrap();

        assert!(info.rtt > Duration::ZERO && info.rtt < Duration::from_secs(5), "{info:?}");
        assert!(info.cwnd > 0 && info.mss > 0, "{info:?}");
    }

    #[test]
    fn connections_with_fast_open_work_whether_the_kernel_does_it_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _may_be_forbidden = accept_fast_open(&listener, 16);
        // The first one can only ask for a cookie, the second may have it.
        for _ in 0..2 {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            let _may_be_forbidden = fast_open(&socket);
            socket.connect(&listener.local_addr().unwrap().into()).unwrap();
            let mut client = TcpStream::from(socket);
            client.write_all(b"EHLO\r\n").unwrap();
            let (mut server, _) = listener.accept().unwrap();
            let mut heard = [0; 6];
            server.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"EHLO\r\n");
        }
    }

    #[test]
    fn a_socket_that_is_not_tcp_is_an_error() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(tcp_info(&socket).is_err());
        assert!(fast_open(&socket).is_err() && accept_fast_open(&socket, 1).is_err());
    }
}
