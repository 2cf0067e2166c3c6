//! `atalho svc`: Services as this node has them: their VIPs, the endpoints behind each, and why an endpoint takes no new
//! flows. The daemon's half answers a bounded number of endpoints at a time, in the order of names; the client's half
//! asks for one part after the other and prints.

mod command;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use atalho_engine::service::{Route, Vip, VipKey};
use serde::{Deserialize, Serialize};

use crate::model::{Key, Kind, NotOurs, Refusal};
use crate::why::{Backend, LeftOut, View, left_out};

pub use command::{SvcOptions, run};

/// A part ends with the Service that brings it to so many endpoints, or Services.
const ENDPOINTS: usize = 4096;
const SERVICES: usize = 256;

/// The question.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Asked {
    /// Where to go on: the last name of the part before.
    pub after: Option<String>,
    /// This one only: `namespace/name`.
    pub service: Option<String>,
    pub namespace: Option<String>,
}

/// The answer to one question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub services: Vec<ServiceRow>,
    /// Where to go on; null after the last part.
    pub next: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// `namespace/name`.
    pub service: String,
    /// Why no packet of it concerns this node; null if they do.
    pub not_ours: Option<String>,
    pub vips: Vec<VipRow>,
    /// What of it or its slices is refused, and what to do about it.
    pub refused: Vec<String>,
}

/// One VIP of one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipRow {
    /// `namespace/name:port`, as `atalho why` calls it.
    pub port: String,
    pub vip: String,
    pub protocol: String,
    /// With the port; IPv6 in brackets.
    pub address: String,
    /// sessionAffinity ClientIP: seconds that a client stays with its endpoint; null without.
    pub session_affinity_s: Option<u32>,
    /// Only these may use it (loadBalancerSourceRanges); null: everybody.
    pub source_ranges: Option<Vec<String>>,
    /// For this cluster's pods and this node.
    pub inside: Side,
    /// For all others.
    pub outside: Side,
}

/// Where new flows from one side go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    pub endpoints: Vec<Backend>,
    pub left_out: Vec<LeftOut>,
    /// Endpoints see the node's address and not the client's.
    pub masquerade: bool,
    /// What becomes of new flows while there is no endpoint: reject or drop.
    pub without_endpoint: String,
}

/// Reads the next part.
pub fn part(view: &View<'_>, asked: &Asked) -> Result<Part, String> {
    let refusals = Refusals::of(view);
    let mut names = names(view, &refusals, asked);
    if let (Some(wanted), true) = (&asked.service, names.is_empty()) {
        return Err(format!("no Service {wanted}; `atalho svc` lists those that are there"));
    }
    let mut services = Vec::new();
    let mut endpoints = 0;
    while endpoints < ENDPOINTS && services.len() < SERVICES {
        let Some(name) = names.pop_first() else { break };
        let row = row(view, name, &refusals);
        let of_side = |side: &Side| side.endpoints.len() + side.left_out.len();
        endpoints += row.vips.iter().map(|vip| of_side(&vip.inside) + of_side(&vip.outside)).sum::<usize>();
        services.push(row);
    }
    let next = (!names.is_empty()).then(|| services.last().map(|row: &ServiceRow| row.service.clone())).flatten();
    Ok(Part { services, next })
}

/// Names that are wanted: of Services in force, and of those that never were because they are refused.
fn names<'v>(view: &'v View<'_>, refusals: &'v Refusals, asked: &Asked) -> BTreeSet<&'v str> {
    let is_wanted = |name: &&str| {
        asked.after.as_deref().is_none_or(|after| *name > after)
            && asked.service.as_deref().is_none_or(|service| *name == service)
            && asked.namespace.as_deref().is_none_or(|wanted| name.split_once('/').is_some_and(|(n, _)| n == wanted))
    };
    let in_force = view.model.services().map(|(name, _)| &**name);
    in_force.chain(refusals.services()).filter(is_wanted).collect()
}

fn row(view: &View<'_>, name: &str, refusals: &Refusals) -> ServiceRow {
    let not_ours = view.model.service(name).and_then(|stored| stored.object.not_ours.as_ref());
    let mut keys = view.compiled.vips_of(name).to_vec();
    keys.sort_unstable();
    let vip = |key: &VipKey| Some(vip_row(view, key, view.compiled.tables.services.look_up(key)?));
    let mut vips: Vec<VipRow> = keys.iter().filter_map(vip).collect();
    vips.sort_by(|a, b| a.port.cmp(&b.port));
    ServiceRow {
        service: name.to_owned(),
        not_ours: not_ours.map(|why| match why {
            NotOurs::Headless => "headless: its clients reach endpoints by their own addresses".to_owned(),
            NotOurs::ExternalName => "ExternalName: a name in DNS and no address".to_owned(),
            NotOurs::OtherProxy(proxy) => format!("the label service-proxy-name gives it to {proxy:?}"),
        }),
        vips,
        refused: refusals.about(view, name),
    }
}

fn vip_row(view: &View<'_>, key: &VipKey, vip: &Vip) -> VipRow {
    let side = |route: &Route| Side {
        endpoints: route.backends.endpoints.iter().map(Backend::of).collect(),
        left_out: left_out(view, vip, route, key.address.is_ipv4()),
        masquerade: route.masquerade,
        without_endpoint: if route.drop_without_backend { "drop" } else { "reject" }.to_owned(),
    };
    VipRow {
        port: vip.service.to_string(),
        vip: vip.kind.name().to_owned(),
        protocol: key.protocol.name().to_owned(),
        address: std::net::SocketAddr::new(key.address, key.port).to_string(),
        session_affinity_s: vip.affinity.map(|affinity| affinity.timeout_s),
        source_ranges: vip.sources.as_ref().map(|ranges| ranges.iter().map(ToString::to_string).collect()),
        inside: side(&vip.inside),
        outside: side(&vip.outside),
    }
}

/// What is refused, by the object as a refusal names it.
struct Refusals(BTreeMap<String, Vec<String>>);

impl Refusals {
    fn of(view: &View<'_>) -> Self {
        let mut of: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for Refusal { object, reason, next_step, source } in
            view.model.refusals().into_iter().chain(view.compiled.refusals.iter().cloned())
        {
            of.entry(object).or_default().push(format!("{source}: {reason}; {next_step}"));
        }
        Self(of)
    }

    /// Services among them.
    fn services(&self) -> impl Iterator<Item = &str> {
        let of_service = |object: &'_ String| object.strip_prefix(Kind::Service.name()).is_some();
        self.0
            .keys()
            .filter(move |object| of_service(object))
            .filter_map(|object| object.split_once(' '))
            .map(|(_, name)| name)
    }

    /// Those about a Service, and about its slices.
    fn about(&self, view: &View<'_>, name: &str) -> Vec<String> {
        let (namespace, of) = name.split_once('/').unwrap_or(("default", name));
        let service = Key { kind: Kind::Service, namespace: namespace.to_owned(), name: of.to_owned() };
        let slices = view.model.slices_of(name).map(|(key, _)| key.to_string());
        let about = std::iter::once(service.to_string()).chain(slices);
        about.filter_map(|object| self.0.get(&object)).flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests;
