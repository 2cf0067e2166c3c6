//! A cluster that changes, and watches that tell of it late: kinds overtake each other, say things twice, break off, and list
//! anew without a word of what happened in between. Once all has been told, the tables are those of somebody who just came.

use std::collections::VecDeque;

use super::steps::{self, Digits, object};
use super::*;
use crate::model::Object;
use crate::watch::relist::Relist;

const KINDS: usize = Kind::ALL.len();

/// What the API server has.
type Truth = BTreeMap<Key, Object>;

enum Event {
    Put(Box<Object>),
    Delete(Key),
}

/// One kind's watch: within a kind nothing is overtaken.
#[derive(Default)]
struct Watch {
    relist: Relist,
    /// Happened and not told yet.
    coming: VecDeque<Event>,
    last: Vec<Change>,
}

impl Watch {
    fn next(&mut self) -> Option<Change> {
        let change = match self.coming.pop_front()? {
            Event::Put(object) => self.relist.put(*object),
            Event::Delete(key) => self.relist.delete(&key),
        };
        self.last = vec![change.clone()];
        Some(change)
    }

    fn all(&mut self) -> Vec<Change> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// A list of everything; what happened before it is in it, or has gone unheard. One that breaks off says nothing.
    fn list(&mut self, kind: Kind, truth: &Truth, is_whole: bool) -> Vec<Change> {
        truth.iter().filter(|(key, _)| key.kind == kind).for_each(|(_, object)| self.relist.buffer(object.clone()));
        if !is_whole {
            self.relist.break_off();
            return Vec::new();
        }
        self.coming.clear();
        self.last = self.relist.finish();
        self.last.clone()
    }
}

/// Kinds as they happen: Services and their slices have the most to do with each other.
pub const ALL: &[usize] = &[0, 0, 0, 1, 1, 1, 2, 3, 4];
pub const SERVICES: &[usize] = &[0];

/// `kinds`: places in [`Kind::ALL`], each as often as things are to happen to it.
pub fn check(numbers: &[u64], kinds: &[usize]) -> Result<(), TestCaseError> {
    let mut world = World::new("[service]\nscheduler = 'random'\nexternal_ip_cidrs = ['0.0.0.0/0']\n");
    let mut truth = Truth::new();
    let mut watches: [Watch; KINDS] = Default::default();
    for number in numbers {
        let mut digits = Digits(*number);
        let what = digits.below(20);
        let of = kinds[digits.below(kinds.len() as u64) as usize];
        let (kind, watch) = (Kind::ALL[of], &mut watches[of]);
        let told = match what {
            0..12 => {
                let is_told = digits.is_one_of(3);
                let Some(event) = happen(kind, &mut truth, &mut digits) else { continue };
                watch.coming.push_back(event);
                if is_told { watch.all() } else { Vec::new() }
            }
            12 => watch.next().into_iter().collect(),
            13 => watch.last.clone(),
            14 => watch.list(kind, &truth, true),
            15 => watch.list(kind, &truth, false),
            _ => {
                world.compile();
                continue;
            }
        };
        told.into_iter().for_each(|change| world.model.apply(change));
    }
    // What is still to come comes, or is listed, a kind at a time, whichever is first.
    let first = numbers.first().copied().unwrap_or(0) as usize / 64;
    for of in (0..KINDS).map(|n| (n + first) % KINDS) {
        let is_listed = first & 1 << of != 0;
        let told = if is_listed { watches[of].list(Kind::ALL[of], &truth, true) } else { watches[of].all() };
        told.into_iter().for_each(|change| world.model.apply(change));
    }
    world.compile();

    let mut model = Model::new(&world.config);
    truth.values().for_each(|object| model.apply(Change::Put(object.clone(), Source::Api)));
    let anew = compile(&model, &world.facts, &world.config, None, &mut world.indexes.clone());
    let by_events = world.compiled.as_ref().unwrap();
    prop_assert_eq!(shown(by_events), shown(&anew), "of {:?}", truth);
    prop_assert_eq!(model.refusals(), world.model.refusals());
    prop_assert_eq!(
        (model.service_count(), model.endpoint_count()),
        (world.model.service_count(), world.model.endpoint_count())
    );
    Ok(())
}

/// Something happens to an object of this kind, or nothing.
fn happen(kind: Kind, truth: &mut Truth, digits: &mut Digits) -> Option<Event> {
    if digits.below(5) == 0 {
        let known: Vec<&Key> = truth.keys().filter(|key| key.kind == kind).collect();
        let key = (*known.get(digits.below(4) as usize)?).clone();
        truth.remove(&key);
        return Some(Event::Delete(key));
    }
    let object = any(kind, digits);
    let key = object.key();
    // No API server gives what somebody has; of two that have the same, the order of arrival would decide.
    let is_given = truth
        .iter()
        .any(|(other, held)| *other != key && takings(held).any(|held| takings(&object).any(|taking| taking == held)));
    if is_given {
        return None;
    }
    truth.insert(key, object.clone());
    Some(Event::Put(Box::new(object)))
}

/// Addresses and node ports that nobody else may have at the same time: they go from one Service to another.
fn takings(object: &Object) -> impl Iterator<Item = String> {
    let service = if let Object::Service(service) = object { Some(service) } else { None };
    let spec = service.and_then(|service| service.spec.as_ref());
    let cluster_ips = spec.and_then(|spec| spec.cluster_ips.clone()).unwrap_or_default();
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let node_ports = ports.iter().filter_map(|port| port.node_port).filter(|port| *port != 0);
    let status = service.and_then(|service| service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_deref());
    let ingress = status.unwrap_or_default().iter().filter_map(|ingress| ingress.ip.clone());
    cluster_ips.into_iter().chain(ingress).chain(node_ports.map(|port| port.to_string()))
}

fn any(kind: Kind, digits: &mut Digits) -> Object {
    object(&match kind {
        Kind::Service if digits.is_one_of(6) => thief(digits),
        // Never good, so refused as long as it is there.
        Kind::Service if digits.is_one_of(12) => service("bad", "clusterIP: 10.96.0.8, ports: [{port: 0}]"),
        Kind::Service => {
            let (name, number) = (digits.below(4), digits.below(4) + 1);
            let ip = match digits.below(3) {
                0 => format!("10.96.0.{number}"),
                1 => format!("\"fd96::{number}\""),
                _ => format!("10.96.0.{number}, \"fd96::{number}\""),
            };
            let external = if digits.is_one_of(2) { format!("203.0.113.{}", digits.below(3)) } else { String::new() };
            let node_port = if digits.is_one_of(2) { 30_001 + digits.below(3) } else { 0 };
            let port = if digits.is_one_of(2) { 443 } else { 80 };
            steps::load_balancer(&format!("n{name}"), &ip, &external, port, node_port, steps::policy(digits))
        }
        Kind::EndpointSlice => {
            let slice = steps::slice_of_any(digits);
            // One endpoint that must not be reached.
            if digits.is_one_of(4) { slice.replace("10.0.0.1\"", "127.0.0.1\"") } else { slice }
        }
        Kind::Pod => steps::pod_of_any(digits),
        Kind::Node if digits.is_one_of(2) => steps::own_node(digits),
        Kind::Node => steps::other_node(digits),
        Kind::ServiceCidr => {
            let (name, number) = (digits.below(2), digits.below(3));
            format!(
                "{{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {{name: n{name}}}, spec: {{cidrs: [10.96.{number}.0/24]}}}}"
            )
        }
    })
}

/// A Service that wants by external IPs what others have as cluster IP and node port, and gets it while nobody has.
fn thief(digits: &mut Digits) -> String {
    let (number, port) = (digits.below(4) + 1, if digits.is_one_of(2) { 30_001 } else { 80 });
    let external = format!("10.96.0.{number}, 192.168.0.2");
    service("thief", &format!("clusterIP: 10.96.0.9, externalIPs: [{external}], ports: [{{name: p0, port: {port}}}]"))
}
