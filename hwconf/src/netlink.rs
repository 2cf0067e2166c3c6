//! Netlink requests and answers, just enough to ask the kernel a question: one request, its answer, no state.
//! (Linux Documentation/userspace-api/netlink/intro.rst.) Numbers are in the machine's byte order.

use std::io;

use netlink_sys::{Socket, SocketAddr};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const HEADER_BYTES: usize = 16;
/// A generic netlink message starts with command, version and two reserved bytes.
const GENERIC_HEADER_BYTES: usize = 4;
const NESTED: u16 = 0x8000;
/// Masks the flags out of an attribute's type.
const TYPE_MASK: u16 = 0x3fff;

/// Generic netlink's own family and the command that finds another one by name (linux/genetlink.h).
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

/// Attributes under construction.
#[derive(Default)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// A string with its final zero.
    pub fn string(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub fn nested(self, kind: u16, inner: Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        // Lengths here are those of names and numbers, far below the 16 bits of the field.
        self.0.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

/// The value of the first attribute `kind` among `attributes`.
pub fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = attributes;
    while let [l0, l1, k0, k1, ..] = *rest {
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(4..len)?;
        if u16::from_ne_bytes([k0, k1]) & TYPE_MASK == kind {
            return Some(value);
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

pub fn attribute_u32(attributes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_ne_bytes(attribute(attributes, kind)?.try_into().ok()?))
}

/// A number of 64 bits, which the kernel may also send in 32 (its `uint` type).
pub fn attribute_uint(attributes: &[u8], kind: u16) -> Option<u64> {
    let value = attribute(attributes, kind)?;
    match value.len() {
        8 => Some(u64::from_ne_bytes(value.try_into().ok()?)),
        4 => Some(u64::from(u32::from_ne_bytes(value.try_into().ok()?))),
        _ => None,
    }
}

/// A string up to its final zero.
pub fn attribute_string(attributes: &[u8], kind: u16) -> Option<String> {
    let value = attribute(attributes, kind)?;
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(text).into_owned())
}

/// Sends `body` as a message of type `kind` to `protocol` and returns the body of the answer.
///
/// # Errors
/// The kernel's refusal by its errno; `UnexpectedEof` where it acknowledges without an answer.
pub fn ask(protocol: isize, kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
    message.extend_from_slice(&((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    message.extend_from_slice(&1u32.to_ne_bytes()); // sequence: the only request of this socket
    message.extend_from_slice(&0u32.to_ne_bytes()); // port: the kernel fills it in
    message.extend_from_slice(body);
    socket.send_to(&message, &SocketAddr::new(0, 0), 0)?;

    let mut answer = None;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        if read_answers(&datagram, &mut answer)? {
            return answer.ok_or_else(|| io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Takes the messages of one datagram; `true` once the acknowledgement came.
fn read_answers(datagram: &[u8], answer: &mut Option<Vec<u8>>) -> io::Result<bool> {
    let mut rest = datagram;
    while rest.len() >= HEADER_BYTES {
        let len = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        let kind = u16::from_ne_bytes([rest[4], rest[5]]);
        let Some(body) = rest.get(HEADER_BYTES..len) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a netlink message longer than its datagram"));
        };
        match kind {
            NLMSG_ERROR => {
                let code = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                return if code == 0 { Ok(true) } else { Err(io::Error::from_raw_os_error(code.wrapping_neg())) };
            }
            NLMSG_DONE => return Ok(true),
            _ => *answer = Some(body.to_vec()),
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// A generic netlink family.
pub struct Family(u16);

impl Family {
    /// Finds a family by name.
    ///
    /// # Errors
    /// `NotFound` where this kernel has no such family.
    pub fn find(name: &str) -> io::Result<Self> {
        let answer =
            Self(GENL_ID_CTRL).ask(CTRL_CMD_GETFAMILY, Attributes::default().string(CTRL_ATTR_FAMILY_NAME, name))?;
        let id =
            attribute(&answer, CTRL_ATTR_FAMILY_ID).and_then(|value| value.try_into().ok()).map(u16::from_ne_bytes);
        id.map(Self).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Asks a question and returns the attributes of the answer.
    pub fn ask(&self, command: u8, attributes: Attributes) -> io::Result<Vec<u8>> {
        let mut body = vec![command, 1, 0, 0];
        body.extend_from_slice(&attributes.0);
        let mut answer = ask(netlink_sys::protocols::NETLINK_GENERIC, self.0, &body)?;
        answer.drain(..GENERIC_HEADER_BYTES.min(answer.len()));
        Ok(answer)
    }
}

/// The bytes of `attributes`, to put behind a header of another kind.
pub fn into_bytes(attributes: Attributes) -> Vec<u8> {
    attributes.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_read_back_as_written() {
        let inner = Attributes::default().u32(7, 70_000);
        let bytes = into_bytes(Attributes::default().string(1, "abcd").nested(2, inner).u32(3, 9));
        assert_eq!(attribute_string(&bytes, 1).as_deref(), Some("abcd"));
        assert_eq!(attribute_u32(attribute(&bytes, 2).unwrap(), 7), Some(70_000));
        assert_eq!(attribute_u32(&bytes, 3), Some(9));
        assert_eq!(attribute(&bytes, 4), None);
    }

    #[test]
    fn cut_or_lying_attributes_end_the_search() {
        assert_eq!(attribute(&[200, 0, 1, 0, 5], 1), None);
        assert_eq!(attribute(&[0, 0, 1, 0, 5], 1), None);
        assert_eq!(attribute(&[8], 1), None);
    }

    #[test]
    fn a_refusal_is_the_kernels_errno() {
        let mut datagram = vec![20, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        datagram.extend_from_slice(&(-95i32).to_ne_bytes());
        let error = read_answers(&datagram, &mut None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(95));
        datagram[0] = 60;
        assert_eq!(read_answers(&datagram, &mut None).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
