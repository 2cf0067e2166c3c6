//! One pod sends nine of ten packets, more than the worker can take: the others keep theirs.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use atalho_benches::lab::command::run_with_input;
use atalho_benches::lab::daemon::{Objects, Status, write_config};
use atalho_benches::lab::objects;
use atalho_benches::lab::paths::Place;
use atalho_benches::lab::plan::{Family, Plan, pod_address};
use atalho_benches::lab::session::Session;

use crate::support::{assert_even_and_right, programs, skipped, turn};

const PODS: usize = 8;
/// Who floods, who asks for little, and where all of it goes.
const LOUD: usize = 1;
const QUIET: std::ops::RangeInclusive<usize> = 2..=7;
const SINK: usize = 8;
const PORT: u16 = 20_000;
/// Packets a second of the one that floods.
const LOUD_PPS: u64 = 90_000;
const SECONDS: f64 = 2.5;

/// What came of one round: packets sent and delivered, by pod.
#[derive(Debug)]
struct Round {
    loud: (u64, u64),
    quiet: Vec<(u64, u64)>,
    policed: u64,
    /// Of the worker, the highest of a second.
    busy_percent: f64,
}

impl Round {
    fn share((sent, delivered): (u64, u64)) -> f64 {
        delivered as f64 / sent.max(1) as f64
    }

    /// Of the quiet pods, the one that fared worst.
    fn worst(&self) -> f64 {
        self.quiet.iter().copied().map(Self::share).fold(1.0, f64::min)
    }

    fn print(&self, title: &str) {
        println!(
            "{title}: the loud pod keeps {:.1} % of {}, the others at worst {:.1} % of {} each; policed {}, worker busy {} %",
            100.0 * Self::share(self.loud),
            self.loud.0,
            100.0 * self.worst(),
            self.quiet.first().map_or(0, |counts| counts.0),
            self.policed,
            self.busy_percent
        );
    }
}

/// Children that end with the test.
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Gives the sink's stack so many rules to walk for every packet. The worker's own core runs that stack (`ip netns` hides
/// the file that would spread it), so the worker slows down, however fast the machine is.
fn burden(session: &Session, rules: usize) {
    let rule = "ip saddr 192.0.2.1 drop\n";
    let text = format!(
        "table inet burden\ndelete table inet burden\ntable inet burden {{\n\
         chain walked {{ type filter hook prerouting priority raw; policy accept;\n{}}}\n}}\n",
        rule.repeat(rules)
    );
    let net = format!("--net=/run/netns/{}", session.namespace(Place::Pod(SINK)));
    run_with_input("nsenter", [net.as_str(), "nft", "-f", "-"], &text).unwrap();
}

fn session(prefix: &str, fairness: &str) -> Session {
    let mut session = Session::build(&Plan { pods: PODS, queues: 1, ..Plan::new(prefix) }, &programs()).unwrap();
    let config = write_config(session.plan(), Some(1), &format!("fairness = \"{fairness}\"\n")).unwrap();
    let manifests = objects::write(session.plan()).unwrap();
    session.start_daemon(&config, &Objects::Manifests(manifests)).unwrap();
    session.daemon_mut().unwrap().wait_ready(Duration::from_secs(30)).unwrap();
    session
}

fn lab(session: &Session, pod: usize) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/run/netns/{}", session.namespace(Place::Pod(pod))))
        .arg(&session.programs().lab)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// Every pod sends at its pace for the same time. The burden is as heavy as it takes until the worker is overloaded, and not
/// so heavy that there is not even enough for those who ask for little.
fn overloaded_round(session: &mut Session, quiet_pps: u64) -> Round {
    let mut rules = 300;
    for _ in 0..8 {
        burden(session, rules);
        let round = round(session, quiet_pps);
        let share = Round::share(round.loud);
        if (0.25..0.85).contains(&share) {
            return round;
        }
        println!("with {rules} rules the worker is not overloaded as it should be: {round:?}");
        rules = if share < 0.25 { rules * 2 / 3 } else { rules * 2 };
    }
    panic!("the worker cannot be overloaded with {LOUD_PPS} packets a second");
}

fn round(session: &mut Session, quiet_pps: u64) -> Round {
    let at = |pod: usize| SocketAddr::new(pod_address(SINK, Family::V4), PORT + pod as u16);
    let senders: Vec<usize> = std::iter::once(LOUD).chain(QUIET).collect();
    let mut counter =
        lab(session, SINK).arg("count").args(senders.iter().map(|&pod| at(pod).to_string())).spawn().unwrap();
    let mut said = BufReader::new(counter.stdout.take().unwrap());
    said.read_line(&mut String::new()).unwrap();
    let before = session.daemon().unwrap().settled_status().unwrap();
    let mut floods = Children(
        senders
            .iter()
            .map(|&pod| {
                let pps = if pod == LOUD { LOUD_PPS } else { quiet_pps };
                let (to, pps, seconds) = (at(pod).to_string(), pps.to_string(), SECONDS.to_string());
                let mut flood = lab(session, pod);
                flood.args(["flood", "--to", &to, "--pps", &pps, "--seconds", &seconds, "--flows", "8"]);
                flood.spawn().unwrap()
            })
            .collect(),
    );
    // Rates are of a second: one that lies inside the flood shows what the worker did then.
    let mut busy_percent: f64 = 0.0;
    for _ in 0..(SECONDS * 4.0) as u32 {
        session.listen(Duration::from_millis(250)).unwrap();
        busy_percent = busy_percent.max(session.daemon().unwrap().status().unwrap().workers[0].busy_percent);
    }
    let sent: Vec<u64> = floods
        .0
        .iter_mut()
        .map(|flood| {
            let mut text = String::new();
            flood.stdout.take().unwrap().read_to_string(&mut text).unwrap();
            text.trim().parse().expect("a count")
        })
        .collect();
    drop(floods);
    let after = session.daemon().unwrap().settled_status().unwrap();
    drop(counter.stdin.take());
    let mut counts = String::new();
    said.read_to_string(&mut counts).unwrap();
    counter.wait().unwrap();
    let mut both = sent.into_iter().zip(counts.split_whitespace().map(|count| count.parse().unwrap()));
    let policed = after.kernel["pod_policed"] - before.kernel["pod_policed"];
    let pod = format!("default/pod-{LOUD}");
    let of = |status: &Status, pod: &str| {
        status.pod_drops.get(pod).and_then(|drops| drops.get("pod_policed")).copied().unwrap_or_default()
    };
    let of_all: u64 = after.pod_drops.keys().map(|pod| of(&after, pod)).sum();
    assert_eq!(of_all, after.kernel["pod_policed"], "{after:?}");
    assert!((of(&after, &pod) - of(&before, &pod)) * 10 >= policed * 9, "{after:?}");
    Round { loud: both.next().unwrap(), quiet: both.collect(), policed, busy_percent }
}

#[test]
fn a_pod_that_floods_takes_nothing_from_the_others() {
    if skipped("a_pod_that_floods_takes_nothing_from_the_others") {
        return;
    }
    let _turn = turn();
    let quiet_pps = LOUD_PPS / 9 / QUIET.count() as u64;
    let mut rounds = Vec::new();
    for fairness in ["off", "on"] {
        let mut session = session("at-t-fair", fairness);
        let together = overloaded_round(&mut session, quiet_pps);
        together.print(&format!("fairness {fairness}, all together"));
        let alone = overloaded_round(&mut session, 0);
        alone.print(&format!("fairness {fairness}, the loud pod alone"));
        assert_even_and_right(&session);
        rounds.push((together, alone));
    }
    let [(unfair, _), (fair, alone)] = &rounds[..] else { panic!("two sessions") };
    assert_eq!(unfair.policed, 0);
    assert!(unfair.worst() < 0.9, "without policing nobody lost anything, so this shows nothing: {unfair:?}");
    assert!(fair.policed > 0 && fair.worst() >= 0.9, "{fair:?}");
    // One that is alone is policed too, but only behind a queue that keeps the worker busy all the time.
    assert!(alone.policed > 0 && alone.busy_percent >= 80.0, "{alone:?}");
}
