//! The connection table's entry: one per direction, 64 bytes (one cache line) for IPv4, 128 for IPv6.
//!
//! Every field is one 32-bit word. Addresses and ports keep network byte order in memory: word `src` holds the
//! four address bytes as they stand in the packet, word `ports` the source port's two bytes, then the destination's.

/// Entries of one bucket, whose tags fill a cache line. A key has two buckets and goes into the first while that has much room.
pub const SLOTS_PER_BUCKET: usize = 32;
/// Bytes of one tag. Tags of a bucket stand together in an array of their own; 0 means "slot not visible".
pub const TAG_BYTES: usize = 2;

/// A field of a shared structure: byte offset and bytes. `words` > 1 means an array of 32-bit words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    pub offset: usize,
    pub c_type: &'static str,
    /// Number of `c_type` elements; 1 is a plain member.
    pub count: usize,
}

/// A shared structure: its C name, size in bytes and fields in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Struct {
    pub name: &'static str,
    pub size: usize,
    pub fields: &'static [Field],
}

macro_rules! words {
    ($(#[$doc:meta])* $module:ident, $konst:ident, $c_name:literal, $total:literal, { $( $(#[$fdoc:meta])* $name:ident : $count:literal @ $word:literal ),* $(,)? }) => {
        $(#[$doc])*
        pub mod $module {
            $( $(#[$fdoc])* pub const $name: usize = $word; )*
            /// 32-bit words of one entry.
            pub const WORDS: usize = $total;
        }
        $(#[$doc])*
        pub const $konst: Struct = Struct {
            name: $c_name,
            size: $total * 4,
            fields: &[ $( Field { name: stringify!($name), offset: $word * 4, c_type: "__u32", count: $count } ),* ],
        };
    };
}

words! {
    /// Word offsets of an IPv4 entry.
    flow4, FLOW4, "flow4", 16, {
        /// `sequence << 8 | phase`. The sequence grows by one at each publication and each removal.
        CTL: 1 @ 0,
        SRC: 1 @ 1,
        DST: 1 @ 2,
        /// Source port's bytes, then destination port's. ICMP echo: the identifier stands on the requester's side, 0 on the other.
        PORTS: 1 @ 3,
        /// `protocol | direction << 8 | flags << 16`: see [`state`].
        KIND: 1 @ 4,
        NEW_SRC: 1 @ 5,
        NEW_DST: 1 @ 6,
        NEW_PORTS: 1 @ 7,
        /// Index into the next-hop array for packets of this direction.
        NEXT_HOP: 1 @ 8,
        /// Kernel interface index of the port by which packets of this direction come in. While `Dying`: the epoch of
        /// removal. (Not in `TICK`: a late packet of a flow that just ended may still write that one.)
        INGRESS: 1 @ 9,
        /// Slot of the entry of the other direction.
        PEER: 1 @ 10,
        /// Kernel coarse seconds of the last packet of this direction.
        TICK: 1 @ 11,
        /// What this direction has sent, see [`state`]. One writer: the worker of this direction.
        STATE: 1 @ 12,
        /// TCP: sequence number after the last byte sent in this direction (netfilter's td_end).
        /// Other protocols, original direction: kernel coarse seconds of the admission.
        WIN_END: 1 @ 13,
        /// Highest acknowledgment sent in this direction (netfilter's td_maxack); before the first, its initial sequence
        /// number. Plus `WIN_MAX`, scaled, it is where
        /// the other side has to stop: netfilter writes that into the other direction, here each has one writer.
        WIN_ACK: 1 @ 14,
        /// Largest window offered in this direction, as in the header's field, before scaling; the SYN's only until
        /// another segment comes, for it is never scaled.
        WIN_MAX: 1 @ 15,
    }
}

words! {
    /// Word offsets of an IPv6 entry; meanings as in [`flow4`].
    flow6, FLOW6, "flow6", 32, {
        CTL: 1 @ 0,
        SRC: 4 @ 1,
        DST: 4 @ 5,
        PORTS: 1 @ 9,
        KIND: 1 @ 10,
        TICK: 1 @ 11,
        STATE: 1 @ 12,
        WIN_END: 1 @ 13,
        WIN_ACK: 1 @ 14,
        WIN_MAX: 1 @ 15,
        NEW_SRC: 4 @ 16,
        NEW_DST: 4 @ 20,
        NEW_PORTS: 1 @ 24,
        NEXT_HOP: 1 @ 25,
        INGRESS: 1 @ 26,
        PEER: 1 @ 27,
        RESERVED: 4 @ 28,
    }
}

/// Bits of the words `KIND` and `STATE`.
pub mod state {
    /// `KIND`: this entry is the reply direction.
    pub const KIND_REPLY: u32 = 1 << 8;
    /// `KIND`: source address or port is rewritten.
    pub const KIND_SNAT: u32 = 1 << 16;
    /// `KIND`: destination address or port is rewritten.
    pub const KIND_DNAT: u32 = 1 << 17;
    /// `KIND`: the connection was admitted through a Service.
    pub const KIND_SERVICE: u32 = 1 << 18;

    /// `STATE`: a packet of this direction was seen.
    pub const SEEN: u32 = 1 << 0;
    /// `STATE`: this direction sent SYN.
    pub const SYN: u32 = 1 << 1;
    /// `STATE`: this direction sent FIN.
    pub const FIN: u32 = 1 << 2;
    /// `STATE`: this direction sent RST.
    pub const RST: u32 = 1 << 3;
    /// `STATE`: this direction has acknowledged something.
    pub const ACKED: u32 = 1 << 4;
    /// `STATE`: this direction has sent a segment without SYN, so its window counts in units of the scale.
    pub const PLAIN: u32 = 1 << 5;
    /// `STATE`: the window scale option was offered; its shift stands in bits 8..12.
    pub const WSCALE: u32 = 1 << 6;
    /// `STATE`: first bit of the window scale's shift count (4 bits, RFC 7323 section 2.2).
    pub const WSCALE_SHIFT: u32 = 8;
    /// `STATE`: how many segments in a row brought nothing new, at most 3.
    pub const REPEATS: u32 = 3 << REPEATS_SHIFT;
    /// `STATE`: first bit of that number.
    pub const REPEATS_SHIFT: u32 = 12;
    /// `STATE`: this direction's last segment was a SYN that belongs to no connection that was seen and was let through:
    /// the other side will know. The low half of its sequence number stands in bits 16..32.
    pub const AGAIN: u32 = 1 << 14;
    /// `STATE`: first bit of that half.
    pub const AGAIN_SHIFT: u32 = 16;
}

/// Bits of the word `STATE` of an SCTP direction beside [`state::SEEN`]: the chunks that it has sent (RFC 9260 section
/// 3.2). Its `WIN_ACK` is the first initiate tag that it announced, `WIN_MAX` a later one.
pub mod sctp {
    pub const INIT: u32 = 1 << 16;
    pub const INIT_ACK: u32 = 1 << 17;
    pub const COOKIE_ECHO: u32 = 1 << 18;
    pub const COOKIE_ACK: u32 = 1 << 19;
    pub const SHUTDOWN: u32 = 1 << 20;
    pub const SHUTDOWN_ACK: u32 = 1 << 21;
    pub const SHUTDOWN_COMPLETE: u32 = 1 << 22;
    pub const ABORT: u32 = 1 << 23;
    pub const HEARTBEAT: u32 = 1 << 24;
    pub const HEARTBEAT_ACK: u32 = 1 << 25;
}

/// Phase of a slot, the low byte of `CTL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Nothing in it.
    Free = 0,
    /// A worker fills it; nobody else reads it.
    Claimed = 1,
    /// Its key may be read by inserters that look for a duplicate; it does not forward yet.
    Tentative = 2,
    /// Published: readers may use it.
    Live = 3,
    /// Removed; reused only after every worker and the kernel have passed a grace period.
    Dying = 4,
}

impl Phase {
    /// The phase in a `CTL` word; an unknown value reads as `Claimed`, which repair frees.
    pub const fn of(ctl: u32) -> Self {
        match ctl as u8 {
            0 => Self::Free,
            2 => Self::Tentative,
            3 => Self::Live,
            4 => Self::Dying,
            _ => Self::Claimed,
        }
    }
}
