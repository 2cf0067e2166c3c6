//! Every difference that is meant, with its reason. The same list stands in ARCHITECTURE.md, and a test compares them.

macro_rules! rules {
    ($( $variant:ident = $name:literal, $netfilter:literal, $ours:literal; )*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Rule { $( $variant ),* }

        impl Rule {
            pub const ALL: &'static [Self] = &[ $( Self::$variant ),* ];
            pub fn name(self) -> &'static str { match self { $( Self::$variant => $name ),* } }
            pub fn netfilter(self) -> &'static str { match self { $( Self::$variant => $netfilter ),* } }
            pub fn ours(self) -> &'static str { match self { $( Self::$variant => $ours ),* } }
        }
    };
}

rules! {
    EchoToService = "echo_to_service",
        "kube-proxy's rules refuse an echo to a Service address",
        "it is answered: the address lives, and ping is the first thing that people try";
    MidStream = "mid_stream",
        "a TCP segment from the middle of an unknown connection to a Service is given an endpoint",
        "the Service's address resets it: the connection was some endpoint's, another one could do no more";
    Damaged = "damaged",
        "a wrong transport checksum is noticed while tracking, the packet dropped",
        "passed on as damaged as it came, for its receiver to drop: summing every payload is what the incremental checksum avoids";
    AnswerSource = "answer_source",
        "an ICMP error comes from the interface's address, or from the Service's once the connection is known",
        "refusals come from the Service's address, which refuses; a router's errors from the node's";
    AnswerHeader = "answer_header",
        "an ICMP error has an identification and mirrors three bits of the packet's class",
        "it is an atomic datagram (RFC 6864) of class CS6 (RFC 1812 section 4.3.2.5)";
    AnswerQuote = "answer_quote",
        "an ICMP error quotes the packet one hop later, the first of a connection with the endpoint's address",
        "it quotes the packet as its sender sent it, byte for byte";
    RouterFirst = "router_first",
        "the router looks at hops and length before it filters, and answers what it would have dropped",
        "what is dropped or refused is not answered by the router as well";
    ParameterProblem = "parameter_problem",
        "wrong options and extension headers are answered with a parameter problem",
        "dropped by name: a packet that makes no sense has no sender worth answering";
    Reset = "reset",
        "a segment that starts nothing, to a Service that refuses, is invalid and dropped",
        "a closed port resets whatever it gets (RFC 9293 section 3.10.7.1)";
    RouterShown = "router_shown",
        "an ICMP error of a router on the way is given the address of the translated host",
        "a router on the way shows itself (RFC 5508 section 4.2): traceroute works, only the host hides";
    OtherProtocol = "other_protocol",
        "protocols without ports are tracked by address and forwarded",
        "dropped by name: no Service, policy or translation can speak of them";
    ExtensionHeaders = "extension_headers",
        "routing headers and any number or order of extension headers are forwarded",
        "refused (RFC 5095, RFC 8200 section 4.1): they lead past decisions, or cost without bound";
    IcmpKind = "icmp_kind",
        "source quench and redirects about a known connection are forwarded",
        "dropped by name: the one is obsolete (RFC 6633), the other speaks of one link only";
    Elsewhere = "elsewhere",
        "an ICMP error about a Service's flow that it does not know is invalid and dropped",
        "it goes to the other nodes, one of which may track the flow: routers spread a Service's packets over nodes, and path MTU discovery must not hang on it";
    ShortQuote = "short_quote",
        "four bytes of quoted transport are enough for an ICMP error to be translated",
        "dropped: eight are the least that a router quotes (RFC 792)";
    QuotedChecksum = "quoted_checksum",
        "the checksum of a quoted TCP header is adjusted only if the whole header is there",
        "adjusted wherever it stands";
    OptionsKept = "options_kept",
        "the router writes its address into record route and timestamp options, echoes them in errors, resets nothing that has them, and has blanks for them in every fragment",
        "options pass as they came, in fragments as their copy bit says (RFC 791 section 3.1): the node is no hop that a route could be recorded of";
    Refused = "refused",
        "a reset before the first answer, right or forged, has the connection forgotten at once",
        "a right one is remembered until its timeout, so that what is on its way finds its translation; a forged one is dropped";
    Fragments = "fragments",
        "a datagram is joined, judged whole and cut again",
        "fragments pass as they came, by the first one, which must hold the transport header; errors quote it, nothing else answers a part";
    Authentication = "authentication",
        "rules find no port behind an authentication header, so no Service",
        "it is walked like any other (RFC 4302 section 3.1.1)";
    Sack = "sack",
        "a selective acknowledgment of what was not sent is invalid",
        "they are not read: what they allow beyond the cumulative one, a sender does not use";
    Stale = "stale",
        "segments and resets from behind the window are passed on and change nothing",
        "dropped by name: nobody waits for them (RFC 5961 section 5), and a keep-alive stands nearer";
    Challenged = "challenged",
        "some resets, SYNs and SYN-ACKs that do not belong are invalid and dropped",
        "passed on and without effect: their receiver challenges them (RFC 5961 sections 3 and 4)";
    Misled = "misled",
        "what no honest end sends (a forged SYN, SYN-ACK, FIN or window, a first answer from anywhere) is believed at times",
        "it is believed at other times, so what follows is judged otherwise; connections of honest ends are followed alike";
}
