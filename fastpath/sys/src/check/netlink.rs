//! One question to the kernel by netlink, one answer: enough to look at an interface before anything is started.
//! Whoever follows changes uses a real netlink library.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const REQUEST: u16 = 1;
const MESSAGE_ERROR: u16 = 2;
const HEADER_BYTES: usize = 16;
/// NLA_F_NESTED and NLA_F_NET_BYTEORDER stand in the two highest bits of an attribute's type.
const TYPE_MASK: u16 = 0x3fff;

/// A message under construction, padded to 4 bytes.
pub(super) struct Request(Vec<u8>);

impl Request {
    pub(super) fn new(kind: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
        bytes.extend_from_slice(body);
        Self(bytes)
    }

    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend_from_slice(&(value.len() as u16 + 4).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Asks, and returns the body of the answer.
    ///
    /// # Errors
    /// The kernel's own error code, or that of the socket; `UnexpectedEof` for an answer that is no message.
    pub(super) fn ask(mut self, protocol: libc::c_int) -> io::Result<Vec<u8>> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        // SAFETY: socket takes no pointer.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: the buffer is alive and of the length passed.
        if unsafe { libc::send(socket.as_raw_fd(), self.0.as_ptr().cast(), self.0.len(), 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut answer = vec![0u8; 65_536];
        // SAFETY: the buffer is alive, writable and of the length passed.
        let received = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
        if received < 0 {
            return Err(io::Error::last_os_error());
        }
        answer.truncate(received as usize);
        body_of(&answer)
    }
}

fn body_of(answer: &[u8]) -> io::Result<Vec<u8>> {
    let len = u32_at(answer, 0).unwrap_or(0) as usize;
    let message = answer.get(HEADER_BYTES..len).ok_or(io::ErrorKind::UnexpectedEof)?;
    if u16::from_ne_bytes([answer[4], answer[5]]) == MESSAGE_ERROR {
        let code = u32_at(message, 0).ok_or(io::ErrorKind::UnexpectedEof)? as i32;
        return Err(io::Error::from_raw_os_error(-code));
    }
    Ok(message.to_vec())
}

/// Types and values of a run of attributes; ends at the first one that does not fit.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & TYPE_MASK;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A string attribute without its end.
pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_read_back_and_a_broken_length_ends_the_run() {
        let Request(bytes) = Request::new(0, &[]).attribute(3, b"eth7\0").attribute(0x8004, &[1, 2, 3, 4]);
        let found: Vec<_> = attributes(&bytes[HEADER_BYTES..]).collect();
        assert_eq!(found, [(3, &b"eth7\0"[..]), (4, &[1, 2, 3, 4][..])]);
        assert_eq!(text(found[0].1), "eth7");
        assert_eq!(attributes(&[200, 0, 1, 0, 9]).count(), 0);
        assert_eq!(attributes(&[2, 0, 1, 0, 9]).count(), 0);
        assert_eq!(attributes(&[]).count(), 0);
    }

    #[test]
    fn an_error_message_becomes_its_code() {
        let mut answer = vec![0u8; 36];
        answer[0] = 36;
        answer[4] = MESSAGE_ERROR as u8;
        answer[16..20].copy_from_slice(&(-19i32).to_ne_bytes());
        assert_eq!(body_of(&answer).unwrap_err().raw_os_error(), Some(19));
        assert!(body_of(&[7]).is_err());
    }
}
