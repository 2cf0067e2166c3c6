//! What the kernel's own routing must know: routes into the funnel for what is a Service's, and neighbours that it keeps
//! resolved for us.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use super::{Publisher, RETRY};
use crate::node::routes::Wanted;
use crate::shared::Part;

impl Publisher {
    /// `false`: some route could not be written.
    pub(super) async fn sync_routes(&mut self) -> bool {
        let Some(compiled) = &self.compiled else { return true };
        let tables = &compiled.tables;
        let vips = tables.services.iter().filter(|(_, vip)| !vip.shares_address).map(|(key, _)| key.address);
        let wanted = Wanted::new(&tables.cluster.service_cidrs, vips, |route| tables.primary_address(route.network()));
        let errors = self.routes.sync(&wanted, &self.picture.facts).await;
        let well = errors.is_empty();
        self.routes_stale = !well;
        let faults = errors.iter().map(ToString::to_string).collect();
        self.parts.shared.lock().set_faults(Part::Routes, faults);
        if !well && self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + RETRY);
        }
        well
    }

    pub(super) async fn sync_neighbours(&mut self) {
        let Some(compiled) = &self.compiled else { return };
        let mut wanted = compiled.wanted_neighbours.clone();
        let named: BTreeSet<IpAddr> = wanted.iter().map(|(_, address)| *address).collect();
        let uplink = self.picture.facts.uplink;
        wanted.extend(self.asked.addresses().filter(|a| !named.contains(a)).map(|address| (uplink, address)));
        // A link that is down or gone takes no neighbour; it is looked at again when it changes.
        wanted.retain(|(interface, _)| self.picture.facts.links.get(interface).is_some_and(|link| link.up));
        if wanted == *self.picture.managed {
            self.parts.shared.lock().set_faults(Part::Neighbours, Vec::new());
            return;
        }
        let errors = self.neighbours.sync(&wanted, &self.picture.managed).await;
        let faults = errors.iter().map(ToString::to_string).collect();
        self.parts.shared.lock().set_faults(Part::Neighbours, faults);
    }

    pub(super) async fn age(&mut self, now: Instant) {
        if !self.asked.has_old(now) {
            return;
        }
        let in_use = self
            .parts
            .table
            .connections()
            .flat_map(|c| [c.original.key.src, c.original.key.dst, c.original.rewrite.dst, c.original.rewrite.src])
            .collect();
        self.asked.forget_old(now, &in_use);
        self.sync_neighbours().await;
    }
}
