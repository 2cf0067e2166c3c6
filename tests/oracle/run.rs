//! The run: scenes side by side, until enough packets have been sent; then the figures, or what was wrong.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::rules::Rule;
use super::stage::{EVENTS_MAX, Fate, Stage, Step};
use super::{scene, shrink};

/// Scenes that play at once.
const SCENES: usize = 16;
/// Packets after which both sides forget, so that tables stay small and client ports do not run out.
const ROUND_PACKETS: u64 = 50_000;
const FLOWS: usize = 16_384;
/// Kinds of differences that are shrunk and shown.
const SHOWN_MAX: usize = 8;

/// What a run was.
#[derive(Debug, Default)]
pub struct Figures {
    pub packets: u64,
    pub conversations: u64,
    /// Netfilter put something out.
    pub out: u64,
    pub dropped: u64,
    pub rules: BTreeMap<Rule, u64>,
    /// Unexpected differences by kind: how many, and the first of them.
    pub wrong: BTreeMap<String, (u64, Finding)>,
}

/// Where an unexpected difference was met.
#[derive(Debug, Clone)]
pub struct Finding {
    pub scene: u64,
    pub events: Vec<u64>,
    pub history: String,
}

/// A scene while it plays.
struct Playing {
    scene: u64,
    /// Events played.
    events: Vec<u64>,
    last_event: u64,
}

/// Sends `packets` on `stage`, drawn from `seed`.
pub fn run(stage: &mut Stage, seed: u64, packets: u64) -> Figures {
    let mut figures = Figures::default();
    let mut order = fastrand::Rng::with_seed(seed);
    let mut scenes = 0..;
    while figures.packets < packets {
        stage.forget(FLOWS);
        let until = packets.min(figures.packets + ROUND_PACKETS);
        let mut playing: Vec<Playing> = Vec::new();
        while figures.packets < until {
            while playing.len() < SCENES {
                let scene = scenes.next().expect("numbers without end");
                let last_event = scene::rng(seed, scene, u64::MAX).u64(3..EVENTS_MAX);
                playing.push(Playing { scene, events: Vec::new(), last_event });
            }
            let at = order.usize(..playing.len());
            let now = &mut playing[at];
            let event = now.events.len() as u64 + 1;
            now.events.push(event);
            let step = stage.play(now.scene, event);
            figures.take(now, step);
            if event >= now.last_event || stage.is_over(now.scene) {
                figures.conversations += stage.conversations(now.scene) as u64;
                stage.leave(now.scene);
                playing.swap_remove(at);
            }
        }
    }
    figures
}

impl Figures {
    fn take(&mut self, now: &Playing, step: Step) {
        match step {
            Step::Idle => {}
            Step::Played(fate, rules) => {
                self.packets += 1;
                match fate {
                    Fate::Out => self.out += 1,
                    Fate::Dropped => self.dropped += 1,
                }
                for rule in rules {
                    *self.rules.entry(rule).or_default() += 1;
                }
            }
            Step::Wrong { headline, history } => {
                self.packets += 1;
                let finding = || Finding { scene: now.scene, events: now.events.clone(), history };
                self.wrong.entry(headline).or_insert_with(|| (0, finding())).0 += 1;
            }
        }
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{} packets of {} conversations: {} put out by netfilter, {} dropped\n",
            self.packets, self.conversations, self.out, self.dropped
        );
        for rule in Rule::ALL {
            let count = self.rules.get(rule).copied().unwrap_or(0);
            let _ =
                writeln!(text, "{count:>8} {:<18} netfilter: {}; here: {}", rule.name(), rule.netfilter(), rule.ours());
        }
        text
    }

    /// Every kind of unexpected difference, the first ones shrunk; `None`: there is none.
    pub fn complaint(&self, stage: &mut Stage) -> Option<String> {
        if self.wrong.is_empty() {
            return None;
        }
        let mut kinds: Vec<_> = self.wrong.iter().collect();
        kinds.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        let mut text = String::new();
        for (headline, (count, _)) in &kinds {
            let _ = writeln!(text, "{count:>6} {headline}");
        }
        for (headline, (_, finding)) in kinds.into_iter().take(SHOWN_MAX) {
            let shortest = shrink::shortest(stage, finding.scene, finding.events.clone(), headline);
            let (how, history) = match &shortest {
                Some(history) => ("shrunk", history),
                None => ("only among other scenes", &finding.history),
            };
            let _ = writeln!(text, "\n==== {headline}\nscene {}, {how}:\n{history}", finding.scene);
        }
        Some(text)
    }
}
