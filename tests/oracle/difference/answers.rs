//! What both sides, or one of them, answered themselves.

use super::super::Out;
use super::super::frame::{ETHERNET_BYTES, Outline};
use super::super::rules::Rule;
use super::{Case, is_routers};

impl Case<'_> {
    /// Both sides answered, or one did.
    pub(super) fn answers(&self, theirs: &Out, ours: &Out) -> Option<Vec<Rule>> {
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
}
