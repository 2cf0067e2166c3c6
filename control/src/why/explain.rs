//! Which endpoints a packet could not have gone to, and by which field.

use atalho_engine::service::{Backends, Vip, VipKind};
use serde::{Deserialize, Serialize};

use super::{View, shown};
use crate::compile::{Merged, choice, merged};
use crate::model::Condition;

/// An endpoint that was not among the choices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    pub address: String,
    /// The field that kept it out.
    pub because: String,
}

/// Endpoints of `vip` that are not in `chosen_from`.
pub(super) fn left_out(view: &View<'_>, vip: &Vip, chosen_from: &Backends, is_ipv4: bool) -> Vec<LeftOut> {
    let Some((service, port_label)) = vip.service.rsplit_once(':') else { return Vec::new() };
    let Some(stored) = view.model.service(service) else { return Vec::new() };
    let is_meant = |label: String| label.strip_prefix(':') == Some(port_label);
    let Some(port) = stored.object.ports.iter().find(|port| is_meant(port.label(""))) else { return Vec::new() };
    let all = merged(view.model, service, port, is_ipv4, &view.config.node.name);
    let is_chosen = |e: &Merged| chosen_from.endpoints.iter().any(|c| c.address == e.address && c.port == e.port);
    let usable = choice(all.iter());
    let (field, is_local) = match vip.kind {
        VipKind::ClusterIP => ("internalTrafficPolicy", stored.object.internal_local),
        _ => ("externalTrafficPolicy", stored.object.external_local),
    };
    let because = |e: &Merged| match e.condition {
        _ if is_local && !e.local && usable.contains(&e) => {
            let node = e.node.as_deref().unwrap_or("no node");
            format!("{field} is Local, and it is on {node}")
        }
        Condition::NotReady => "conditions.ready is false, and it does not serve while it terminates".to_owned(),
        Condition::Terminating => "conditions.terminating is true, and others are ready".to_owned(),
        Condition::Ready => format!("{field} is Local, and it is on another node"),
    };
    all.iter()
        .filter(|e| !is_chosen(e))
        .map(|e| LeftOut { address: shown(e.address, e.port), because: because(e) })
        .collect()
}
