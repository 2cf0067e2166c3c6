//! What a group came to, nothing left out, and the figures that are made of it: of the rounds that count.

use serde::Serialize;

use super::groups::Comparison;
use super::site::Measured;
use super::statistics::Spread;
use super::steadiness::Steadiness;

/// What an entry came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EntryRecord {
    pub what: String,
    pub traffic: String,
    pub cores: u32,
    /// Whether its CPU time can be told: what soft interrupts take from an idle core is nobody's.
    pub cpu_is_known: bool,
    /// As fast as it goes, or at the highest rate at which it loses nothing where that is searched for; one a round.
    pub fastest: Vec<Measured>,
    /// At this rate, packets a second.
    pub paced_pps: f64,
    pub paced: Vec<Measured>,
}

/// All rounds of a group, those too that do not count.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupRecord {
    pub name: &'static str,
    pub entries: Vec<EntryRecord>,
    /// Of each round, one beside every pair of entries.
    pub controls: Vec<Vec<Measured>>,
    pub steadiness: Steadiness,
    /// A cache line from the sender's core to the forwarder's, once a round.
    pub handover_ns: Vec<f64>,
}

/// Delivered control packets of a round, millions a second: the median of its controls.
pub fn control_mpps(controls: &[Measured]) -> f64 {
    Spread::of(controls.iter().map(Measured::mpps)).map_or(0.0, |mpps| mpps.median)
}

impl EntryRecord {
    /// CPU nanoseconds of a delivered packet at the bearable rate; a packet of the generator's own costs so much.
    pub fn cpu_ns_per_packet(&self, generating_ns: f64) -> Option<Spread> {
        Spread::of(self.paced.iter().map(|measured| measured.cpu_ns_per_packet(generating_ns)))
            .filter(|_| self.cpu_is_known)
    }

    /// Share of the packets that got lost at the bearable rate.
    pub fn loss(&self) -> Option<Spread> {
        Spread::of(self.paced.iter().map(Measured::loss))
    }
}

impl GroupRecord {
    /// Delivered by an entry in the rounds that count, millions a second.
    pub fn mpps(&self, entry: &EntryRecord) -> Option<Spread> {
        Spread::of(self.steadiness.kept.iter().map(|round| entry.fastest[*round].mpps()))
    }

    /// The control of the rounds that count, millions a second.
    pub fn control(&self) -> Option<Spread> {
        Spread::of(self.steadiness.kept.iter().map(|round| control_mpps(&self.controls[*round])))
    }

    /// CPU nanoseconds of the generator and an XDP program that drops, a packet.
    pub fn generating_ns(&self) -> f64 {
        let each = self.controls.iter().flatten().map(|control| control.cpu_ns() as f64 / control.sent.max(1) as f64);
        Spread::of(each).map_or(0.0, |spread| spread.median)
    }

    /// The ratio of an entry and the best of others, round by round.
    pub fn ratio(&self, comparison: &Comparison) -> Option<Spread> {
        Spread::of_ratios(self.steadiness.kept.iter().map(|round| {
            let mpps = |entry: usize| self.entries[entry].fastest[*round].mpps();
            (mpps(comparison.above), comparison.below.iter().map(|below| mpps(*below)).fold(0.0, f64::max))
        }))
    }
}

impl Measured {
    /// Delivered, millions a second.
    pub fn mpps(&self) -> f64 {
        self.delivered as f64 / self.seconds / 1e6
    }

    /// Share of what was sent.
    pub fn loss(&self) -> f64 {
        1.0 - self.delivered as f64 / self.sent.max(1) as f64
    }

    /// CPU nanoseconds of everything that had a hand in it, the generator included.
    pub fn cpu_ns(&self) -> u64 {
        self.sender_cpu_ns + self.ksoftirqd_cpu_ns + self.forwarder_cpu_ns
    }

    /// CPU nanoseconds of a delivered packet beyond what the generator takes for one that is sent.
    pub fn cpu_ns_per_packet(&self, generating_ns: f64) -> f64 {
        (self.cpu_ns() as f64 - generating_ns * self.sent as f64) / self.delivered.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(sent: u64, delivered: u64, sender: u64, forwarder: u64) -> Measured {
        Measured {
            seconds: 2.0,
            sent,
            delivered,
            sender_cpu_ns: sender,
            ksoftirqd_cpu_ns: 0,
            forwarder_cpu_ns: forwarder,
            softirq_ns: 0,
        }
    }

    #[test]
    fn the_generators_own_cost_is_taken_off_for_every_packet_that_it_sent() {
        // 100 ns of 300 a packet are the generator's; half of them got lost.
        let live = measured(1000, 500, 300_000, 50_000);
        assert_eq!(live.cpu_ns_per_packet(100.0), (350_000.0 - 100_000.0) / 500.0);
        assert_eq!((live.loss(), live.mpps()), (0.5, 250e-6));
    }

    #[test]
    fn nothing_sent_is_no_division_by_zero() {
        let nothing = measured(0, 0, 0, 0);
        assert!(nothing.cpu_ns_per_packet(0.0).is_finite() && nothing.loss().is_finite());
    }

    #[test]
    fn a_ratio_is_taken_against_the_best_rival_of_its_own_round_and_in_rounds_that_count() {
        let entry = |delivered: [u64; 3]| EntryRecord {
            what: String::new(),
            traffic: String::new(),
            cores: 1,
            cpu_is_known: true,
            fastest: delivered.map(|delivered| measured(1000, delivered, 0, 0)).to_vec(),
            paced_pps: 0.0,
            paced: Vec::new(),
        };
        let comparison = Comparison { goal: None, case: String::new(), above: 0, below: vec![1, 2], not_judged: None };
        let controls = [900, 100, 950].map(|delivered| vec![measured(1000, delivered, 0, 0)]);
        let rounds: Vec<f64> = controls.iter().map(|controls| control_mpps(controls)).collect();
        let group = GroupRecord {
            name: "test",
            entries: vec![entry([800, 9000, 400]), entry([200, 1, 100]), entry([100, 1, 200])],
            controls: controls.to_vec(),
            steadiness: Steadiness::of(&rounds, 2),
            handover_ns: Vec::new(),
        };
        let values = group.ratio(&comparison).unwrap();
        assert_eq!((values.high, values.low, values.runs), (3.5, 2.5, 2));
        assert!((group.mpps(&group.entries[0]).unwrap().median - 300e-6).abs() < 1e-9);
        assert!((group.control().unwrap().median - 462.5e-6).abs() < 1e-9);
    }

    #[test]
    fn one_wild_control_within_a_round_does_not_move_it() {
        let controls = [1000, 1010, 20].map(|delivered| measured(2000, delivered, 0, 0));
        assert!((control_mpps(&controls) - 500e-6).abs() < 1e-9);
    }
}
