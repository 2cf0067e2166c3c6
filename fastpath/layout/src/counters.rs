//! What the kernel programs count, per CPU. One list makes the C enum, the Rust enum, the metrics and the texts.

macro_rules! kernel_counters {
    ($( $(#[$doc:meta])* $variant:ident = $name:literal, $text:literal; )*) => {
        /// A counter of the kernel side.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum KernelCounter { $( $(#[$doc])* $variant ),* }

        /// Every counter, in the order of its index.
        pub const KERNEL_COUNTERS: &[KernelCounter] = &[ $( KernelCounter::$variant ),* ];

        impl KernelCounter {
            /// Name in metrics and in C (upper case there).
            pub const fn name(self) -> &'static str { match self { $( Self::$variant => $name ),* } }
            /// What it means, for people.
            pub const fn text(self) -> &'static str { match self { $( Self::$variant => $text ),* } }
        }
    };
}

kernel_counters! {
    UplinkPass = "uplink_pass", "uplink packets that are not ours, left to the node's stack";
    UplinkClaim = "uplink_claim", "uplink packets given to a worker";
    UplinkNoWorker = "uplink_no_worker", "uplink packets that are ours while no worker listens: dropped";
    FunnelClaim = "funnel_claim", "funnel packets given to a worker";
    FunnelNoWorker = "funnel_no_worker", "funnel packets while no worker listens: dropped";
    PodPass = "pod_pass", "pod packets left to the node's stack (ARP, NDP, the node's own address)";
    PodClaim = "pod_claim", "pod packets sent into the funnel";
    PodNotGateway = "pod_not_gateway", "pod frames not addressed to the gateway: dropped";
    PodSpoof = "pod_spoof", "pod packets with another source address than the pod's: dropped";
    PodVlan = "pod_vlan", "VLAN-tagged pod frames: dropped";
    PodPoliced = "pod_policed", "pod packets dropped because their pod had its share of an overloaded worker's queue";
    PodTooBig = "pod_too_big", "pod packets longer than the funnel's MTU: dropped";
    PodUnknownPort = "pod_unknown_port", "pod packets of a port without a record: dropped";
    EgressClaim = "egress_claim", "packets of the node for a pod, the uplink or itself that are ours, sent into the funnel";
    EgressPass = "egress_pass", "packets of the node for a pod, the uplink or itself that are not ours";
    EgressTooBig = "egress_too_big", "packets of the node for its own node ports, longer than the funnel's MTU: dropped";
    DeliverPod = "deliver_pod", "packets delivered to a pod";
    DeliverNode = "deliver_node", "packets delivered to the node's stack through the funnel";
    DeliverDeadPort = "deliver_dead_port", "packets for a pod port that is gone: dropped";
    RedirectFailed = "redirect_failed", "redirects that the kernel refused: dropped";
    Malformed = "malformed", "packets too short for their headers: dropped or left to the stack";
    FragmentClaim = "fragment_claim", "fragments to a node address claimed by their first one";
}
