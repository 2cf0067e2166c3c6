//! What came out of one side alone.

use super::super::Out;
use super::super::cluster::Host;
use super::super::frame::{Outline, is_right};
use super::super::packet::{ACK, FIN, ICMP, ICMPV6, RST, SYN, TCP};
use super::super::rules::Rule;
use super::{Case, is_routers};

impl Case<'_> {
    /// Something came out of netfilter and nothing of us.
    pub(super) fn silence(&self, theirs: &Out) -> Option<Vec<Rule>> {
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

    /// Nothing came out of netfilter and something of us.
    pub(super) fn netfilters_silence(&self, ours: &Out) -> Option<Vec<Rule>> {
        let input = Outline::of(&self.input)?;
        if self.because == "tracked_elsewhere" {
            let to_node = Outline::of(&ours.frame)?.dst == Host::OtherNode.address(self.conversation.family);
            return to_node.then(|| vec![Rule::Elsewhere]);
        }
        if self.is_answer(ours) && Outline::of(&ours.frame)?.protocol == TCP && is_right(&self.input) {
            let flags = self.input.get(input.transport + 13)? & (SYN | ACK | RST | FIN);
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

    /// Bytes that an ICMP error quotes behind the IP header.
    fn quoted_bytes(&self) -> Option<usize> {
        let outer = Outline::of(&self.input)?;
        let quotation = self.input.get(outer.quotation(&self.input)?..outer.end)?;
        Some(quotation.len().saturating_sub(Outline::of_packet(quotation)?.transport))
    }
}
