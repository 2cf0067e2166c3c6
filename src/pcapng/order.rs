//! The byte order of a section.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Big,
    Little,
}

impl Order {
    pub fn word32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Big => u32::from_be_bytes(bytes),
            Self::Little => u32::from_le_bytes(bytes),
        }
    }

    pub fn at32(self, bytes: &[u8], at: usize) -> Option<u32> {
        Some(self.word32(*bytes.get(at..)?.first_chunk()?))
    }

    pub fn at16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let two = *bytes.get(at..)?.first_chunk()?;
        Some(match self {
            Self::Big => u16::from_be_bytes(two),
            Self::Little => u16::from_le_bytes(two),
        })
    }

    pub fn signed64(self, bytes: &[u8]) -> Option<i64> {
        let eight = *bytes.first_chunk()?;
        Some(match self {
            Self::Big => i64::from_be_bytes(eight),
            Self::Little => i64::from_le_bytes(eight),
        })
    }

    /// Both halves of a packet's time, upper one first.
    pub fn time(self, body: &[u8]) -> Option<u64> {
        Some(u64::from(self.at32(body, 4)?) << 32 | u64::from(self.at32(body, 8)?))
    }
}
