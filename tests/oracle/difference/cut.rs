//! Datagrams in fragments: each is judged by the first one.

use super::super::frame::{ETHERNET_BYTES, Outline, with_aliases};
use super::super::packet::TCP;
use super::super::rules::Rule;
use super::super::{OURS, Out, fragments};
use super::{Case, is_routers};

impl Case<'_> {
    /// A datagram in fragments: each is judged by the first one, none waits for all.
    pub(super) fn fragments(&self) -> Option<Rule> {
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
}
