//! The funnel's tag: which port a frame came from or goes to, as a locally administered MAC 02:fe + interface index
//! (4 bytes, big-endian). The funnel carries the frames of all pods, so the port must travel inside the frame.

/// First two bytes of every tag.
pub const TAG_PREFIX: [u8; 2] = [0x02, 0xfe];

/// The tag of an interface index.
pub const fn tag_mac(ifindex: u32) -> [u8; 6] {
    let i = ifindex.to_be_bytes();
    [TAG_PREFIX[0], TAG_PREFIX[1], i[0], i[1], i[2], i[3]]
}

/// The interface index in a tag; `None` if `mac` is no tag.
pub const fn ifindex_of_tag(mac: [u8; 6]) -> Option<u32> {
    if mac[0] == TAG_PREFIX[0] && mac[1] == TAG_PREFIX[1] {
        Some(u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]]))
    } else {
        None
    }
}
