//! A cluster that changes, and watches that tell of it late: kinds overtake each other, say things twice, break off, and list
//! anew without a word of what happened in between. Once all has been told, the tables are those of somebody who just came.

use std::collections::VecDeque;

use super::steps::{self, Digits, object};
use super::*;
use crate::model::Object;
use crate::watch::relist::Relist;

const KINDS: [Kind; 4] = [Kind::Service, Kind::EndpointSlice, Kind::Pod, Kind::Node];

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
    fn next(&mut self) -> Vec<Change> {
        let change = match self.coming.pop_front() {
            Some(Event::Put(object)) => self.relist.put(*object),
            Some(Event::Delete(key)) => self.relist.delete(&key),
            None => return Vec::new(),
        };
        self.last = vec![change];
        self.last.clone()
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

pub fn check(numbers: &[u64]) -> Result<(), TestCaseError> {
    let mut world = World::new("[service]\nscheduler = 'random'\n");
    let mut truth = Truth::new();
    let mut watches: [Watch; 4] = Default::default();
    for number in numbers {
        let mut digits = Digits(*number);
        let what = digits.below(18);
        let of = digits.below(4) as usize;
        let kind = KINDS[of];
        let told = match what {
            0..8 => {
                let object = any(kind, &mut digits);
                truth.insert(object.key(), object.clone());
                watches[of].coming.push_back(Event::Put(Box::new(object)));
                Vec::new()
            }
            8 | 9 => {
                let known: Vec<&Key> = truth.keys().filter(|key| key.kind == kind).collect();
                let Some(key) = known.get(digits.below(4) as usize).map(|key| (*key).clone()) else { continue };
                truth.remove(&key);
                watches[of].coming.push_back(Event::Delete(key));
                Vec::new()
            }
            10 | 11 => watches[of].next(),
            12 => watches[of].last.clone(),
            13 => watches[of].list(kind, &truth, true),
            14 => watches[of].list(kind, &truth, false),
            _ => {
                world.compile();
                continue;
            }
        };
        told.into_iter().for_each(|change| world.model.apply(change));
    }
    // What is still to come comes, a kind at a time, whichever is first.
    let first = numbers.first().copied().unwrap_or(0) as usize;
    for of in (0..4).map(|n| (n + first) % 4) {
        while !watches[of].coming.is_empty() {
            watches[of].next().into_iter().for_each(|change| world.model.apply(change));
        }
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

/// An object that contests nothing: of two that do, the order of arrival would decide.
fn any(kind: Kind, digits: &mut Digits) -> Object {
    object(&match kind {
        Kind::Service => {
            let name = digits.below(4);
            let ip = match digits.below(3) {
                0 => format!("10.96.0.{}", name + 1),
                1 => format!("\"fd96::{}\"", name + 1),
                _ => format!("10.96.0.{}, \"fd96::{}\"", name + 1, name + 1),
            };
            let external = if digits.is_one_of(2) { format!("203.0.113.{}", name + 1) } else { String::new() };
            let node_port = if digits.is_one_of(2) { 30_000 + name } else { 0 };
            let port = if digits.is_one_of(2) { 443 } else { 80 };
            steps::load_balancer(&format!("n{name}"), &ip, &external, port, node_port, steps::policy(digits))
        }
        Kind::EndpointSlice => steps::slice_of_any(digits),
        Kind::Pod => steps::pod_of_any(digits),
        _ if digits.is_one_of(2) => steps::own_node(digits),
        _ => steps::other_node(digits),
    })
}
