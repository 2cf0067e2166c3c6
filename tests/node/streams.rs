//! A pod's datagrams beside its own TCP streams, which take all the room that they get: a stream sends again what was lost,
//! a datagram is lost for good.

use std::time::Duration;

use atalho_benches::lab::command::run_in;
use atalho_benches::lab::paths;
use atalho_benches::lab::plan::{Family, Plan};
use atalho_benches::traffic::client::{Job, JobKind, Outcome};

use crate::burden::burden;
use crate::support::{assert_even_and_right, ready, skipped, turn};

const WAVES: usize = 4;
const WAVE_SECONDS: f64 = 2.0;
/// Of each family, in a wave.
const STREAMS: usize = 2;
const ASKERS: usize = 8;
/// Bytes that a stream may have under way: more packets than a worker's ring has room for.
const WINDOW: &str = "4096 4194304 4194304";

#[test]
fn a_pods_datagrams_pass_beside_its_own_full_streams() {
    if skipped("a_pods_datagrams_pass_beside_its_own_full_streams") {
        return;
    }
    let _turn = turn();
    let mut session = ready(&Plan { queues: 1, ..Plan::new("at-t-streams") });
    let [sender, sink] = [1, 2].map(|number| session.plan().pod(number));
    // At its beginning a stream of this kind sends twice as much in every round trip until something is lost.
    let set = |pod: &str, key: &str, value: &str| {
        run_in(pod, "sysctl", &["-q", "-w", &format!("net.ipv4.{key}={value}")]).unwrap();
    };
    set(&sender, "tcp_congestion_control", "reno");
    set(&sender, "tcp_wmem", WINDOW);
    set(&sink, "tcp_rmem", WINDOW);
    // And the worker takes less than it sends, however fast the machine is.
    burden(&session, 2, 600);
    let mut asked = 0;
    for _ in 0..WAVES {
        let mut datagrams = Vec::new();
        let mut streams = Vec::new();
        for path in Family::BOTH.into_iter().map(|family| paths::paths(family).remove(0)) {
            let mut start = |kind| {
                let job = Job { interval_ms: 2, timeout_ms: 10_000, ..paths::job(&path, kind, WAVE_SECONDS) };
                session.ask(path.from, job).unwrap()
            };
            streams.extend((0..STREAMS).map(|_| start(JobKind::Bulk)));
            datagrams.extend((0..ASKERS).map(|_| start(JobKind::Udp)));
        }
        let mut wait_for = |jobs: &[u32]| session.wait_for(jobs, Duration::from_secs(40)).unwrap();
        let of_datagrams = wait_for(&datagrams);
        wait_for(&streams);
        let sum = |count: fn(&Outcome) -> u64| of_datagrams.iter().map(count).sum::<u64>();
        let (requests, failed) = (sum(|outcome| outcome.requests), sum(|outcome| outcome.failed));
        println!("{failed} of {requests} datagrams failed");
        asked += requests;
        let status = session.daemon().unwrap().status().unwrap();
        assert_eq!((failed, sum(|outcome| outcome.wrong)), (0, 0), "{status:?} {of_datagrams:?}");
    }
    let status = session.daemon().unwrap().settled_status().unwrap();
    println!("{asked} datagrams answered; {:?}", status.pod_drops);
    assert!(
        status.pod_drops["default/pod-1"]["pod_policed"] > 0,
        "no stream was full, so this shows nothing: {status:?}"
    );
    assert_even_and_right(&session);
}
