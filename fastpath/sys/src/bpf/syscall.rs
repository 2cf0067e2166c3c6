//! The bpf(2) calls for links and for maps in maps, which aya does not offer as needed: its attach falls back to another
//! kind of link in silence, and its link information lacks the interface. Attributes are words laid out by hand as in
//! include/uapi/linux/bpf.h, `union bpf_attr`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const LINK_DETACH: libc::c_long = 34;

const MAP_TYPE_ARRAY: u32 = 2;
const MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;
/// XDP_FLAGS_DRV_MODE: in the driver or not at all.
const XDP_NATIVE: u32 = 1 << 2;

/// Where a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Hook {
    Xdp = 37,
    TcxIngress = 46,
    TcxEgress = 47,
}

impl Hook {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "XDP",
            Self::TcxIngress => "tcx ingress",
            Self::TcxEgress => "tcx egress",
        }
    }
}

/// What the kernel says about a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkInfo {
    pub(super) id: u32,
    pub(super) program: u32,
    /// 0 once the interface is gone.
    pub(super) ifindex: u32,
}

/// 128 bytes of `union bpf_attr`; the kernel takes what is missing as 0.
type Attributes = [u64; 16];

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn raw(fd: BorrowedFd) -> u32 {
    fd.as_raw_fd() as u32
}

fn bpf(command: libc::c_long, attributes: &mut Attributes) -> io::Result<libc::c_int> {
    // SAFETY: `attributes` is a live, writable buffer of exactly the size passed. Every pointer that a caller puts into
    // it points to memory that outlives the call and is as large as its length field or the map's sizes say (see each
    // caller), and the kernel keeps none of them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of::<Attributes>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

fn bpf_fd(command: libc::c_long, attributes: &mut Attributes) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the commands passed here return a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

pub(super) fn link_create(program: BorrowedFd, ifindex: u32, hook: Hook) -> io::Result<OwnedFd> {
    let flags = if hook == Hook::Xdp { XDP_NATIVE } else { 0 };
    let mut attributes: Attributes = [0; 16];
    attributes[0] = pair(raw(program), ifindex);
    attributes[1] = pair(hook as u32, flags);
    bpf_fd(LINK_CREATE, &mut attributes)
}

/// Puts another program under a link, without a packet in between that meets none.
pub(super) fn link_update(link: BorrowedFd, program: BorrowedFd) -> io::Result<()> {
    let mut attributes: Attributes = [0; 16];
    attributes[0] = pair(raw(link), raw(program));
    bpf(LINK_UPDATE, &mut attributes).map(drop)
}

/// Takes the program off the interface at once; the link stays, of no use. Closing its last holder would do that too,
/// but some time later.
pub(super) fn link_detach(link: BorrowedFd) -> io::Result<()> {
    let mut attributes: Attributes = [0; 16];
    attributes[0] = u64::from(raw(link));
    bpf(LINK_DETACH, &mut attributes).map(drop)
}

/// Reads an object's information into `info`, as much as fits.
fn info(fd: BorrowedFd, info: &mut [u32; 64]) -> io::Result<()> {
    let mut attributes: Attributes = [0; 16];
    attributes[0] = pair(raw(fd), size_of_val(info) as u32);
    attributes[1] = info.as_mut_ptr() as u64; // a live buffer of the length in the word before
    bpf(OBJ_GET_INFO_BY_FD, &mut attributes).map(drop)
}

/// `struct bpf_link_info`: type, id, program, then from byte 16 the interface for XDP and tcx links.
pub(super) fn link_info(link: BorrowedFd) -> io::Result<LinkInfo> {
    let mut words = [0u32; 64];
    info(link, &mut words)?;
    Ok(LinkInfo { id: words[1], program: words[2], ifindex: words[4] })
}

/// The name of a loaded program, as far as the kernel keeps it (15 bytes). `struct bpf_prog_info`: at byte 64.
pub(super) fn program_name(id: u32) -> io::Result<String> {
    let mut attributes: Attributes = [0; 16];
    attributes[0] = u64::from(id);
    let program = bpf_fd(PROG_GET_FD_BY_ID, &mut attributes)?;
    let mut words = [0u32; 64];
    info(std::os::fd::AsFd::as_fd(&program), &mut words)?;
    let bytes: Vec<u8> = words[16..20].iter().flat_map(|word| word.to_le_bytes()).take_while(|b| *b != 0).collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Identifiers of the tcx programs on an interface, at most 64.
pub(super) fn tcx_programs(ifindex: u32, hook: Hook) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; 64];
    let mut attributes: Attributes = [0; 16];
    attributes[0] = pair(ifindex, hook as u32);
    attributes[2] = ids.as_mut_ptr() as u64; // room for as many as the count in the next word says
    attributes[3] = ids.len() as u64;
    match bpf(PROG_QUERY, &mut attributes) {
        Ok(_) => Ok(ids[..(attributes[3] as u32 as usize).min(ids.len())].to_vec()),
        // Nothing was ever attached there.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

pub(super) fn pin(object: BorrowedFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attributes: Attributes = [0; 16];
    attributes[0] = path.as_ptr() as u64; // NUL-terminated and alive until the end of this function
    attributes[1] = u64::from(raw(object));
    bpf(OBJ_PIN, &mut attributes).map(drop)
}

pub(super) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attributes: Attributes = [0; 16];
    attributes[0] = path.as_ptr() as u64; // NUL-terminated and alive until the end of this function
    bpf_fd(OBJ_GET, &mut attributes)
}

/// An array of one map of 4-byte values, and such a map to put into it.
pub(super) fn map_in_map() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut attributes: Attributes = [0; 16];
    attributes[0] = pair(MAP_TYPE_ARRAY, 4); // key bytes
    attributes[1] = pair(4, 1); // value bytes, entries
    let inner = bpf_fd(MAP_CREATE, &mut attributes)?;
    attributes = [0; 16];
    attributes[0] = pair(MAP_TYPE_ARRAY_OF_MAPS, 4);
    attributes[1] = pair(4, 1);
    attributes[2] = pair(0, inner.as_raw_fd() as u32); // flags, the pattern of what goes in
    let outer = bpf_fd(MAP_CREATE, &mut attributes)?;
    Ok((outer, inner))
}

/// Puts `inner` into entry 0 of `outer`.
pub(super) fn put_into_map(outer: BorrowedFd, inner: BorrowedFd) -> io::Result<()> {
    let key = 0u32;
    let value = raw(inner);
    let mut attributes: Attributes = [0; 16];
    attributes[0] = u64::from(raw(outer));
    // Key and value are 4 bytes each, as `map_in_map` made the outer map, and live until the end of this function.
    attributes[1] = &raw const key as u64;
    attributes[2] = &raw const value as u64;
    bpf(MAP_UPDATE_ELEM, &mut attributes).map(drop)
}
