//! The judge: whether what came out is the same, differs by a rule, or is wrong.

mod answers;
mod cut;
mod forwarded;
mod silence;

use super::conversation::Conversation;
use super::frame::{self, ETHERNET_BYTES, Outline, is_right, with_aliases, word};
use super::packet::{ICMP, ICMPV6, RST, SYN, TCP};
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

    /// Whether our verdict lets it pass.
    fn is_passed_on(&self) -> bool {
        matches!(self.because, "forward" | "fragment" | "to_cut")
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

    /// Whether the conversation is with a Service, by any of its addresses, or with one that there is not.
    fn asks_service(&self) -> bool {
        let Conversation { server, asked, family, .. } = self.conversation;
        server.is_none_or(|(host, _)| host.address(*family) != asked.0)
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
