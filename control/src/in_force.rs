//! What the kernel side has in force, and the steps from there to what the tables want: additions before the tables are
//! swapped, removals after, so that nothing of ours is ever left to the node's stack in between. A step that fails is
//! tried again with the next comparison.

use std::collections::{BTreeMap, BTreeSet};

use atalho_layout::{ClaimKey, ClaimKind, LpmKey, PortRecord};

use crate::dataplane::Dataplane;

/// What must be in force.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub claims: &'a BTreeMap<ClaimKey, ClaimKind>,
    pub ranges: &'a BTreeSet<LpmKey>,
    pub pods: &'a BTreeMap<u32, PortRecord>,
}

/// What is in force, as far as we know.
#[derive(Debug, Default)]
pub struct InForce {
    claims: BTreeMap<ClaimKey, ClaimKind>,
    ranges: BTreeSet<LpmKey>,
    pods: BTreeMap<u32, PortRecord>,
}

impl InForce {
    /// What a daemon before us left.
    pub fn adopt(dataplane: &mut dyn Dataplane) -> Result<Self, String> {
        let found = dataplane.current()?;
        Ok(Self {
            claims: found.claims.into_iter().collect(),
            ranges: found.ranges.into_iter().collect(),
            pods: found.pods.into_iter().collect(),
        })
    }

    /// Adds and changes what is missing of `wanted`. `claims`: the claims to look at; `None` compares all of them.
    /// Returns what failed.
    pub fn add(
        &mut self,
        wanted: Wanted,
        claims: Option<&[(ClaimKey, ClaimKind)]>,
        dataplane: &mut dyn Dataplane,
    ) -> Vec<String> {
        let mut failed = Vec::new();
        for (ifindex, record) in wanted.pods {
            if self.pods.get(ifindex) != Some(record) {
                match dataplane.attach_pod(*ifindex, *record) {
                    Ok(()) => {
                        self.pods.insert(*ifindex, *record);
                    }
                    Err(why) => failed.push(format!("taking the pod port of interface {ifindex}: {why}")),
                }
            }
        }
        for range in wanted.ranges.difference(&self.ranges.clone()) {
            match dataplane.claim_range(*range) {
                Ok(()) => {
                    self.ranges.insert(*range);
                }
                Err(why) => failed.push(format!("claiming the Service range {}: {why}", range_text(range))),
            }
        }
        let mut claim = |key: &ClaimKey, kind: &ClaimKind| {
            if self.claims.get(key) != Some(kind) {
                match dataplane.claim(*key, *kind) {
                    Ok(()) => {
                        self.claims.insert(*key, *kind);
                    }
                    Err(why) => failed.push(format!("claiming {}: {why}", claim_text(key))),
                }
            }
        };
        match claims {
            Some(some) => some.iter().for_each(|(key, kind)| claim(key, kind)),
            None => wanted.claims.iter().for_each(|(key, kind)| claim(key, kind)),
        }
        failed
    }

    /// Removes what `wanted` no longer has. `claims` as in [`InForce::add`].
    pub fn remove(
        &mut self,
        wanted: Wanted,
        claims: Option<&[ClaimKey]>,
        dataplane: &mut dyn Dataplane,
    ) -> Vec<String> {
        let mut failed = Vec::new();
        let gone: Vec<ClaimKey> = match claims {
            Some(some) => some.iter().filter(|key| self.claims.contains_key(*key)).copied().collect(),
            None => self.claims.keys().filter(|key| !wanted.claims.contains_key(*key)).copied().collect(),
        };
        for key in gone {
            match dataplane.unclaim(key) {
                Ok(()) => {
                    self.claims.remove(&key);
                }
                Err(why) => failed.push(format!("giving up {}: {why}", claim_text(&key))),
            }
        }
        let gone: Vec<LpmKey> = self.ranges.difference(wanted.ranges).copied().collect();
        for range in gone {
            match dataplane.unclaim_range(range) {
                Ok(()) => {
                    self.ranges.remove(&range);
                }
                Err(why) => failed.push(format!("giving up the Service range {}: {why}", range_text(&range))),
            }
        }
        let gone: Vec<u32> = self.pods.keys().filter(|ifindex| !wanted.pods.contains_key(*ifindex)).copied().collect();
        for ifindex in gone {
            match dataplane.detach_pod(ifindex) {
                Ok(()) => {
                    self.pods.remove(&ifindex);
                }
                Err(why) => failed.push(format!("giving up the pod port of interface {ifindex}: {why}")),
            }
        }
        failed
    }
}

fn claim_text(key: &ClaimKey) -> String {
    let address = atalho_engine::flow::unmapped(key.addr);
    match u16::from_be_bytes(key.port) {
        0 => address.to_string(),
        port => format!("{address} port {port} protocol {}", key.protocol),
    }
}

fn range_text(range: &LpmKey) -> String {
    let address = atalho_engine::flow::unmapped(range.addr);
    let bits = if address.is_ipv4() { range.prefix_len.saturating_sub(96) } else { range.prefix_len };
    format!("{address}/{bits}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane;

    /// A kernel side in memory that writes down each step, and refuses one claim while told to.
    #[derive(Default)]
    struct Memory {
        held: dataplane::InForce,
        steps: Vec<String>,
        refuses: Option<ClaimKey>,
    }

    impl Dataplane for Memory {
        fn claim(&mut self, key: ClaimKey, kind: ClaimKind) -> Result<(), String> {
            if self.refuses == Some(key) {
                return Err("the map is full".into());
            }
            self.steps.push(format!("claim {} {kind:?}", claim_text(&key)));
            Ok(())
        }
        fn unclaim(&mut self, key: ClaimKey) -> Result<(), String> {
            self.steps.push(format!("unclaim {}", claim_text(&key)));
            Ok(())
        }
        fn claim_range(&mut self, key: LpmKey) -> Result<(), String> {
            self.steps.push(format!("claim {}", range_text(&key)));
            Ok(())
        }
        fn unclaim_range(&mut self, key: LpmKey) -> Result<(), String> {
            self.steps.push(format!("unclaim {}", range_text(&key)));
            Ok(())
        }
        fn attach_pod(&mut self, ifindex: u32, _: PortRecord) -> Result<(), String> {
            self.steps.push(format!("attach {ifindex}"));
            Ok(())
        }
        fn detach_pod(&mut self, ifindex: u32) -> Result<(), String> {
            self.steps.push(format!("detach {ifindex}"));
            Ok(())
        }
        fn current(&mut self) -> Result<dataplane::InForce, String> {
            Ok(self.held.clone())
        }
        fn kernel_counters(&mut self) -> Result<Vec<u64>, String> {
            Ok(Vec::new())
        }
        fn pod_drops(&mut self) -> Result<Vec<(u32, atalho_layout::KernelCounter, u64)>, String> {
            Ok(Vec::new())
        }
        fn keep_offloads(&mut self) -> Result<Vec<String>, String> {
            Ok(Vec::new())
        }
    }

    fn vip(last: u8) -> ClaimKey {
        ClaimKey { addr: atalho_engine::flow::mapped([10, 96, 0, last].into()), ..Default::default() }
    }

    fn range() -> LpmKey {
        LpmKey { prefix_len: 96 + 12, addr: atalho_engine::flow::mapped([10, 96, 0, 0].into()) }
    }

    #[test]
    fn what_an_earlier_daemon_left_is_kept_changed_or_given_up() {
        let mut kernel = Memory::default();
        kernel.held.claims = vec![(vip(1), ClaimKind::Vip), (vip(2), ClaimKind::Vip)];
        kernel.held.pods = vec![(7, PortRecord::default()), (8, PortRecord::default())];
        let mut in_force = InForce::adopt(&mut kernel).unwrap();
        let claims = BTreeMap::from([(vip(1), ClaimKind::Vip), (vip(3), ClaimKind::Vip)]);
        let ranges = BTreeSet::from([range()]);
        let changed = PortRecord { pod_mac: [2, 0, 0, 0, 0, 1], ..Default::default() };
        let pods = BTreeMap::from([(8, changed)]);
        let wanted = Wanted { claims: &claims, ranges: &ranges, pods: &pods };
        assert!(in_force.add(wanted, None, &mut kernel).is_empty());
        assert_eq!(kernel.steps, ["attach 8", "claim 10.96.0.0/12", "claim 10.96.0.3 Vip"]);
        kernel.steps.clear();
        assert!(in_force.remove(wanted, None, &mut kernel).is_empty());
        assert_eq!(kernel.steps, ["unclaim 10.96.0.2", "detach 7"]);
        kernel.steps.clear();
        assert!(in_force.add(wanted, None, &mut kernel).is_empty());
        assert!(in_force.remove(wanted, None, &mut kernel).is_empty());
        assert!(kernel.steps.is_empty(), "nothing is written twice");
    }

    #[test]
    fn a_refused_step_is_told_and_tried_again() {
        let mut kernel = Memory { refuses: Some(vip(1)), ..Default::default() };
        let mut in_force = InForce::default();
        let claims = BTreeMap::from([(vip(1), ClaimKind::Vip), (vip(2), ClaimKind::Vip)]);
        let wanted = Wanted { claims: &claims, ranges: &BTreeSet::new(), pods: &BTreeMap::new() };
        assert_eq!(in_force.add(wanted, None, &mut kernel), ["claiming 10.96.0.1: the map is full"]);
        kernel.refuses = None;
        assert!(in_force.add(wanted, None, &mut kernel).is_empty());
        assert_eq!(kernel.steps, ["claim 10.96.0.2 Vip", "claim 10.96.0.1 Vip"]);
    }
}
