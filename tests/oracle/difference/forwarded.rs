//! What both sides forwarded, not alike.

use super::super::frame::{ETHERNET_BYTES, Outline};
use super::super::packet::TCP;
use super::super::rules::Rule;
use super::Case;

impl Case<'_> {
    /// Both forwarded it, not alike.
    pub(super) fn bytes(&self, theirs: &[u8], ours: &[u8]) -> Option<Vec<Rule>> {
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
}
