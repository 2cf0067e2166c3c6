//! Opens the two sockets of a worker over one region of memory.
//!
//! The funnel's socket and the region are xsk-rs'. The uplink's socket is opened by system calls over the same memory,
//! because xsk-rs cannot register a region that it did not map, and because a driver's queue must find its fill ring
//! filled at bind (a veth does not mind), which xsk-rs does after it.
//!
//! No program is attached here; the caller puts the descriptors into the XSKMAPs.

use std::ffi::CString;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use thiserror::Error;
use xsk_rs::Umem;
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};

use super::frames::{FramePool, Side};
use super::queue::{Queue, Socket, XskQueues};
use super::region::Region;
use super::socket_memory::map_rings;

/// Frames that copy mode sends per system call, where the kernel lets it be set (XDP_MAX_TX_SKB_BUDGET, Linux 6.17).
const TX_BUDGET: u32 = 256;
/// uapi/linux/if_xdp.h of Linux 6.17; not in libc yet.
const XDP_MAX_TX_SKB_BUDGET: i32 = 9;

/// How packets reach the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The device reads and writes it.
    ZeroCopy,
    /// The kernel copies.
    Copy,
}

/// A queue of an interface.
#[derive(Debug, Clone)]
pub struct QueueOf {
    pub interface: String,
    pub queue: u32,
}

/// What to open. [`OpenOptions::new`] has sizes for an MTU.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    pub uplink: QueueOf,
    pub funnel: QueueOf,
    /// Bytes of a chunk: 2048 or 4096.
    pub chunk_bytes: u32,
    /// Chunks of the region, shared by both ports.
    pub frames: u32,
    /// Slots of each of the funnel's four rings, a power of two; the uplink's have [`UPLINK_RINGS`] times as many. All fill
    /// rings together must leave frames to send.
    pub ring_entries: u32,
    /// Receive packets longer than a chunk in several pieces (XDP_USE_SG). The program must be `xdp.frags`.
    pub several_pieces: bool,
    /// How long to try while a predecessor's socket still holds the queue (EBUSY, 27-43 ms seen).
    pub bind_retry: Duration,
}

/// The uplink's rings by the funnel's. Who sends there does not wait for a worker, so its rings have to last for as long as
/// another program has the worker's core: at 500,000 packets a second on a machine with ten programs a core, a raw
/// forwarder lost 13 % with rings of 2,048, 1.7 % with 4,096.
const UPLINK_RINGS: u32 = 2;

/// Bytes of the largest chunk: the kernel wants one to lie within a page.
const CHUNK_BYTES_MAX: u32 = 4096;

/// Whether packets of links with this MTU, bytes, may be longer than the largest chunk.
pub const fn needs_pieces(mtu: u32) -> bool {
    bytes_in_chunk(mtu) > CHUNK_BYTES_MAX
}

/// Ethernet header and one VLAN tag, behind the kernel's headroom.
const fn bytes_in_chunk(mtu: u32) -> u32 {
    mtu + 18 + super::region::HEADROOM_BYTES
}

impl OpenOptions {
    /// Sizes: 2048 frames parked for the funnel (one TCP flow of a pod needs about that many) and 4096 for the uplink, as
    /// many again to send.
    pub fn new(uplink: QueueOf, funnel: QueueOf, mtu: u32) -> Self {
        let chunk_bytes = if bytes_in_chunk(mtu) <= 2048 { 2048 } else { CHUNK_BYTES_MAX };
        Self {
            uplink,
            funnel,
            chunk_bytes,
            frames: 12_288,
            ring_entries: 2048,
            several_pieces: needs_pieces(mtu),
            bind_retry: Duration::from_secs(1),
        }
    }

    const fn entries(&self, side: Side) -> u32 {
        match side {
            Side::Uplink => UPLINK_RINGS * self.ring_entries,
            Side::Funnel => self.ring_entries,
        }
    }
}

/// Why the sockets could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error(
        "cannot open an AF_XDP socket on {interface} queue {queue}: {step}: {source}; {}",
        hint(.source)
    )]
    Socket { interface: String, queue: u32, step: &'static str, source: io::Error },
    #[error("cannot set up {bytes} bytes of packet memory: {step}: {source}; {}", hint(.source))]
    Memory { bytes: u64, step: &'static str, source: io::Error },
    #[error("packet memory: {reason}")]
    Options { reason: String },
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => "another process holds this queue: end it (`ss --xdp` lists sockets)",
        Some(libc::EPERM | libc::EACCES) => "run as root, or with CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF",
        Some(libc::ENODEV) => "there is no such interface in this network namespace",
        Some(libc::EINVAL) => "the interface has no such queue: compare `ethtool -l`",
        Some(libc::ENOMEM | libc::ENOBUFS) => "not enough memory that may be locked: raise RLIMIT_MEMLOCK",
        Some(libc::EAFNOSUPPORT) => "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)",
        Some(libc::EOPNOTSUPP) => "the driver does not support this: see `ethtool -i` and `atalho check`",
        _ => "see the kernel's log",
    }
}

/// What a worker needs.
pub struct Opened {
    pub pool: FramePool,
    pub uplink: Queue,
    pub funnel: Queue,
}

/// Opens both sockets; fill rings are full when this returns. Call it in the interfaces' network namespace.
pub fn open(options: &OpenOptions) -> Result<Opened, OpenError> {
    check(options)?;
    let (umem, base) = make_umem(options)?;
    let region = Region::of_umem(umem.clone(), base, options.chunk_bytes, options.frames);
    let mut pool = FramePool::new(region);
    if options.several_pieces {
        pool = pool.with_pieces();
    }
    let mut funnel = retry(options, &options.funnel, || open_by_xsk_rs(options, &umem, &pool))?;
    funnel.refill(&mut pool);
    let uplink = open_by_system_calls(options, &mut pool)?;
    Ok(Opened { pool, uplink, funnel })
}

/// Opens the uplink's socket alone, over memory of its own; `options.funnel` is not looked at. For a program that sends back
/// by the port by which it receives.
pub fn open_uplink(options: &OpenOptions) -> Result<(FramePool, Queue), OpenError> {
    check(options)?;
    let bytes = u64::from(options.frames) * u64::from(options.chunk_bytes);
    let region = Region::plain(options.chunk_bytes, options.frames).map_err(|source| OpenError::Memory {
        bytes,
        step: "mapping it",
        source,
    })?;
    let mut pool = FramePool::new(region);
    let uplink = open_by_system_calls(options, &mut pool)?;
    Ok((pool, uplink))
}

fn check(options: &OpenOptions) -> Result<(), OpenError> {
    let refuse = |reason: String| Err(OpenError::Options { reason });
    if ![2048, 4096].contains(&options.chunk_bytes) {
        return refuse(format!("a chunk of {} bytes: must be 2048 or 4096", options.chunk_bytes));
    }
    if !options.ring_entries.is_power_of_two() {
        return refuse(format!("{} ring entries: must be a power of two", options.ring_entries));
    }
    let [uplink, funnel] = Side::ALL.map(|side| options.entries(side));
    if options.frames <= uplink + funnel {
        return refuse(format!(
            "{} frames for fill rings of {uplink} and {funnel}: none would be left to send",
            options.frames
        ));
    }
    Ok(())
}

/// The region, mapped and registered by xsk-rs, and the address of its first chunk.
fn make_umem(options: &OpenOptions) -> Result<(Umem, NonNull<u8>), OpenError> {
    let bytes = u64::from(options.frames) * u64::from(options.chunk_bytes);
    let memory = |step, source| OpenError::Memory { bytes, step, source };
    let refused = |e: &dyn std::fmt::Display| OpenError::Options { reason: e.to_string() };
    let ring = QueueSize::new(options.ring_entries).map_err(|e| refused(&e))?;
    let config = UmemConfig::builder()
        .frame_size(FrameSize::new(options.chunk_bytes).map_err(|e| refused(&e))?)
        .fill_queue_size(ring)
        .comp_queue_size(ring)
        .build()
        .map_err(|e| refused(&e))?;
    let frames = NonZeroU32::new(options.frames).ok_or_else(|| refused(&"no frames"))?;
    let (umem, descs) = Umem::new(config, frames, false).map_err(|e| memory("creating the UMEM", cause_of(&e)))?;
    let Some(first) = descs.first() else { return Err(refused(&"no frames")) };
    // SAFETY: the descriptor is this UMEM's own, and neither the kernel nor anybody else has any chunk yet; only the
    // address is taken, no byte is read.
    let (_, data) = unsafe { umem.frame(first) };
    // The region's start: the data of the first chunk less its offset. Going by the address drops the narrow
    // provenance of an empty slice; the memory is the kernel's (mmap), outside any Rust allocation.
    let address = data.contents().as_ptr().expose_provenance() - first.addr();
    match NonNull::new(std::ptr::with_exposed_provenance_mut(address)) {
        Some(base) => Ok((umem, base)),
        None => Err(refused(&"the region lies at address 0")),
    }
}

fn open_by_xsk_rs(options: &OpenOptions, umem: &Umem, pool: &FramePool) -> io::Result<Queue> {
    let QueueOf { interface, queue } = &options.funnel;
    let ring = QueueSize::new(options.ring_entries).map_err(io::Error::other)?;
    let mut bind = BindFlags::XDP_USE_NEED_WAKEUP;
    if options.several_pieces {
        bind |= BindFlags::XDP_USE_SG;
    }
    let config = SocketConfig::builder()
        .rx_queue_size(ring)
        .tx_queue_size(ring)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(bind)
        .build();
    let name = Interface::new(CString::new(interface.as_str())?);
    if_index(interface)?;
    // SAFETY: no program is loaded (INHIBIT_PROG_LOAD), and the UMEM has no other socket of xsk-rs on this queue.
    let (tx, _rx, _fill_and_completion) =
        unsafe { xsk_rs::Socket::new(config, umem, &name, *queue) }.map_err(|e| cause_of(&e))?;
    let socket = Socket::Xsk(Box::new(XskQueues { tx, _rx, _fill_and_completion }));
    finish(Side::Funnel, socket, options, pool)
}

fn open_by_system_calls(options: &OpenOptions, pool: &mut FramePool) -> Result<Queue, OpenError> {
    let of = &options.uplink;
    let failed = |step: &'static str| {
        move |source| OpenError::Socket { interface: of.interface.clone(), queue: of.queue, step, source }
    };
    let ifindex = if_index(&of.interface).map_err(failed("finding the interface"))?;
    // SAFETY: socket takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(failed("socket")(io::Error::last_os_error()));
    }
    // SAFETY: `fd` is a new descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let region = pool.region();
    let registration = libc::xdp_umem_reg {
        addr: region.base().as_ptr() as u64,
        len: region.bytes() as u64,
        chunk_size: region.chunk_bytes,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set_option(fd.as_fd(), libc::XDP_UMEM_REG, &registration).map_err(failed("registering the memory"))?;
    for ring in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING] {
        set_option(fd.as_fd(), ring, &options.entries(Side::Uplink)).map_err(failed("making the rings"))?;
    }
    let mut queue = finish(Side::Uplink, Socket::Own(fd), options, pool).map_err(failed("mapping the rings"))?;
    queue.refill(pool);
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        // Neither XDP_COPY nor XDP_ZEROCOPY: zero-copy where the driver has it, else copy.
        sxdp_flags: libc::XDP_USE_NEED_WAKEUP | if options.several_pieces { libc::XDP_USE_SG } else { 0 },
        sxdp_ifindex: ifindex,
        sxdp_queue_id: of.queue,
        sxdp_shared_umem_fd: 0,
    };
    retry(options, of, || bind(queue.as_fd(), &address))?;
    queue.set_mode(mode_of(queue.as_fd()).map_err(failed("asking for the mode"))?);
    Ok(queue)
}

/// What both ways of opening share: the rings, the send budget, the mode.
fn finish(side: Side, socket: Socket, options: &OpenOptions, pool: &FramePool) -> io::Result<Queue> {
    let entries = options.entries(side);
    let rings = map_rings(socket.as_fd(), entries)?;
    // Kernels before 6.17 do not know it; then 32 frames go per call.
    let _ = set_option(socket.as_fd(), XDP_MAX_TX_SKB_BUDGET, &TX_BUDGET.min(entries));
    let mode = mode_of(socket.as_fd()).unwrap_or(Mode::Copy);
    Ok(Queue::new(side, rings, socket, mode, pool))
}

/// Tries again while the queue is busy: the kernel lets go of a dead process's sockets only after a while.
fn retry<T>(options: &OpenOptions, of: &QueueOf, mut attempt: impl FnMut() -> io::Result<T>) -> Result<T, OpenError> {
    let deadline = Instant::now() + options.bind_retry;
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(source) => {
                return Err(OpenError::Socket {
                    interface: of.interface.clone(),
                    queue: of.queue,
                    step: "binding",
                    source,
                });
            }
        }
    }
}

fn bind(socket: BorrowedFd<'_>, address: &libc::sockaddr_xdp) -> io::Result<()> {
    // SAFETY: `address` is a valid sockaddr_xdp for the length given, read only during the call.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            std::ptr::from_ref(address).cast(),
            size_of::<libc::sockaddr_xdp>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn mode_of(socket: BorrowedFd<'_>) -> io::Result<Mode> {
    let mut flags = 0u32;
    let mut len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: `flags` (struct xdp_options is one 32-bit word) is writable for `len` bytes during the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_OPTIONS,
            std::ptr::from_mut(&mut flags).cast(),
            &mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(if flags & libc::XDP_OPTIONS_ZEROCOPY != 0 { Mode::ZeroCopy } else { Mode::Copy })
}

fn set_option<T>(socket: BorrowedFd<'_>, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: `value` is readable for its size during the call; the kernel copies it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn if_index(interface: &str) -> io::Result<u32> {
    let name = CString::new(interface)?;
    // SAFETY: `name` is a C string for the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// The system's error inside one of xsk-rs'; its own text where there is none.
fn cause_of(error: &(dyn std::error::Error + 'static)) -> io::Error {
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(mtu: u32) -> OpenOptions {
        let of = |interface: &str| QueueOf { interface: interface.into(), queue: 0 };
        OpenOptions::new(of("no-such-if0"), of("no-such-if1"), mtu)
    }

    #[test]
    fn chunks_fit_the_mtu() {
        let of = |mtu| (options(mtu).chunk_bytes, options(mtu).several_pieces);
        assert_eq!((of(1500), of(3498), of(3822)), ((2048, false), (4096, false), (4096, false)));
        assert_eq!((of(3823), of(9000)), ((4096, true), (4096, true)));
    }

    #[test]
    fn sizes_that_cannot_work_are_refused_with_a_reason() {
        let text = |options: OpenOptions| open(&options).err().expect("refused").to_string();
        assert!(text(OpenOptions { frames: 6144, ..options(1500) }).contains("none would be left to send"));
        assert!(text(OpenOptions { ring_entries: 1000, ..options(1500) }).contains("power of two"));
        assert!(text(OpenOptions { chunk_bytes: 1024, ..options(1500) }).contains("2048 or 4096"));
    }
}
