//! What to do about a drop. A new reason does not compile before it has its line here.

use atalho_engine::verdict::DropReason;
use atalho_layout::KernelCounter;

use crate::report::XdpCounts;

const SENDER: &str = "find who sends it: `atalho run --capture FILE` keeps what comes in";
const FRAGMENTS: &str =
    "have the sender send packets that fit (path MTU discovery), or look for the link that loses or repeats fragments";
const OVERLOAD: &str = "if it grows: give the node more workers ([worker] count, and as many queues), or less to do";
const NOTHING: &str = "nothing: this is how it is meant";
const AN_OLD_FLOW: &str =
    "normal after a flow timed out; if it grows, an answer takes another way than its request: compare the routes";

/// For people.
pub(super) const fn of(reason: DropReason) -> &'static str {
    use DropReason as D;
    match reason {
        D::TooShort | D::BadVersion | D::BadHeaderLength | D::BadTotalLength | D::NotIp | D::UnknownProtocol => SENDER,
        D::ExtensionHeaders | D::SourceRouted | D::TcpFlags | D::SctpChunks | D::Land | D::MulticastSource => SENDER,
        D::BadChecksum => {
            "look for a link or driver that damages packets, or offloads that leave sums unfinished (`atalho check`)"
        }
        D::VlanTagged => "take the tag off before this node (an access port of the switch); VLANs are not served",
        D::Fragment
        | D::FragmentTiny
        | D::FragmentUnaligned
        | D::FragmentBeyondEnd
        | D::FragmentOverlap
        | D::FragmentDuplicate
        | D::FragmentTimeout
        | D::FragmentsFull
        | D::FragmentSctp => FRAGMENTS,
        D::IcmpType | D::IcmpRedirect | D::IcmpAboutError | D::IcmpQuote => NOTHING,
        D::IcmpUnknownFlow => AN_OLD_FLOW,
        D::Martian | D::BroadcastSource | D::Broadcast | D::LinkLocal | D::Multicast => NOTHING,
        D::WrongSource => "look into the pod: it sends with an address that is not its own",
        D::UnknownPort => "if it grows: `atalho status` says which pod's port is not to be found",
        D::NoVipPort => "look for who asks for a Service that was deleted: `atalho svc` lists those that are there",
        D::NoLocalEndpoint => {
            "have the load balancer ask the health-check node port, or place a pod here; `atalho svc NAME` shows its endpoints"
        }
        D::SourceRange => {
            "nothing, if the client is not meant to: loadBalancerSourceRanges leaves it out (`atalho svc NAME`)"
        }
        D::NoRoute => "look at the node's routes: `ip route get ADDRESS` says which one it is",
        D::NoSourceAddress => "give the node an address of this family, or name it in [node] addresses",
        D::NotForUs => NOTHING,
        D::TtlExceededSilently => "look for a routing loop",
        D::TcpNotSyn | D::SctpNotInit => AN_OLD_FLOW,
        D::SctpBadTag | D::TcpOutOfWindow | D::TcpBadState => {
            "a few are late or repeated packets; if it grows, somebody guesses, or an answer takes another way than its request"
        }
        D::TableFull => "raise [conntrack] max_flows, or find who opens so many: `atalho flows --state SYN_SENT`",
        D::InsertContention => "nothing: the sender's next try is let in",
        D::SnatPortsExhausted => "find who opens so many to one destination: `atalho flows --address ADDRESS`",
        D::NextHopGone => "nothing: the pod or neighbour is gone, and its flows end",
        D::TooBig => "look for a link with a smaller MTU than its neighbours",
        D::PuntQueueFull => OVERLOAD,
        D::PuntRateLimited | D::SenderRateLimited => {
            "nothing: answers to errors are bounded; who sends so many is seen in a capture"
        }
        D::NeighbourQueueFull | D::NeighbourTimeout => {
            "see whether the neighbour is up: `atalho status` and `ip neighbour` name it"
        }
        D::TxRingFull | D::TxNoFrame => OVERLOAD,
        D::TxPortDown => "see whether the link is up: `ip link`",
        D::RxMultiPiece => "nothing, if rare: such a packet is refused in frames of several pieces",
        D::SuperPacket => "turn GRO and LRO off on the uplink (`ethtool -K`); `atalho check` names what is on",
        D::SlowPathMalformed => SENDER,
        D::CaptureCut => "capture with a greater snapshot length",
    }
}

/// `None`: this one counts no drops.
pub(super) const fn of_kernel(counter: KernelCounter) -> Option<&'static str> {
    use KernelCounter as K;
    Some(match counter {
        K::UplinkNoWorker | K::FunnelNoWorker => {
            "nothing, while the daemon starts or is replaced; else see whether it runs: `atalho status`"
        }
        K::PodNotGateway => "look into the pod: it sends to a link address that is not its gateway's",
        K::PodSpoof => "look into the pod: it sends with an address that is not its own",
        K::PodVlan => "look into the pod: it tags its frames, which pods may not",
        K::PodPoliced => {
            "the pods named below send more than their share of a busy node; give it more workers, or them less"
        }
        K::PodTooBig => "set the pod's MTU to the funnel's or less: `ip link` in both",
        K::EgressTooBig => "have the process send shorter datagrams: a node port takes what the funnel's MTU allows",
        K::PodUnknownPort => "if it grows: `atalho status` says which pod's port is not to be found",
        K::DeliverDeadPort => "nothing: the pod is gone",
        K::RedirectFailed => "see whether the pods' and the uplink's links are up: `ip link`",
        K::Malformed => SENDER,
        K::UplinkPass
        | K::UplinkClaim
        | K::FunnelClaim
        | K::PodPass
        | K::PodClaim
        | K::EgressClaim
        | K::EgressPass
        | K::DeliverPod
        | K::DeliverNode
        | K::FragmentClaim => return None,
    })
}

/// Reason, packets, what it means, what to do.
pub(super) const fn of_socket(counts: &XdpCounts) -> [(&'static str, u64, &'static str, &'static str); 5] {
    const DAMAGED: &str = "report it with this output: a descriptor should never be wrong";
    [
        ("rx_ring_full", counts.rx_ring_full, "the worker did not keep up", OVERLOAD),
        ("rx_fill_ring_empty_descs", counts.rx_fill_ring_empty_descs, "no frame was free to receive into", OVERLOAD),
        ("rx_dropped", counts.rx_dropped, "the kernel had no room or did not want it", OVERLOAD),
        ("rx_invalid_descs", counts.rx_invalid_descs, "a received descriptor was wrong", DAMAGED),
        ("tx_invalid_descs", counts.tx_invalid_descs, "a sent descriptor was wrong", DAMAGED),
    ]
}
