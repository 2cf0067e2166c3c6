//! The judge: whether what came out is the same, differs by a rule, or is wrong.

use super::cluster::Host;
use super::conversation::Conversation;
use super::frame::{self, ETHERNET_BYTES, Outline, is_right, with_aliases, word};
use super::packet::{ACK, ICMP, ICMPV6, RST, SYN, TCP};
use super::rules::Rule;
use super::stimulus::Stimulus;
use super::{Both, NETFILTER, OURS, Out, fragments};

/// One packet and what both sides made of it, ports alike.
pub struct Case<'c> {
    pub conversation: &'c Conversation,
    pub stimulus: &'c Stimulus,
    /// A reset came before any answer, in this conversation or one that shares its tuple.
    is_refused: bool,
    /// What went in on our side.
    input: Vec<u8>,
    /// What came out, datagrams joined.
    pub out: Both<Vec<Out>>,
    /// Lengths of what came out before that, bytes.
    pieces: Both<Vec<usize>>,
    /// Of our verdict.
    pub because: &'static str,
}

/// What the judge says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    Same,
    /// Different by rules, all of which are meant.
    Meant(Vec<Rule>),
    Wrong(String),
}

impl<'c> Case<'c> {
    pub fn new(
        conversation: &'c Conversation,
        stimulus: &'c Stimulus,
        is_refused: bool,
        out: &Both<Vec<Out>>,
        because: &'static str,
    ) -> Self {
        let alike = |side: usize| {
            let aliases = conversation.aliases(side);
            let alike = |out: &Out| Out { link: out.link, frame: with_aliases(&out.frame, &aliases) };
            // Ports and checksums of a datagram are read when it is whole.
            let mut out: Vec<Out> = fragments::joined(&out[side]).iter().map(alike).collect();
            out.sort_by_key(|out| out.link as usize);
            out
        };
        let input = with_aliases(&stimulus.frames[OURS], &conversation.aliases(OURS));
        let pieces = out.each_ref().map(|out| out.iter().map(|out| out.frame.len()).collect());
        Self { conversation, stimulus, is_refused, input, out: [alike(NETFILTER), alike(OURS)], pieces, because }
    }

    pub fn judge(&self) -> Judgement {
        let [netfilter, ours] = &self.out;
        if is_right(&self.input) && !ours.iter().all(|out| is_right(&out.frame)) {
            return Judgement::Wrong("a right packet leaves with a wrong length or checksum".to_owned());
        }
        if netfilter == ours {
            let is_cut_alike = !self.stimulus.fragments.is_empty() || self.pieces[NETFILTER] == self.pieces[OURS];
            if !is_cut_alike && self.is_ipv4() && !self.options().is_empty() {
                return Judgement::Meant(vec![Rule::OptionsKept]);
            }
            let differently = || Judgement::Wrong(format!("the packet is cut differently: {:?}", self.pieces));
            return if is_cut_alike { Judgement::Same } else { differently() };
        }
        if !self.stimulus.fragments.is_empty()
            && let Some(rule) = self.fragments()
        {
            return Judgement::Meant(vec![rule]);
        }
        if self.stimulus.has_authentication() {
            return Judgement::Meant(vec![Rule::Authentication]);
        }
        let found = match (&netfilter[..], &ours[..]) {
            ([theirs], [ours]) if self.is_answer(theirs) || self.is_answer(ours) => self.answers(theirs, ours),
            ([theirs], [ours]) if theirs.link == ours.link => self.bytes(&theirs.frame, &ours.frame),
            ([theirs], []) => self.silence(theirs),
            ([], [ours]) => self.netfilters_silence(ours),
            _ => None,
        };
        match found {
            Some(rules) => Judgement::Meant(rules),
            None if self.is_refused => Judgement::Meant(vec![Rule::Refused]),
            None => self.tcp().map_or_else(|| Judgement::Wrong(self.headline()), |rule| Judgement::Meant(vec![rule])),
        }
    }

    /// What the two follow differently in a TCP connection: only what no honest end says, or what comes after it.
    fn tcp(&self) -> Option<Rule> {
        let input = Outline::of(&self.input)?;
        if input.quotation(&self.input).is_some() && self.conversation.is_disturbed {
            // About a connection that one of them holds for over.
            return Some(Rule::Misled);
        }
        if input.protocol != TCP {
            return None;
        }
        let [theirs, ours] = &self.out;
        let is_routers_to_answer = ours.iter().any(|ours| is_routers(&ours.frame));
        let is_let_through = theirs.is_empty() && !ours.is_empty() && (self.is_passed_on() || is_routers_to_answer);
        let is_refused = !theirs.is_empty() && matches!(self.because, "tcp_out_of_window" | "tcp_bad_state");
        let flags = *self.input.get(input.transport + 13)?;
        let has_options = self.input.get(input.transport + 12)? >> 4 > 5;
        if is_let_through && has_options && flags & SYN == 0 {
            return Some(Rule::Sack);
        }
        if is_refused && flags & RST != 0 && !self.conversation.has_answer {
            return Some(Rule::Refused);
        }
        match self.stimulus.is_disturbance {
            true if is_let_through && flags & (SYN | RST) != 0 => Some(Rule::Challenged),
            true if is_refused && self.because == "tcp_out_of_window" => Some(Rule::Stale),
            _ if self.conversation.is_disturbed => Some(Rule::Misled),
            _ => None,
        }
    }

    /// In words that are the same for differences of one kind.
    fn headline(&self) -> String {
        let shown = |out: &[Out]| match out {
            [] => "nothing".to_owned(),
            [one] if self.is_answer(one) => {
                format!(
                    "an answer {:?}",
                    Outline::of(&one.frame).map(|o| (o.protocol, one.frame.get(o.transport).copied()))
                )
            }
            [one] => format!("a packet by {:?}", one.link),
            more => format!("{} packets", more.len()),
        };
        let what = self.stimulus.what.split(", ").last().unwrap_or_default();
        let what: String = what.chars().filter(|c| !c.is_ascii_digit()).collect();
        let [netfilter, ours] = &self.out;
        format!("{what}: netfilter gives {}, we give {} ({})", shown(netfilter), shown(ours), self.because)
    }

    /// Whether it was made by the node itself, about the packet that went in.
    fn is_answer(&self, out: &Out) -> bool {
        let (Some(input), Some(answer)) = (Outline::of(&self.input), Outline::of(&out.frame)) else { return false };
        let is_back = out.link == self.stimulus.link && answer.dst == input.src;
        let quotes = || {
            let at = answer.quotation(&out.frame)?;
            Outline::of_packet(out.frame.get(at..)?)
        };
        let is_about_it = quotes().is_some_and(|quoted| quoted.src == input.src && quoted.protocol == input.protocol);
        let flags = |outline: &Outline, frame: &[u8]| frame.get(outline.transport + 13).copied().unwrap_or(0);
        let is_reset = answer.protocol == TCP && answer.src == input.dst && flags(&answer, &out.frame) & RST != 0;
        let is_echo = self.because == "echo_to_vip" && answer.src == input.dst;
        let is_hairpin = matches!(self.because, "forward" | "to_cut") && !is_about_it;
        is_back && !is_hairpin && (is_about_it || is_reset || is_echo)
    }

    /// A datagram in fragments: each is judged by the first one, none waits for all.
    fn fragments(&self) -> Option<Rule> {
        let [theirs, ours] = &self.out;
        let is_refusal = |out: &Out| self.is_answer(out);
        let is_meant = match (&theirs[..], &ours[..]) {
            _ if self.stimulus.is_cut_oddly => true,
            (_, []) if self.because == "fragment_tiny" || self.first_is_tiny() => true,
            // Nothing is made of a part but an error that quotes it.
            ([theirs], []) => is_refusal(theirs),
            // Too long is each by itself, or the whole.
            ([theirs], _) if is_refusal(theirs) && is_routers(&theirs.frame) => true,
            ([theirs], [ours]) => is_refusal(theirs) && self.quotes_fragment(&ours.frame),
            _ => false,
        };
        is_meant.then_some(Rule::Fragments)
    }

    /// Whether the first fragment does not hold the whole TCP header (RFC 7112, for IPv4 as well).
    fn first_is_tiny(&self) -> bool {
        let offset = |input: &Outline| Some(usize::from(self.input.get(input.transport + 12)? >> 4) * 4);
        let Some(input) = Outline::of(&self.input).filter(|input| input.protocol == TCP) else { return false };
        let fragments = self.stimulus.fragments.iter().map(|frames| &frames[OURS]);
        let first_bytes = fragments::first_payload_bytes(fragments);
        first_bytes.zip(offset(&input)).is_some_and(|(bytes, header)| bytes < header)
    }

    /// Whether our ICMP error quotes a fragment as it was sent.
    fn quotes_fragment(&self, answer: &[u8]) -> bool {
        let Some(outline) = Outline::of(answer) else { return false };
        let Some(at) = outline.quotation(answer) else { return false };
        let Some(quoted) = answer.get(at..outline.end) else { return false };
        let aliases = self.conversation.aliases(OURS);
        self.stimulus.fragments.iter().any(|frames| {
            let sent = with_aliases(&frames[OURS], &aliases);
            sent[ETHERNET_BYTES..].starts_with(quoted) || frames[OURS][ETHERNET_BYTES..].starts_with(quoted)
        })
    }

    /// Whether our verdict lets it pass.
    fn is_passed_on(&self) -> bool {
        matches!(self.because, "forward" | "fragment" | "to_cut")
    }

    /// Both sides answered, or one did.
    fn answers(&self, theirs: &Out, ours: &Out) -> Option<Vec<Rule>> {
        if !self.is_answer(theirs) || !self.is_answer(ours) {
            let is_given_away = self.because == "no_connection" && self.is_answer(ours) && self.asks_service();
            return is_given_away.then(|| vec![Rule::MidStream]);
        }
        let (their, our) = (Outline::of(&theirs.frame)?, Outline::of(&ours.frame)?);
        let their_kind = (their.protocol, theirs.frame.get(their.transport..their.transport + 2)?);
        let our_kind = (our.protocol, ours.frame.get(our.transport..our.transport + 2)?);
        if self.because == "echo_to_vip" {
            return self.is_echo_of_input(&ours.frame).then(|| vec![Rule::EchoToService]);
        }
        if our.quotation(&ours.frame).is_some() && !self.quotes_input(&ours.frame, &our) {
            return None;
        }
        if their_kind != our_kind {
            return is_routers(&theirs.frame).then(|| vec![Rule::RouterFirst]);
        }
        let mut rules = Vec::new();
        if their.src != our.src {
            rules.push(Rule::AnswerSource);
        }
        let at = ETHERNET_BYTES;
        let header =
            |frame: &[u8]| if our.src.is_ipv4() { frame[at + 1..at + 9].to_vec() } else { frame[at..at + 8].to_vec() };
        if header(&theirs.frame) != header(&ours.frame) {
            rules.push(Rule::AnswerHeader);
        }
        let quote = |frame: &[u8], outline: &Outline| frame.get(outline.transport + 8..outline.end).map(<[u8]>::to_vec);
        if quote(&theirs.frame, &their)? != quote(&ours.frame, &our)? {
            rules.push(Rule::AnswerQuote);
        }
        // The four bytes between, among them the MTU, are the same; and nobody answers longer than the other.
        let rest = |frame: &[u8], outline: &Outline| {
            frame.get(outline.transport + 4..outline.transport + 8).map(<[u8]>::to_vec)
        };
        let echoed = if self.records_route() { theirs.frame.len().checked_sub(ours.frame.len())? } else { 0 };
        if echoed > 0 {
            rules.push(Rule::OptionsKept);
        }
        let is_same_length = theirs.frame.len() == ours.frame.len() + echoed;
        let is_same = rest(&theirs.frame, &their) == rest(&ours.frame, &our) && is_same_length;
        (is_same && !rules.is_empty()).then_some(rules)
    }

    /// Whether our ICMP error quotes what was sent, as far as it goes.
    fn quotes_input(&self, answer: &[u8], outline: &Outline) -> bool {
        let Some(quoted) = answer.get(outline.transport + 8..outline.end) else { return false };
        self.input.get(ETHERNET_BYTES..).is_some_and(|packet| packet.starts_with(quoted))
    }

    fn is_echo_of_input(&self, answer: &[u8]) -> bool {
        let (Some(input), Some(reply)) = (Outline::of(&self.input), Outline::of(answer)) else { return false };
        let message =
            |frame: &[u8], outline: &Outline| frame.get(outline.transport + 4..outline.end).map(<[u8]>::to_vec);
        reply.src == input.dst
            && reply.dst == input.src
            && matches!(answer.get(reply.transport), Some(0 | 129))
            && message(&self.input, &input) == message(answer, &reply)
    }

    /// Both forwarded it, not alike.
    fn bytes(&self, theirs: &[u8], ours: &[u8]) -> Option<Vec<Rule>> {
        let input = Outline::of(&self.input)?;
        if input.quotation(&self.input).is_some() {
            return self.errors(theirs, ours);
        }
        // Options that routers write into: everything else is the same.
        if self.records_route() {
            let header = ETHERNET_BYTES..input.transport;
            let without = |frame: &[u8]| {
                let mut bytes = frame.to_vec();
                bytes[ETHERNET_BYTES + 20..header.end].fill(0);
                bytes[ETHERNET_BYTES + 10..ETHERNET_BYTES + 12].fill(0);
                bytes
            };
            return (without(theirs) == without(ours)).then(|| vec![Rule::OptionsKept]);
        }
        None
    }

    /// Both forwarded an ICMP error: what may differ is taken out, a rule at a time.
    fn errors(&self, theirs: &[u8], ours: &[u8]) -> Option<Vec<Rule>> {
        let (input, outer) = (Outline::of(&self.input)?, Outline::of(ours)?);
        let is_ipv4 = input.src.is_ipv4();
        let at = outer.quotation(ours)?;
        let inner = Outline::of_packet(ours.get(at..outer.end)?)?;
        let transport = at + inner.transport;
        let mut parts = Vec::new();
        if outer.src == input.src {
            let source = if is_ipv4 { 12..16 } else { 8..24 };
            parts.push((Rule::RouterShown, ETHERNET_BYTES + source.start..ETHERNET_BYTES + source.end));
        }
        if inner.protocol == TCP && outer.end < transport + 20 {
            parts.push((Rule::QuotedChecksum, transport + 16..outer.end));
        }
        if is_ipv4 && inner.transport > 20 {
            // Of a packet that had options when it was quoted: they, and the checksum that covers them.
            parts.push((Rule::OptionsKept, at + 20..transport));
            parts.push((Rule::OptionsKept, at + 10..at + 12));
        }
        let (mut theirs, mut ours) = (theirs.to_vec(), ours.to_vec());
        let mut rules = Vec::new();
        let mut take_out = |rule: Option<Rule>, part: std::ops::Range<usize>| {
            let (Some(a), Some(b)) = (theirs.get_mut(part.clone()), ours.get_mut(part)) else { return };
            if let (Some(rule), true) = (rule, a != b) {
                rules.push(rule);
            }
            a.fill(0);
            b.fill(0);
        };
        for (rule, part) in parts {
            take_out(Some(rule), part);
        }
        // What covers it.
        take_out(None, outer.transport + 2..outer.transport + 4);
        if is_ipv4 {
            take_out(None, ETHERNET_BYTES + 10..ETHERNET_BYTES + 12);
        }
        rules.dedup();
        (theirs == ours && !rules.is_empty()).then_some(rules)
    }

    /// Bytes that an ICMP error quotes behind the IP header.
    fn quoted_bytes(&self) -> Option<usize> {
        let outer = Outline::of(&self.input)?;
        let quotation = self.input.get(outer.quotation(&self.input)?..outer.end)?;
        Some(quotation.len().saturating_sub(Outline::of_packet(quotation)?.transport))
    }

    /// Kinds of the IPv4 options that went in, as far as they can be told.
    fn options(&self) -> Vec<u8> {
        let Some(input) = Outline::of(&self.input) else { return Vec::new() };
        let mut rest = self.input.get(ETHERNET_BYTES + 20..input.transport).unwrap_or_default();
        let mut kinds = Vec::new();
        while let Some(&kind) = rest.first() {
            kinds.push(kind);
            let len = if kind < 2 { 1 } else { rest.get(1).map_or(1, |len| usize::from(*len).max(1)) };
            rest = rest.get(len..).unwrap_or_default();
        }
        kinds
    }

    fn is_ipv4(&self) -> bool {
        self.input.get(ETHERNET_BYTES).is_some_and(|byte| byte >> 4 == 4)
    }

    /// Whether routers write into it (RFC 791 section 3.1).
    fn records_route(&self) -> bool {
        self.is_ipv4() && self.options().iter().any(|kind| matches!(kind, 7 | 68))
    }

    /// Something came out of netfilter and nothing of us.
    fn silence(&self, theirs: &Out) -> Option<Vec<Rule>> {
        if self.is_answer(theirs) {
            if is_routers(&theirs.frame) {
                return Some(vec![Rule::RouterFirst]);
            }
            let outline = Outline::of(&theirs.frame)?;
            if matches!((outline.protocol, theirs.frame.get(outline.transport)?), (ICMP, 12) | (ICMPV6, 4)) {
                let ours = ["bad_header_length", "extension_headers", "source_routed", "bad_total_length"];
                return ours.contains(&self.because).then(|| vec![Rule::ParameterProblem]);
            }
        }
        match self.because {
            // A part of one is not answered.
            "tcp_not_syn" if self.conversation.server.is_some() && self.asks_service() => Some(vec![Rule::MidStream]),
            "unknown_protocol" => Some(vec![Rule::OtherProtocol]),
            "extension_headers" | "source_routed" if !self.is_ipv4() => Some(vec![Rule::ExtensionHeaders]),
            "icmp_quote" if self.quoted_bytes().is_some_and(|bytes| bytes < 8) => Some(vec![Rule::ShortQuote]),
            "icmp_redirect" | "icmp_type" => Some(vec![Rule::IcmpKind]),
            _ => None,
        }
    }

    /// Whether the conversation is with a Service, by any of its addresses, or with one that there is not.
    fn asks_service(&self) -> bool {
        let Conversation { server, asked, family, .. } = self.conversation;
        server.is_none_or(|(host, _)| host.address(*family) != asked.0)
    }

    /// Nothing came out of netfilter and something of us.
    fn netfilters_silence(&self, ours: &Out) -> Option<Vec<Rule>> {
        let input = Outline::of(&self.input)?;
        if self.because == "tracked_elsewhere" {
            let to_node = Outline::of(&ours.frame)?.dst == Host::OtherNode.address(self.conversation.family);
            return to_node.then(|| vec![Rule::Elsewhere]);
        }
        if self.is_answer(ours) && Outline::of(&ours.frame)?.protocol == TCP && is_right(&self.input) {
            let flags = self.input.get(input.transport + 13)? & (SYN | ACK | RST | super::packet::FIN);
            let refuses = matches!(self.because, "no_endpoint" | "unknown_service_port" | "no_connection");
            if refuses && self.records_route() {
                return Some(vec![Rule::OptionsKept]);
            }
            return (refuses && flags != SYN && flags & RST == 0).then(|| vec![Rule::Reset]);
        }
        let is_as_damaged = self.is_passed_on() && !is_right(&ours.frame) || is_routers(&ours.frame);
        if !is_right(&self.input) && is_as_damaged {
            return Some(vec![Rule::Damaged]);
        }
        None
    }
}

/// An error about hops or length.
fn is_routers(frame: &[u8]) -> bool {
    let Some(outline) = Outline::of(frame) else { return false };
    match (outline.protocol, word(frame, outline.transport).map(u16::to_be_bytes)) {
        (ICMP, Some(kind)) => matches!(kind, [11, 0] | [3, 4]),
        (ICMPV6, Some(kind)) => matches!(kind, [3, 0] | [2, 0]),
        _ => false,
    }
}

/// For messages.
pub fn shown(out: &Out) -> String {
    format!("{:?}: {}\n        {}", out.link, frame::shown(&out.frame), frame::hex(&out.frame))
}
