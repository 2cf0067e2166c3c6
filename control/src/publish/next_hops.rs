//! The array of next hops: written before the tables that point into it, cleared after them.

use super::Publisher;
use crate::compile::Compiled;

impl Publisher {
    /// Writes the next hops that differ.
    pub(super) fn write_next_hops(&mut self, compiled: &Compiled) -> Vec<String> {
        let mut failed = Vec::new();
        let capacity = self.parts.next_hops.capacity() as u32;
        for (index, hop) in &compiled.next_hops {
            if *index >= capacity {
                failed.push(format!(
                    "next hop {index}: the array has room for {capacity}; packets by it are dropped as next_hop_gone"
                ));
                continue;
            }
            if self.parts.next_hops.get(*index) != Some(*hop) {
                self.parts.next_hops.set_identity(*index, self.indexes.identity(*index));
                self.parts.next_hops.set(*index, hop);
            }
            self.written.insert(*index);
        }
        failed
    }

    /// Clears the next hops that this run wrote and that nothing wants any more. What an earlier run left stays:
    /// established flows may still point at it.
    pub(super) fn clear_next_hops(&mut self, compiled: &Compiled) {
        self.written.retain(|index| {
            let wanted = compiled.next_hops.contains_key(index);
            if !wanted {
                self.parts.next_hops.clear(*index);
            }
            wanted
        });
    }

    pub(super) fn unresolved(&self, compiled: &Compiled) -> Vec<String> {
        compiled
            .wanted_neighbours
            .iter()
            .filter(|key| !self.picture.facts.neighbours.contains_key(*key))
            .map(|(interface, address)| match self.picture.facts.links.get(interface) {
                Some(link) => format!("{address} on {}", link.name),
                None => format!("{address} on interface {interface}, which is gone"),
            })
            .collect()
    }
}
