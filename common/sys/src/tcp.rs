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
    fn a_socket_that_is_not_tcp_is_an_error() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(tcp_info(&socket).is_err());
    }
}
