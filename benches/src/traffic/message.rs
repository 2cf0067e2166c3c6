//! What a client and a server say to each other: a request that states what it carries and what it wants, an answer
//! that states who answered and whom it saw asking. Big-endian; one datagram each over UDP.

use std::io::{self, Read};

use super::pattern;

/// Bytes of a request before its payload.
pub const REQUEST_HEADER_BYTES: usize = 34;
/// Bytes of an answer before its texts and payload.
pub const REPLY_HEADER_BYTES: usize = 18;
/// Largest payload of a datagram: its headers and texts fit into 65,507 bytes too.
pub const DATAGRAM_PAYLOAD_BYTES_MAX: u32 = 60_000;

const REQUEST_MAGIC: u32 = 0x4154_4c51;
const REPLY_MAGIC: u32 = 0x4154_4c52;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// One payload, one answer; a TCP connection may carry many.
    Echo = 1,
    /// A stream until the client closes its side, then one answer.
    Sink = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub kind: RequestKind,
    pub number: u64,
    pub seed: u64,
    /// Payload that follows; 0 for a sink, whose stream has no length in advance.
    pub payload_bytes: u32,
    /// Payload wanted back.
    pub reply_bytes: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The request's number; for a sink the bytes received.
    pub number: u64,
    /// What the server received was what the client meant to send.
    pub intact: bool,
    /// Who answered.
    pub identity: String,
    /// The client's address as the server saw it.
    pub source: String,
    pub payload: Vec<u8>,
}

impl Request {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(REQUEST_HEADER_BYTES + self.payload_bytes as usize);
        out.extend(REQUEST_MAGIC.to_be_bytes());
        out.push(self.kind as u8);
        out.push(0);
        out.extend(self.number.to_be_bytes());
        out.extend(self.seed.to_be_bytes());
        out.extend(self.payload_bytes.to_be_bytes());
        out.extend(self.reply_bytes.to_be_bytes());
        out.extend(0_u32.to_be_bytes());
        let start = out.len();
        out.resize(start + self.payload_bytes as usize, 0);
        pattern::fill(self.payload_seed(), 0, &mut out[start..]);
        out
    }

    pub fn decode(header: &[u8; REQUEST_HEADER_BYTES]) -> io::Result<Self> {
        if u32_at(header, 0) != REQUEST_MAGIC {
            return Err(bad("a request that does not start as one"));
        }
        let kind = match header[4] {
            1 => RequestKind::Echo,
            2 => RequestKind::Sink,
            _ => return Err(bad("a request of unknown kind")),
        };
        Ok(Self {
            kind,
            number: u64_at(header, 6),
            seed: u64_at(header, 14),
            payload_bytes: u32_at(header, 22),
            reply_bytes: u32_at(header, 26),
        })
    }

    /// Seed of the payload: another for every number, so that an answer to the wrong request is noticed.
    pub fn payload_seed(&self) -> u64 {
        self.seed ^ self.number.rotate_left(32)
    }

    /// Seed of the answer's payload.
    pub fn reply_seed(&self) -> u64 {
        !self.payload_seed()
    }
}

impl Reply {
    pub fn encode(&self) -> Vec<u8> {
        let mut out =
            Vec::with_capacity(REPLY_HEADER_BYTES + self.identity.len() + self.source.len() + self.payload.len());
        out.extend(REPLY_MAGIC.to_be_bytes());
        out.extend(self.number.to_be_bytes());
        out.push(u8::from(self.intact));
        out.push(self.identity.len() as u8);
        out.push(self.source.len() as u8);
        out.push(0);
        out.extend((self.payload.len() as u16).to_be_bytes());
        out.extend(self.identity.as_bytes());
        out.extend(self.source.as_bytes());
        out.extend(&self.payload);
        out
    }

    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut header = [0; REPLY_HEADER_BYTES];
        from.read_exact(&mut header)?;
        if u32_at(&header, 0) != REPLY_MAGIC {
            return Err(bad("an answer that does not start as one"));
        }
        let mut text = vec![0; usize::from(header[13]) + usize::from(header[14])];
        from.read_exact(&mut text)?;
        let mut payload = vec![0; usize::from(u16::from_be_bytes([header[16], header[17]]))];
        from.read_exact(&mut payload)?;
        let (identity, source) = text.split_at(usize::from(header[13]));
        Ok(Self {
            number: u64_at(&header, 4),
            intact: header[12] == 1,
            identity: String::from_utf8_lossy(identity).into_owned(),
            source: String::from_utf8_lossy(source).into_owned(),
            payload,
        })
    }

    /// Why this is not the answer to that request, if it is not.
    pub fn complaint(&self, request: &Request) -> Option<String> {
        if self.number != request.number {
            return Some(format!("the answer is to request {}", self.number));
        }
        if !self.intact {
            return Some("the server received other bytes than were sent".into());
        }
        if self.payload.len() != request.reply_bytes as usize {
            return Some(format!("{} bytes came back instead of {}", self.payload.len(), request.reply_bytes));
        }
        pattern::first_difference(request.reply_seed(), 0, &self.payload)
            .map(|at| format!("byte {at} of the answer is wrong"))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request { kind: RequestKind::Echo, number: 9, seed: 3, payload_bytes: 100, reply_bytes: 50 }
    }

    fn answer(request: &Request) -> Reply {
        let mut payload = vec![0; request.reply_bytes as usize];
        pattern::fill(request.reply_seed(), 0, &mut payload);
        Reply { number: request.number, intact: true, identity: "pod-1".into(), source: "[fd00::1]:9".into(), payload }
    }

    #[test]
    fn both_survive_the_wire() {
        let request = request();
        let bytes = request.encode();
        let header: [u8; REQUEST_HEADER_BYTES] = bytes[..REQUEST_HEADER_BYTES].try_into().unwrap();
        assert_eq!(Request::decode(&header).unwrap(), request);
        assert_eq!(bytes.len(), REQUEST_HEADER_BYTES + 100);
        let reply = answer(&request);
        assert_eq!(Reply::read(&mut reply.encode().as_slice()).unwrap(), reply);
        assert_eq!(reply.complaint(&request), None);
    }

    #[test]
    fn a_wrong_answer_is_complained_about() {
        let request = request();
        let good = answer(&request);
        let mut flipped = good.clone();
        flipped.payload[49] ^= 0x80;
        assert_eq!(flipped.complaint(&request).unwrap(), "byte 49 of the answer is wrong");
        assert!(Reply { number: 8, ..good.clone() }.complaint(&request).is_some());
        assert!(Reply { intact: false, ..good.clone() }.complaint(&request).is_some());
        let other = Request { number: 10, ..request };
        assert!(Reply { number: 10, ..good }.complaint(&other).is_some(), "the payload of another number");
    }

    #[test]
    fn noise_is_refused() {
        assert!(Request::decode(&[0; REQUEST_HEADER_BYTES]).is_err());
        assert!(Reply::read(&mut [1_u8; 64].as_slice()).is_err());
        assert!(Reply::read(&mut [1_u8; 4].as_slice()).is_err());
    }
}
