//! Vectors: a description, a packet in, a verdict, a packet out; one file a subject. [`crate::lab::Lab`] reads every packet
//! that leaves with a second implementation and computes each of its checksums anew.

#[path = "../lab/mod.rs"]
mod lab;

mod affinity;
mod checksums;
mod cutting;
mod echo;
mod ethernet;
mod extension_headers;
mod fragments;
mod hops;
mod icmp_elsewhere;
mod icmp_errors;
mod icmp_quotes;
mod icmp_types;
mod ingress;
mod ip_header;
mod ipv4_options;
mod martians;
mod own_answers;
mod sctp;
mod services;
mod snat;
mod tcp_header;
mod tcp_state;
mod udp;

mod list;
mod scapy;

use std::sync::LazyLock;

use lab::trace::{self, Trace};

/// One case: it panics where a packet is not treated as it must be.
pub struct Vector {
    /// Where it is written what must happen: an RFC and its section, or a part of Kubernetes' API.
    pub source: &'static str,
    pub what: &'static str,
    pub run: fn(),
}

pub const fn vector(source: &'static str, what: &'static str, run: fn()) -> Vector {
    Vector { source, what, run }
}

/// The vectors of each subject, and a test that runs them.
macro_rules! subjects {
    ($($subject:ident),* $(,)?) => {
        pub const SUBJECTS: &[(&str, &[Vector])] = &[$((stringify!($subject), $subject::VECTORS)),*];

        mod run {
            $(
                #[test]
                fn $subject() {
                    for vector in crate::$subject::VECTORS {
                        println!("{}: {}", vector.source, vector.what);
                        (vector.run)();
                    }
                }
            )*
        }
    };
}

subjects![
    affinity,
    cutting,
    checksums,
    echo,
    ethernet,
    extension_headers,
    fragments,
    hops,
    icmp_elsewhere,
    icmp_errors,
    icmp_quotes,
    icmp_types,
    ingress,
    ip_header,
    ipv4_options,
    martians,
    own_answers,
    sctp,
    services,
    snat,
    tcp_header,
    tcp_state,
    udp,
];

/// A vector with its subject, and what went through the labs while it ran.
pub struct Run {
    pub subject: &'static str,
    pub vector: &'static Vector,
    pub trace: Trace,
}

/// All of them, run once for those who look at all packets.
pub static RUNS: LazyLock<Vec<Run>> = LazyLock::new(|| {
    let all = SUBJECTS.iter().flat_map(|(subject, vectors)| vectors.iter().map(move |vector| (*subject, vector)));
    all.map(|(subject, vector)| Run { subject, vector, trace: trace::of(vector.run) }).collect()
});

#[test]
fn each_vector_says_where_its_rule_is_written() {
    for (subject, vectors) in SUBJECTS {
        for vector in *vectors {
            let is_known = ["RFC ", "Kubernetes, ", "Service v1, "].iter().any(|of| vector.source.starts_with(of));
            assert!(is_known, "{subject}: {}", vector.source);
        }
    }
}
