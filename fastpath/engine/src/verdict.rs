//! What becomes of a packet. One list of reasons makes the enum, the metric names and the texts for people.

macro_rules! reasons {
    ($(#[$doc:meta])* $enum:ident { $( $variant:ident = $name:literal, $text:literal; )* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $enum { $( #[doc = $text] $variant ),* }

        impl $enum {
            /// Every reason, in the order of its counter.
            pub const ALL: &'static [Self] = &[ $( Self::$variant ),* ];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();
            /// Name in metrics, JSON and `atalho drops`.
            pub const fn name(self) -> &'static str { match self { $( Self::$variant => $name ),* } }
            /// What it means, for people.
            pub const fn text(self) -> &'static str { match self { $( Self::$variant => $text ),* } }
        }
    };
}

reasons! {
    /// Why a packet was dropped, by the engine, a worker or the slow path.
    DropReason {
        TooShort = "too_short", "the frame is shorter than its headers";
        BadVersion = "bad_version", "the IP version does not match the frame's type";
        BadHeaderLength = "bad_header_length", "a header length field points outside the frame";
        BadTotalLength = "bad_total_length", "the IP length is longer than the frame";
        BadChecksum = "bad_checksum", "the IPv4 header checksum is wrong, or that of an ICMP error or SCTP, or IPv6 UDP has none";
        NotIp = "not_ip", "neither IPv4 nor IPv6";
        VlanTagged = "vlan_tagged", "a VLAN-tagged frame";
        UnknownProtocol = "unknown_protocol", "a transport protocol that is not supported";
        ExtensionHeaders = "extension_headers", "IPv6 extension headers beyond the bound, or in another order";
        SourceRouted = "source_routed", "an IPv4 source route option, or an IPv6 routing header that leads on or is of type 0";
        Fragment = "fragment", "a fragment that cannot be answered or followed to a flow: of an ICMP error, or of a datagram that is refused";
        FragmentTiny = "fragment_tiny", "a first fragment without its whole transport header, or a later one that reaches into it";
        FragmentUnaligned = "fragment_unaligned", "a fragment that is empty, or not the last and no multiple of 8 bytes";
        FragmentBeyondEnd = "fragment_beyond_end", "a fragment that reaches beyond the longest datagram";
        FragmentOverlap = "fragment_overlap", "a fragment that overlaps others or contradicts them, and all that follow of its datagram";
        FragmentDuplicate = "fragment_duplicate", "a fragment that came before";
        FragmentTimeout = "fragment_timeout", "a fragment whose first one did not come in time";
        FragmentsFull = "fragments_full", "a fragment that waited for its first one and had to give way, or of a datagram in too many";
        FragmentSctp = "fragment_sctp", "a fragment of SCTP with a translated port, whose checksum cannot be made anew";
        IcmpType = "icmp_type", "an ICMP message that is neither echo nor an error";
        IcmpRedirect = "icmp_redirect", "an ICMP redirect: routes are the kernel's";
        IcmpAboutError = "icmp_about_error", "an ICMP error about an ICMP error";
        IcmpQuote = "icmp_quote", "an ICMP error whose quoted packet cannot be read, or was not sent by the error's destination";
        IcmpUnknownFlow = "icmp_unknown_flow", "an ICMP error or echo reply that belongs to no known flow";
        Martian = "martian", "a source or destination address that must not be on the wire";
        Land = "land", "the source is the destination";
        MulticastSource = "multicast_source", "the source is a multicast address";
        BroadcastSource = "broadcast_source", "the source is the broadcast address of all or of a net on the uplink";
        Broadcast = "broadcast", "to the broadcast address of all or of a net on the uplink";
        WrongSource = "wrong_source", "the source address does not belong to the pod that sent it";
        UnknownPort = "unknown_port", "the frame came from a port that no pod has";
        NoVipPort = "no_vip_port", "an unallocated address of a Service range";
        NoLocalEndpoint = "no_local_endpoint", "policy Local and no endpoint on this node";
        SourceRange = "source_range", "the sender is in none of the Service's loadBalancerSourceRanges";
        NoRoute = "no_route", "a blackhole route, or no route back to the sender";
        NoSourceAddress = "no_source_address", "the node has no address of this family to masquerade with";
        NotForUs = "not_for_us", "addressed to the node but no flow of ours: left to nobody";
        TtlExceededSilently = "ttl_exceeded_silent", "TTL used up on a packet that must not be answered";
        TcpFlags = "tcp_flags", "TCP flags that no segment has together";
        TcpNotSyn = "tcp_not_syn", "a TCP packet of no known connection that cannot start one";
        SctpChunks = "sctp_chunks", "SCTP chunks that do not fit their packet, or must not stand together";
        SctpNotInit = "sctp_not_init", "an SCTP packet of no known association that cannot start one";
        SctpBadTag = "sctp_bad_tag", "an SCTP packet with a verification tag that is not its association's";
        TcpOutOfWindow = "tcp_out_of_window", "a TCP segment outside the window of its connection, or a reset that does not belong to it";
        TcpBadState = "tcp_bad_state", "a TCP segment that the state of its connection does not allow";
        TableFull = "table_full", "no free slot in either bucket of the connection table";
        InsertContention = "insert_contention", "another worker was inserting the same flow and did not finish";
        SnatPortsExhausted = "snat_ports_exhausted", "no free source port toward this destination";
        NextHopGone = "next_hop_gone", "the next hop of an established flow no longer exists";
        TooBig = "too_big", "longer than the egress MTU and not to be answered";
        PuntQueueFull = "punt_queue_full", "the slow path has no free buffer";
        PuntRateLimited = "punt_rate_limited", "the slow path's rate limit for answers";
        SenderRateLimited = "sender_rate_limited", "the slow path's rate limit for answers to one sender";
        NeighbourQueueFull = "neighbour_queue_full", "too many packets wait for a neighbour";
        NeighbourTimeout = "neighbour_timeout", "the neighbour did not answer in time";
        TxRingFull = "tx_ring_full", "the transmit ring stayed full";
        TxNoFrame = "tx_no_frame", "no free frame for an outgoing packet";
        TxPortDown = "tx_port_down", "the port's link is down or its socket is dead";
        RxMultiPiece = "rx_multi_piece", "a frame of several pieces whose content has to be read as a whole";
        SuperPacket = "super_packet", "a frame longer than its port's MTU allows: joined on the way (GRO, LRO) and not one packet";
        SlowPathMalformed = "slow_path_malformed", "the slow path could not build an answer to it";
        LinkLocal = "link_local", "a link-local packet that is not for this node";
        Multicast = "multicast", "multicast is not forwarded, nor a packet to one host in a frame to many";
        CaptureCut = "capture_cut", "a replayed capture has only the beginning of it";
    }
}

reasons! {
    /// Why a packet went to the slow path.
    PuntReason {
        NeighbourUnresolved = "neighbour_unresolved", "the next hop's link address is not known yet";
        EchoToVip = "echo_to_vip", "an echo request to a Service address";
        TtlExceeded = "ttl_exceeded", "TTL or hop limit used up";
        NoEndpoint = "no_endpoint", "the Service has no endpoint: answered with a reset or port unreachable";
        UnknownServicePort = "unknown_service_port", "a port that the Service does not have: answered with a reset or port unreachable";
        NoConnection = "no_connection", "from the middle of a connection to a Service that is not known, or not any more: answered with a reset or an abort";
        Unreachable = "unreachable", "no route to the destination: answered with network unreachable";
        TooBig = "needs_fragmentation", "longer than the egress MTU: answered with fragmentation needed or packet too big";
        ToCut = "to_cut", "longer than the egress MTU and allowed to be cut: sent on in fragments";
        TrackedElsewhere = "tracked_elsewhere", "an ICMP error about a flow of a Service that another node tracks: handed to the other nodes";
        Fragment = "fragment", "a fragment: goes on by its datagram's first one, or waits for it";
    }
}

/// What the engine decided about one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send the (rewritten) frame to the next hop of this index in [`crate::next_hops::NextHops`].
    Forward {
        next_hop: u32,
    },
    /// Give the frame to the slow path: unchanged, but with [`PuntReason::ToCut`] ready to be sent if it were not too long.
    Punt(PuntReason),
    Drop(DropReason),
}

impl DropReason {
    /// The reason with this metric name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.name() == name)
    }
}
