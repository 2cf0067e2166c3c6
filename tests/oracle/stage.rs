//! Both sides and the scenes that play before them, an event at a time.

use std::collections::HashMap;

use super::conversation::{Conversation, End};
use super::difference::{self, Case, Judgement};
use super::fragments;
use super::frame::{self, Outline};
use super::netfilter::Netfilter;
use super::node::{Fault, Node};
use super::packet::TCP;
use super::rules::Rule;
use super::stimulus::Stimulus;
use super::{Both, NETFILTER, OURS, Out, scene, segments};

pub struct Stage {
    netfilter: Netfilter,
    node: Node,
    fault: Fault,
    seed: u64,
    scenes: HashMap<u64, Scene>,
}

/// What a scene alone needs.
pub const FLOWS_MIN: usize = 1024;
/// Events of a scene, at most.
pub const EVENTS_MAX: u64 = 45;

struct Scene {
    conversations: Vec<Conversation>,
    /// What happened, for people.
    history: Vec<String>,
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nobody had anything to say.
    Idle,
    Played(Fate, Vec<Rule>),
    /// An unexpected difference, and what led to it.
    Wrong {
        headline: String,
        history: String,
    },
}

/// What netfilter did with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Out,
    Dropped,
}

impl Stage {
    /// `name` tells stages of one process apart; `fault` is done to what comes out on our side.
    pub fn new(name: &str, seed: u64, fault: Fault) -> Self {
        let node = Node::new(seed, FLOWS_MIN, fault);
        Self { netfilter: Netfilter::build(name), node, fault, seed, scenes: HashMap::new() }
    }

    /// Both sides forget every connection, and scenes begin anew; `flows` fit into our table.
    pub fn forget(&mut self, flows: usize) {
        self.netfilter.forget();
        self.node = Node::new(self.seed, flows, self.fault);
        self.scenes.clear();
    }

    /// Ends a scene.
    pub fn leave(&mut self, scene: u64) {
        self.scenes.remove(&scene);
    }

    /// Whether anything is left to compare in a scene.
    pub fn is_over(&self, scene: u64) -> bool {
        self.scenes.get(&scene).is_some_and(|scene| scene.conversations.iter().all(|c| c.is_over))
    }

    /// Conversations of a scene.
    pub fn conversations(&self, scene: u64) -> usize {
        self.scenes.get(&scene).map_or(0, |scene| scene.conversations.len())
    }

    /// Plays event `event` (from 1) of scene `number`.
    pub fn play(&mut self, number: u64, event: u64) -> Step {
        let Self { netfilter, node, seed, scenes, .. } = self;
        let scene = scenes
            .entry(number)
            .or_insert_with(|| Scene { conversations: scene::conversations(*seed, number), history: Vec::new() });
        let mut random = scene::rng(*seed, number, event);
        let who = random.usize(..scene.conversations.len());
        let is_refused = scene.conversations.iter().any(|conversation| conversation.is_refused);
        // Conversations of a scene get in each other's way.
        let others_are_disturbed = scene.conversations.iter().any(|conversation| conversation.is_disturbed);
        let conversation = &mut scene.conversations[who];
        if conversation.is_over {
            return Step::Idle;
        }
        // Different for all datagrams that are on their way at a time.
        let identification = (number * EVENTS_MAX + event) as u32 & 0xffff;
        let Some(stimulus) = Stimulus::next(conversation, identification, &mut random) else { return Step::Idle };

        let mut out: Both<Vec<Out>> = Default::default();
        let mut because = "";
        let whole = [stimulus.frames.clone()];
        let frames = if stimulus.fragments.is_empty() { &whole[..] } else { &stimulus.fragments[..] };
        for frames in frames {
            out[NETFILTER].extend(netfilter.exchange(stimulus.link, &frames[NETFILTER]));
            let ours = node.exchange(stimulus.link, &frames[OURS]);
            out[OURS].extend(ours.out);
            because = ours.because;
        }
        if stimulus.is_first {
            // Errors about the connection before would speak of another one.
            conversation.arrived = Default::default();
        }
        let learnt = match stimulus.from {
            End::Client => conversation.learn(&out, stimulus.is_first),
            End::Server => Ok(()),
        };
        let case = Case::new(conversation, &stimulus, is_refused, &out, because);
        let judgement = match learnt {
            Ok(()) => case.judge(),
            // Forgotten by one side, the tuple is taken anew.
            Err(_) if stimulus.has_authentication() => Judgement::Meant(vec![Rule::Authentication]),
            Err(_) if is_refused => Judgement::Meant(vec![Rule::Refused]),
            Err(_) if others_are_disturbed || case.conversation.is_disturbed => Judgement::Meant(vec![Rule::Misled]),
            Err(what) => Judgement::Wrong(what),
        };
        scene.history.push(told(&case, &judgement));

        let fate = if out[NETFILTER].is_empty() { Fate::Dropped } else { Fate::Out };
        match judgement {
            Judgement::Wrong(headline) => {
                scene.conversations.iter_mut().for_each(|c| c.is_over = true);
                Step::Wrong { headline, history: scene.history.join("\n") }
            }
            Judgement::Same => {
                arrive(conversation, &stimulus, &out);
                Step::Played(fate, Vec::new())
            }
            Judgement::Meant(rules) => {
                let has = |meant: &[Rule]| rules.iter().any(|rule| meant.contains(rule));
                let is_out_of_step = out[NETFILTER].is_empty() != out[OURS].is_empty();
                // What changes no state on either side is not to arrive on one, nor half a datagram.
                let is_void = has(&[Rule::Sack, Rule::Stale, Rule::Challenged]);
                if is_void || has(&[Rule::Fragments]) && !is_out_of_step {
                    return Step::Played(fate, rules);
                }
                if is_out_of_step || has(&[Rule::MidStream, Rule::Refused, Rule::Misled, Rule::Authentication]) {
                    // One side knows another connection than the other.
                    scene.conversations.iter_mut().for_each(|c| c.is_over = true);
                } else {
                    arrive(conversation, &stimulus, &out);
                }
                Step::Played(fate, rules)
            }
        }
    }
}

/// What both sides delivered to the other end arrives there.
fn arrive(conversation: &mut Conversation, stimulus: &Stimulus, out: &Both<Vec<Out>>) {
    let end = stimulus.from.other();
    let Some(host) = conversation.host(end) else { return };
    let address = host.address(conversation.family);
    let out = out.each_ref().map(|out| fragments::joined(out));
    let delivered = |side: usize| {
        let is_for_it = |out: &&Out| out.link == host.link() && frame::destination(&out.frame) == Some(address);
        out[side].iter().find(is_for_it).map(|out| out.frame.clone())
    };
    let [Some(theirs), Some(ours)] = [NETFILTER, OURS].map(delivered) else { return };
    if let Some(outline) = Outline::of(&ours).filter(|outline| outline.protocol == TCP) {
        segments::received(conversation, end, &ours, &outline);
    }
    conversation.arrived_at(end, [theirs, ours]);
}

/// One event for people.
fn told(case: &Case<'_>, judgement: &Judgement) -> String {
    let input = &case.stimulus.frames[OURS];
    let mut text = format!("{} by {:?}: {}", case.stimulus.what, case.stimulus.link, frame::shown(input));
    if *judgement == Judgement::Same {
        let out: Vec<String> =
            case.out[OURS].iter().map(|out| format!("{:?}: {}", out.link, frame::shown(&out.frame))).collect();
        text += &format!(
            "\n    both ({}): {}",
            case.because,
            if out.is_empty() { "nothing".to_owned() } else { out.join("; ") }
        );
        return text;
    }
    text += &format!("\n        {}", frame::hex(input));
    for (name, out) in ["netfilter", "we"].into_iter().zip(&case.out) {
        for out in out {
            text += &format!("\n    {name} {}", difference::shown(out));
        }
        if out.is_empty() {
            text += &format!("\n    {name}: nothing");
        }
    }
    text + &format!("\n    {} because of {}: {judgement:?}", "we", case.because)
}
