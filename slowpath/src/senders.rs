//! A bucket for each sender that asks for answers, beside the one for all of them: so one sender cannot use up what others
//! need.
//!
//! A bounded number of buckets, chosen by a hash of the sender; some senders share one. The hash needs no secret: who could
//! aim at the bucket of another by choosing a source address could as well use that other's address.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use crate::bucket::Bucket;

const BUCKETS: usize = 1024;

pub struct Senders(Vec<Bucket>);

impl Senders {
    /// For each sender `rate_per_s` and at once `burst`.
    pub fn new(rate_per_s: u32, burst: u32) -> Self {
        Self(vec![Bucket::new(rate_per_s, burst); BUCKETS])
    }

    /// The bucket of who sent from `src` by the port `ingress` (kernel interface index). An IPv6 host has a whole /64 to
    /// choose addresses from (RFC 4291 section 2.5.4), so it is one sender; pods that share one have ports of their own.
    pub fn bucket(&mut self, ingress: u32, src: IpAddr) -> &mut Bucket {
        let sender = match src {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
        };
        let mut hasher = DefaultHasher::new();
        (ingress, src.is_ipv4(), sender).hash(&mut hasher);
        let at = hasher.finish() as usize % BUCKETS;
        &mut self.0[at]
    }
}
