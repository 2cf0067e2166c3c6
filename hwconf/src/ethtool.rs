//! Queues, rings and RSS of a device by ethtool's netlink interface (Linux Documentation/networking/ethtool-netlink.rst).

use std::collections::BTreeSet;

use crate::facts::{Queues, Rings, Rss};
use crate::netlink::{Attributes, Family, attribute, attribute_u32};

// linux/ethtool_netlink.h.
const MSG_RINGS_GET: u8 = 15;
const MSG_CHANNELS_GET: u8 = 17;
const MSG_RSS_GET: u8 = 38;
/// Every request and answer names its device here.
const A_HEADER: u16 = 1;
const A_HEADER_DEV_INDEX: u16 = 1;
const A_RINGS_RX_MAX: u16 = 2;
const A_RINGS_TX_MAX: u16 = 5;
const A_RINGS_RX: u16 = 6;
const A_RINGS_TX: u16 = 9;
const A_CHANNELS_RX_MAX: u16 = 2;
const A_CHANNELS_TX_MAX: u16 = 3;
const A_CHANNELS_COMBINED_MAX: u16 = 5;
const A_CHANNELS_RX_COUNT: u16 = 6;
const A_CHANNELS_TX_COUNT: u16 = 7;
const A_CHANNELS_COMBINED_COUNT: u16 = 9;
const A_RSS_INDIR: u16 = 4;
const A_RSS_HKEY: u16 = 5;

/// Asks about one device. An answer that the driver does not give is `None`: most virtual ones have no rings and no RSS.
pub struct Ethtool {
    family: Family,
    index: u32,
}

impl Ethtool {
    pub fn of(index: u32) -> Option<Self> {
        Family::find("ethtool").ok().map(|family| Self { family, index })
    }

    pub fn queues(&self) -> Option<Queues> {
        let answer = self.ask(MSG_CHANNELS_GET)?;
        let count = |kind| attribute_u32(&answer, kind).unwrap_or(0);
        let combined = count(A_CHANNELS_COMBINED_COUNT);
        let most = count(A_CHANNELS_COMBINED_MAX) + count(A_CHANNELS_RX_MAX).min(count(A_CHANNELS_TX_MAX));
        let queues = Queues {
            rx: combined + count(A_CHANNELS_RX_COUNT),
            tx: combined + count(A_CHANNELS_TX_COUNT),
            most: (most > 0).then_some(most),
        };
        (queues.usable() > 0).then_some(queues)
    }

    pub fn rings(&self) -> Option<Rings> {
        let answer = self.ask(MSG_RINGS_GET)?;
        Some(Rings {
            rx: attribute_u32(&answer, A_RINGS_RX)?,
            rx_most: attribute_u32(&answer, A_RINGS_RX_MAX)?,
            tx: attribute_u32(&answer, A_RINGS_TX)?,
            tx_most: attribute_u32(&answer, A_RINGS_TX_MAX)?,
        })
    }

    pub fn rss(&self) -> Option<Rss> {
        let answer = self.ask(MSG_RSS_GET)?;
        let table = attribute(&answer, A_RSS_INDIR)?;
        let queues: BTreeSet<[u8; 4]> = table.as_chunks::<4>().0.iter().copied().collect();
        Some(Rss {
            table_entries: (table.len() / 4) as u32,
            table_queues: queues.len() as u32,
            key_bytes: attribute(&answer, A_RSS_HKEY).unwrap_or_default().len() as u32,
        })
    }

    fn ask(&self, message: u8) -> Option<Vec<u8>> {
        let header = Attributes::default().u32(A_HEADER_DEV_INDEX, self.index);
        self.family.ask(message, Attributes::default().nested(A_HEADER, header)).ok()
    }
}
