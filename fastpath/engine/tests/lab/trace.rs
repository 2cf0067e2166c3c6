//! What goes through the labs of one thread, for those who look at all of it: the list of vectors, and scapy.

use std::cell::RefCell;

use atalho_engine::verdict::Verdict;

/// Packets that a trace keeps; some vectors send every value of a field.
const KEPT_MAX: usize = 500;

/// How packets ended, and the first of those that left whole.
#[derive(Debug, Default)]
pub struct Trace {
    pub forwarded: u64,
    pub punted: u64,
    pub dropped: u64,
    /// As it came in, and as it left.
    pub kept: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Trace {
    pub fn packets(&self) -> u64 {
        self.forwarded + self.punted + self.dropped
    }
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

/// Everything that `work` sends through labs.
pub fn of(work: fn()) -> Trace {
    TRACE.take();
    work();
    TRACE.take()
}

pub fn count(verdict: Verdict) {
    TRACE.with_borrow_mut(|trace| match verdict {
        Verdict::Forward { .. } => trace.forwarded += 1,
        Verdict::Punt(_) => trace.punted += 1,
        Verdict::Drop(_) => trace.dropped += 1,
    });
}

pub fn keep(before: &[u8], after: &[u8]) {
    TRACE.with_borrow_mut(|trace| {
        if trace.kept.len() < KEPT_MAX {
            trace.kept.push((before.to_vec(), after.to_vec()));
        }
    });
}
