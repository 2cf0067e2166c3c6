//! An interface as its section describes it: what its packets' times mean.

use super::order::Order;
use super::{IF_NAME, IF_TSOFFSET, IF_TSRESOL, OPTION_END};

const NS_PER_S: u128 = 1_000_000_000;

pub struct Interface {
    pub name: Option<String>,
    pub link_type: u16,
    pub snap_bytes: u32,
    /// The option if_tsresol.
    resolution: u8,
    offset_s: i64,
}

impl Interface {
    /// From the body of its block; `None` if that is too short.
    pub fn read(order: Order, body: &[u8]) -> Option<Self> {
        let mut interface = Self {
            name: None,
            link_type: order.at16(body, 0)?,
            snap_bytes: order.at32(body, 4)?,
            // Microseconds (section 4.2).
            resolution: 6,
            offset_s: 0,
        };
        let mut at = 8;
        // Options that end too early count as far as they go.
        while let (Some(code), Some(bytes)) = (order.at16(body, at), order.at16(body, at + 2)) {
            let Some(value) = body.get(at + 4..at + 4 + usize::from(bytes)) else { break };
            match code {
                OPTION_END => break,
                IF_NAME => interface.name = Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()),
                IF_TSRESOL => interface.resolution = value.first().copied().unwrap_or(interface.resolution),
                IF_TSOFFSET => interface.offset_s = order.signed64(value).unwrap_or(0),
                _ => {}
            }
            at += 4 + usize::from(bytes).next_multiple_of(4);
        }
        Some(interface)
    }

    /// Nanoseconds since 1970 of a time in this interface's units: 10^-n s, with the highest bit set 2^-n s.
    pub fn time_ns(&self, units: u64) -> u64 {
        let (units, n) = (u128::from(units), u32::from(self.resolution & 0x7f));
        let ns = match (self.resolution & 0x80 != 0, n) {
            (true, _) => (units * NS_PER_S).checked_shr(n).unwrap_or(0),
            (false, 0..=9) => units * 10_u128.pow(9 - n),
            (false, _) => 10_u128.checked_pow(n - 9).map_or(0, |divisor| units / divisor),
        };
        let ns = i128::try_from(ns).unwrap_or(i128::MAX);
        ns.saturating_add(i128::from(self.offset_s) * NS_PER_S as i128).clamp(0, i128::from(u64::MAX)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(resolution: u8, offset_s: i64) -> Interface {
        Interface { name: None, link_type: 1, snap_bytes: 0, resolution, offset_s }
    }

    #[test]
    fn every_resolution_gives_nanoseconds() {
        for (resolution, units, ns) in [
            (0, 7, 7_000_000_000),
            (3, 7, 7_000_000),
            (6, 1_700_000_000_000_001, 1_700_000_000_000_001_000),
            (9, 1_700_000_000_000_000_001, 1_700_000_000_000_000_001),
            (12, 7_999, 7),
            (127, u64::MAX, 0),
            (0x80 | 1, 3, 1_500_000_000),
            (0x80 | 32, 3 << 31, 1_500_000_000),
            (0x80 | 127, u64::MAX, 0),
            (0, u64::MAX, u64::MAX),
        ] {
            assert_eq!(of(resolution, 0).time_ns(units), ns, "{resolution:#x} {units}");
        }
        assert_eq!(of(6, 2).time_ns(1), 2_000_001_000);
        assert_eq!(of(6, -2).time_ns(1), 0);
    }
}
