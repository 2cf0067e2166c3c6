//! The pipeline beside others who forward: the kernel, a raw forwarder over the same sockets, and that one beside DPDK's.

use super::{Comparison, Group, SERVICES_FEW, lasting_of};
use crate::bench::peer::Peer;
use crate::bench::programs::{FLOWS_MAX, Flows};
use crate::bench::ratio::Goal;

pub fn forwarding() -> Group {
    let pipeline = Peer::worker(SERVICES_FEW, Flows::Lasting(1024));
    Group {
        name: "forwarding",
        entries: vec![lasting_of(pipeline, 1024), lasting_of(Peer::Kernel, 1024)],
        comparisons: vec![Comparison {
            goal: None,
            case: "pipeline / kernel forwarding without NAT".into(),
            above: 0,
            below: vec![1],
            not_judged: None,
        }],
    }
}

pub fn l2fwd() -> Group {
    let pipeline = |flows| lasting_of(Peer::worker(SERVICES_FEW, Flows::Lasting(flows)), flows);
    let raw = |flows| lasting_of(Peer::L2fwd, flows);
    let comparison = |flows: &str, above, accept, aim| Comparison {
        goal: Some(Goal {
            number: 1,
            what: "pipeline / raw AF_XDP l2fwd",
            command: "./scripts/bench l2fwd",
            accept,
            aim,
        }),
        case: format!("{flows} flows"),
        above,
        below: vec![above + 1],
        not_judged: None,
    };
    Group {
        name: "l2fwd",
        entries: vec![pipeline(1024), raw(1024), pipeline(FLOWS_MAX), raw(FLOWS_MAX)],
        comparisons: vec![comparison("1,024", 0, 0.85, 0.95), comparison("1M", 2, 0.70, 0.85)],
    }
}

pub fn testpmd() -> Group {
    let goal = Goal {
        number: 2,
        what: "raw AF_XDP l2fwd / DPDK testpmd",
        command: "./scripts/bench testpmd",
        accept: 1.15,
        aim: 1.3,
    };
    Group {
        name: "testpmd",
        entries: vec![lasting_of(Peer::L2fwd, 1024), lasting_of(Peer::Testpmd, 1024)],
        comparisons: vec![Comparison {
            goal: Some(goal),
            case: "1,024 flows".into(),
            above: 0,
            below: vec![1],
            not_judged: None,
        }],
    }
}
