//! The system calls the standard library lacks: `recvmmsg`, `sendmmsg`, packet info.
//!
//! The one file of this crate with unsafe code. Every pointer handed to the kernel points into a
//! value that outlives the call, and lengths come from those same values.
#![expect(unsafe_code, reason = "system calls without a safe wrapper in the standard library")]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Datagrams per system call.
pub(super) const BATCH: usize = 32;
/// Octets of a query that are read. No query that makes sense is longer; the rest is cut off, and
/// the cut message is answered FORMERR on the slow path.
const QUERY_MAX: usize = 2048;
/// How long to wait for room to send before an answer is dropped, in milliseconds.
const SEND_WAIT_MS: i32 = 10;
/// Room for one packet-info message of either family.
const CONTROL: usize = 64;

/// Ancillary data, aligned as the kernel's headers ask.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// Who asked, and which address of ours was asked.
#[derive(Clone, Copy)]
pub(super) struct Peer {
    address: libc::sockaddr_storage,
    length: libc::socklen_t,
    local: Option<Local>,
}

/// An address of ours, as packet info for sending.
#[derive(Clone, Copy)]
enum Local {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

/// Buffers of a worker: datagrams received together, and the answers to them.
pub(super) struct Batch {
    queries: Box<[[u8; QUERY_MAX]]>,
    lengths: [usize; BATCH],
    peers: Box<[Peer]>,
    controls: Box<[Control]>,
    replies: Box<[u8]>,
    reply_max: usize,
    /// Which query each reply answers, and the reply's length.
    ready: Vec<(usize, usize)>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("family", &self.address.ss_family).finish_non_exhaustive()
    }
}

impl Peer {
    fn unknown() -> Self {
        // SAFETY: sockaddr_storage is plain data for which all zeros is a value.
        let address = unsafe { mem::zeroed() };
        Self { address, length: 0, local: None }
    }
}

impl Peer {
    /// Its address; that of nobody for a family that is neither of ours.
    fn ip(&self) -> IpAddr {
        match i32::from(self.address.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that the kernel wrote a sockaddr_in, which is smaller
                // than the storage and aligned by it.
                let v4 = unsafe { *ptr::from_ref(&self.address).cast::<libc::sockaddr_in>() };
                Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()).into()
            }
            libc::AF_INET6 => {
                // SAFETY: as above, with a sockaddr_in6.
                let v6 = unsafe { *ptr::from_ref(&self.address).cast::<libc::sockaddr_in6>() };
                IpAddr::from(v6.sin6_addr.s6_addr).to_canonical()
            }
            _ => Ipv4Addr::UNSPECIFIED.into(),
        }
    }
}

impl Batch {
    /// Buffers for answers of `reply_max` octets.
    pub(super) fn new(reply_max: usize) -> Self {
        Self {
            queries: vec![[0; QUERY_MAX]; BATCH].into(),
            lengths: [0; BATCH],
            peers: vec![Peer::unknown(); BATCH].into(),
            controls: vec![Control([0; CONTROL]); BATCH].into(),
            replies: vec![0; reply_max * BATCH].into(),
            reply_max,
            ready: Vec::with_capacity(BATCH),
        }
    }

    /// Receives what has arrived, and with `wait` waits for the first as long as the socket's
    /// time-out allows; the number of datagrams.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, wait: bool) -> io::Result<usize> {
        self.ready.clear();
        let mut parts = [const { EMPTY_PART }; BATCH];
        let mut headers = empty_headers();
        for i in 0..BATCH {
            parts[i].iov_base = self.queries[i].as_mut_ptr().cast();
            parts[i].iov_len = QUERY_MAX;
            let header = &mut headers[i].msg_hdr;
            header.msg_name = ptr::from_mut(&mut self.peers[i].address).cast();
            header.msg_namelen = socklen(size_of::<libc::sockaddr_storage>());
            header.msg_iov = ptr::from_mut(&mut parts[i]);
            header.msg_iovlen = 1;
            header.msg_control = self.controls[i].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL;
        }
        let flags = if wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        // SAFETY: every header points to buffers above that outlive the call, with their lengths.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                u32::try_from(BATCH).expect("a small constant"),
                flags,
                ptr::null_mut(),
            )
        };
        let Ok(received) = usize::try_from(received) else {
            return match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
                error => Err(error),
            };
        };
        for (i, header) in headers.iter().take(received).enumerate() {
            self.lengths[i] = usize::try_from(header.msg_len).map_or(0, |l| l.min(QUERY_MAX));
            self.peers[i].length = header.msg_hdr.msg_namelen;
            self.peers[i].local = local_address(&header.msg_hdr);
        }
        Ok(received)
    }

    /// A query, and the buffer for the next reply.
    pub(super) fn slot(&mut self, i: usize) -> (&[u8], &mut [u8]) {
        let start = self.ready.len() * self.reply_max;
        let query = &self.queries[i][..self.lengths[i]];
        (query, &mut self.replies[start..start + self.reply_max])
    }

    /// Queues what was written into the buffer of the last [`Self::slot`].
    pub(super) fn reply(&mut self, i: usize, length: usize) {
        self.ready.push((i, length.min(self.reply_max)));
    }

    /// The address a query came from.
    pub(super) fn client(&self, i: usize) -> IpAddr {
        self.peers[i].ip()
    }

    /// Who sent a query.
    pub(super) fn peer(&self, i: usize) -> Peer {
        self.peers[i]
    }

    /// Sends the replies; returns how many the system would not take.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>) -> u64 {
        let mut parts = [const { EMPTY_PART }; BATCH];
        let mut headers = empty_headers();
        for (n, (i, length)) in self.ready.iter().enumerate() {
            parts[n].iov_base = self.replies[n * self.reply_max..].as_mut_ptr().cast();
            parts[n].iov_len = *length;
            let header = &mut headers[n].msg_hdr;
            header.msg_iov = ptr::from_mut(&mut parts[n]);
            header.msg_iovlen = 1;
            address(header, &mut self.peers[*i], &mut self.controls[*i]);
        }
        let count = self.ready.len();
        let (mut sent, mut unsent) = (0, 0);
        while sent < count {
            match send_some(socket, &mut headers[sent..count]) {
                Ok(more) => sent += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !wait_writable(socket) {
                        return unsent + u64::try_from(count - sent).expect("at most a batch");
                    }
                }
                // The error is that of the first message alone: its peer cannot be reached.
                Err(_) => {
                    sent += 1;
                    unsent += 1;
                }
            }
        }
        unsent
    }
}

/// Asks the kernel to tell which address each datagram was sent to.
pub(crate) fn request_local_address(socket: &UdpSocket, ipv6: bool) -> io::Result<()> {
    if ipv6 {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
    } else {
        set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
    }
}

/// Has answers sent whole or not at all, whatever anybody says of the path: a fragment can be
/// forged (RFC 9715 §3.1), and our largest fits every path that IPv6 allows.
pub(crate) fn forbid_fragments(socket: &UdpSocket, ipv6: bool) -> io::Result<()> {
    if ipv6 {
        let probe = libc::IPV6_PMTUDISC_PROBE;
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, probe)
    } else {
        set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    }
}

fn set_option(
    socket: &UdpSocket,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the value is an int that outlives the call, with its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(&value).cast(),
            socklen(size_of::<libc::c_int>()),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends one message to a peer from the address it had asked, without waiting.
pub(super) fn send(socket: BorrowedFd<'_>, message: &[u8], peer: &Peer) -> io::Result<()> {
    let mut peer = *peer;
    let mut control = Control([0; CONTROL]);
    let mut part =
        libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
    let mut headers = empty_headers();
    let header = &mut headers[0].msg_hdr;
    header.msg_iov = ptr::from_mut(&mut part);
    header.msg_iovlen = 1;
    address(header, &mut peer, &mut control);
    send_some(socket, &mut headers[..1]).map(|_one| ())
}

const EMPTY_PART: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };

fn empty_headers() -> [libc::mmsghdr; BATCH] {
    // SAFETY: mmsghdr is plain data; null pointers and zero lengths are values of it.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

fn socklen(size: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(size).expect("sizes of socket structures are small constants")
}

fn send_some(socket: BorrowedFd<'_>, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let count = u32::try_from(headers.len()).expect("at most a batch");
    // SAFETY: the caller's headers point to buffers that are alive for this call.
    let sent = unsafe {
        libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

fn wait_writable(socket: BorrowedFd<'_>) -> bool {
    let entry = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    matches!(poll(&mut [entry], SEND_WAIT_MS), Ok(ready) if ready > 0)
}

fn poll(entries: &mut [libc::pollfd], timeout_ms: i32) -> io::Result<usize> {
    let count = libc::nfds_t::try_from(entries.len()).expect("one or two");
    // SAFETY: the entries outlive the call and their number is right.
    let ready = unsafe { libc::poll(entries.as_mut_ptr(), count, timeout_ms) };
    match usize::try_from(ready) {
        Ok(ready) => Ok(ready),
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            error => Err(error),
        },
    }
}

/// Fills in whom a message goes to and which address of ours it leaves from.
fn address(header: &mut libc::msghdr, peer: &mut Peer, control: &mut Control) {
    header.msg_name = ptr::from_mut(&mut peer.address).cast();
    header.msg_namelen = peer.length;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL;
    let space = match &peer.local {
        Some(Local::V4(info)) => put_control(header, libc::IPPROTO_IP, libc::IP_PKTINFO, info),
        Some(Local::V6(info)) => put_control(header, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info),
        None => 0,
    };
    header.msg_controllen = space;
    if space == 0 {
        header.msg_control = ptr::null_mut();
    }
}

/// Writes one control message; returns the space it takes.
fn put_control<T: Copy>(header: &libc::msghdr, level: i32, kind: i32, value: &T) -> usize {
    let size = u32::try_from(size_of::<T>()).expect("a small structure");
    // SAFETY: the header's control buffer is CONTROL octets long and aligned, more than CMSG_SPACE
    // of either packet-info structure, so the first header and its data lie within it.
    unsafe {
        let first = libc::CMSG_FIRSTHDR(header);
        (*first).cmsg_level = level;
        (*first).cmsg_type = kind;
        (*first).cmsg_len = usize::try_from(libc::CMSG_LEN(size)).expect("small");
        ptr::write_unaligned(libc::CMSG_DATA(first).cast::<T>(), *value);
        usize::try_from(libc::CMSG_SPACE(size)).expect("small")
    }
}

/// Which address of ours a received message was sent to, ready to be sent from.
fn local_address(header: &libc::msghdr) -> Option<Local> {
    // SAFETY: the kernel filled the control buffer and set its length; the macros stay within it,
    // and a packet-info message carries the structure that is read.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(header);
        while !next.is_null() {
            match ((*next).cmsg_level, (*next).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let data = libc::CMSG_DATA(next).cast::<libc::in_pktinfo>();
                    let mut info = ptr::read_unaligned(data);
                    // Routing picks the interface; the address alone is ours to choose.
                    info.ipi_ifindex = 0;
                    return Some(Local::V4(info));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let data = libc::CMSG_DATA(next).cast::<libc::in6_pktinfo>();
                    let mut info = ptr::read_unaligned(data);
                    let octets = info.ipi6_addr.s6_addr;
                    // RFC 4007 §6: a link-local address means nothing without its interface.
                    if octets[0] != 0xfe || octets[1] & 0xc0 != 0x80 {
                        info.ipi6_ifindex = 0;
                    }
                    return Some(Local::V6(info));
                }
                _ => next = libc::CMSG_NXTHDR(header, next),
            }
        }
    }
    None
}
