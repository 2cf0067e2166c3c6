//! Makes a finding short: the fewest events of its scene that still show it, alone before both sides.

use super::stage::{FLOWS_MIN, Stage, Step};

/// Replays that one finding may cost.
const REPLAYS_MAX: usize = 200;

/// The history of the shortest run of `events` found that ends in `headline`; `None` if the scene alone does not.
pub fn shortest(stage: &mut Stage, scene: u64, mut events: Vec<u64>, headline: &str) -> Option<String> {
    let mut history = replay(stage, scene, &events, headline)?;
    let mut replays = 1;
    let mut at = 0;
    while at < events.len() && replays < REPLAYS_MAX {
        let mut fewer = events.clone();
        fewer.remove(at);
        replays += 1;
        match replay(stage, scene, &fewer, headline) {
            Some(shorter) => (events, history) = (fewer, shorter),
            None => at += 1,
        }
    }
    Some(history)
}

/// Plays the events alone; the history if they end as they did.
fn replay(stage: &mut Stage, scene: u64, events: &[u64], wanted: &str) -> Option<String> {
    stage.forget(FLOWS_MIN);
    events.iter().find_map(|event| match stage.play(scene, *event) {
        Step::Wrong { headline, history } => (headline == wanted).then_some(history),
        Step::Idle | Step::Played(..) => None,
    })
}
