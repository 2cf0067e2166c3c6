//! What is known of datagrams in fragments: the first fragment, which shows the flow, and which parts have come.
//!
//! Nothing is joined. A fragment goes on as soon as its first one has come, and waits for it until then; a datagram in which
//! parts overlap is refused from there on (RFC 5722, RFC 8200 section 4.5; held to in IPv4 too, for the same reasons). All is
//! bounded: where room ends, the port that has most of it loses its oldest, so one pod's flood takes nothing from the others.
//! A datagram of which everything has passed is forgotten, for its identification may be used again at once (RFC 6864).

use std::collections::BTreeMap;
use std::net::IpAddr;

use atalho_engine::handoff::Handoff;
use atalho_engine::verdict::DropReason;
use atalho_engine::wire::Packet;
use atalho_engine::wire::fragment::Fragment;

use crate::ages::Ages;
use crate::slow_path::Limits;

/// Parts of one datagram that are remembered: 64 KiB in fragments for an MTU of 576.
const PARTS_MAX: usize = 128;

/// A fragment on its way back to its worker: a packet of a flow, or dropped.
pub struct Leaving {
    pub worker: usize,
    pub buffer: Box<Handoff>,
    pub end: Result<Packet, DropReason>,
}

/// What the fragments of one datagram have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct DatagramId {
    /// Kernel interface index: nobody can touch a datagram that comes in by another's port.
    ingress: u32,
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    identification: u32,
}

/// Where something stands in the order of age: a time in milliseconds, and a number of its own.
type Age = (u64, u64);

struct Datagram {
    /// When it is given up.
    age: Age,
    first: Option<Fragment>,
    /// Start and end of the parts that came, bytes, in order; none overlap.
    parts: Vec<(usize, usize)>,
    /// Length, once the last fragment has come.
    bytes: Option<usize>,
    /// Parts overlapped.
    is_refused: bool,
    /// In the order in which they came.
    waiting: Vec<Parked>,
}

struct Parked {
    age: Age,
    worker: usize,
    fragment: Fragment,
    buffer: Box<Handoff>,
}

pub struct Fragments {
    limits: Limits,
    datagrams: BTreeMap<DatagramId, Datagram>,
    by_age: Ages<Age, DatagramId>,
    /// Fragments that wait, by worker, and how many may.
    parked: Vec<(Ages<Age, DatagramId>, usize)>,
    number: u64,
}

impl Fragments {
    /// `parked_max`: fragments of each worker that may wait at a time.
    pub fn new(limits: Limits, parked_max: impl Iterator<Item = usize>) -> Self {
        let parked = parked_max.map(|most| (Ages::default(), most)).collect();
        Self { limits, datagrams: BTreeMap::new(), by_age: Ages::default(), parked, number: 0 }
    }

    /// Fragments that wait for their first one.
    pub fn waiting(&self) -> usize {
        self.parked.iter().map(|(ages, _)| ages.len()).sum()
    }

    /// Takes a fragment in. `out` gets it back at once if its fate is known, then those that waited for it, and what has to
    /// give way.
    pub fn take(
        &mut self,
        now_ms: u64,
        worker: usize,
        buffer: Box<Handoff>,
        fragment: Fragment,
        out: &mut impl FnMut(Leaving),
    ) {
        let Fragment { src, dst, protocol, identification, .. } = fragment;
        let id = DatagramId { ingress: buffer.ingress, src, dst, protocol, identification };
        if worker >= self.parked.len() {
            return out(Leaving { worker, buffer, end: Err(DropReason::FragmentsFull) });
        }
        if self.datagrams.get(&id).is_some_and(|datagram| datagram.age.0 <= now_ms) {
            self.forget(id, DropReason::FragmentTimeout, out);
        }
        if !self.datagrams.contains_key(&id) {
            self.begin(now_ms, id, out);
        }
        let Some(datagram) = self.datagrams.get_mut(&id) else { return };
        if let Err(reason) = datagram.add(&fragment) {
            out(Leaving { worker, buffer, end: Err(reason) });
            if datagram.is_refused {
                self.release(id, Err(reason), out);
            }
            return;
        }
        if fragment.is_first() {
            datagram.first = Some(fragment);
            out(Leaving { worker, buffer, end: Ok(fragment.packet) });
            self.release(id, Ok(fragment), out);
        } else if let Some(first) = &datagram.first {
            out(Leaving { worker, buffer, end: Ok(fragment.of_flow(first)) });
        } else {
            self.park(now_ms, worker, buffer, fragment, id, out);
        }
        if self.datagrams.get(&id).is_some_and(Datagram::is_whole) {
            self.forget(id, DropReason::FragmentTimeout, out);
        }
    }

    /// Gives up what is too old.
    pub fn tick(&mut self, now_ms: u64, out: &mut impl FnMut(Leaving)) {
        while let Some(id) = self.by_age.pop_until((now_ms, u64::MAX)) {
            self.forget(id, DropReason::FragmentTimeout, out);
        }
    }

    fn begin(&mut self, now_ms: u64, id: DatagramId, out: &mut impl FnMut(Leaving)) {
        if self.by_age.len() >= self.limits.datagrams
            && let Some(oldest) = self.by_age.pop_oldest_of_most()
        {
            self.forget(oldest, DropReason::FragmentsFull, out);
        }
        let life_ms = if id.src.is_ipv4() { self.limits.fragments_v4_ms } else { self.limits.fragments_v6_ms };
        let age = self.age(now_ms + life_ms);
        self.by_age.insert(id.ingress, age, id);
        self.datagrams.insert(id, Datagram::new(age));
    }

    fn park(
        &mut self,
        now_ms: u64,
        worker: usize,
        buffer: Box<Handoff>,
        fragment: Fragment,
        id: DatagramId,
        out: &mut impl FnMut(Leaving),
    ) {
        let age = self.age(now_ms);
        let (ages, most) = &mut self.parked[worker];
        ages.insert(id.ingress, age, id);
        let gives_way = if ages.len() > *most { ages.pop_oldest_of_most() } else { None };
        if let Some(datagram) = self.datagrams.get_mut(&id) {
            datagram.waiting.push(Parked { age, worker, fragment, buffer });
        }
        let Some(datagram) = gives_way.and_then(|id| self.datagrams.get_mut(&id)) else { return };
        if let Some(at) = datagram.waiting.iter().position(|parked| parked.worker == worker) {
            let Parked { worker, buffer, .. } = datagram.waiting.remove(at);
            out(Leaving { worker, buffer, end: Err(DropReason::FragmentsFull) });
        }
    }

    /// Lets go all fragments of a datagram that wait.
    fn release(&mut self, id: DatagramId, end: Result<Fragment, DropReason>, out: &mut impl FnMut(Leaving)) {
        let Some(datagram) = self.datagrams.get_mut(&id) else { return };
        for Parked { age, worker, fragment, buffer } in datagram.waiting.drain(..) {
            self.parked[worker].0.remove(id.ingress, age);
            out(Leaving { worker, buffer, end: end.map(|first| fragment.of_flow(&first)) });
        }
    }

    fn forget(&mut self, id: DatagramId, reason: DropReason, out: &mut impl FnMut(Leaving)) {
        self.release(id, Err(reason), out);
        if let Some(datagram) = self.datagrams.remove(&id) {
            self.by_age.remove(id.ingress, datagram.age);
        }
    }

    fn age(&mut self, at_ms: u64) -> Age {
        self.number += 1;
        (at_ms, self.number)
    }
}

impl Datagram {
    fn new(age: Age) -> Self {
        Self { age, first: None, parts: Vec::new(), bytes: None, is_refused: false, waiting: Vec::new() }
    }

    /// Adds a part, or says why the fragment is to be dropped.
    fn add(&mut self, fragment: &Fragment) -> Result<(), DropReason> {
        if self.is_refused {
            return Err(DropReason::FragmentOverlap);
        }
        let Fragment { start, end, is_last, .. } = *fragment;
        let furthest = self.parts.last().map_or(0, |part| part.1);
        let contradicts = match self.bytes {
            Some(bytes) if is_last => end != bytes,
            Some(bytes) => end >= bytes,
            None => is_last && end <= furthest,
        };
        let at = self.parts.partition_point(|part| part.0 < start);
        let overlaps_before = at > 0 && self.parts[at - 1].1 > start;
        let next = self.parts.get(at);
        if !contradicts && next == Some(&(start, end)) {
            return Err(DropReason::FragmentDuplicate);
        }
        if contradicts || overlaps_before || next.is_some_and(|next| next.0 < end) {
            self.is_refused = true;
            return Err(DropReason::FragmentOverlap);
        }
        if self.parts.len() >= PARTS_MAX {
            return Err(DropReason::FragmentsFull);
        }
        self.parts.insert(at, (start, end));
        if is_last {
            self.bytes = Some(end);
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.waiting.is_empty()
            && self.bytes.is_some_and(|bytes| bytes == self.parts.iter().map(|(start, end)| end - start).sum())
    }
}
