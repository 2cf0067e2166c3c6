//! One pod sends nine of ten packets, more than the worker can take: the others keep theirs, however little more than
//! theirs it can take, and while its core is taken from it now and then.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use atalho_benches::bench::priority::Ahead;
use atalho_benches::lab::daemon::{Objects, Status, write_config};
use atalho_benches::lab::objects;
use atalho_benches::lab::paths::Place;
use atalho_benches::lab::plan::{Family, Plan, pod_address};
use atalho_benches::lab::session::Session;

use crate::burden::burden;
use crate::stops::Stops;
use crate::support::{assert_even_and_right, programs, skipped, turn};

const PODS: usize = 8;
/// Who floods, who asks for little, and where all of it goes.
const LOUD: usize = 1;
const QUIET: std::ops::RangeInclusive<usize> = 2..=7;
const SINK: usize = 8;
const PORT: u16 = 20_000;
/// Packets a second of the one that floods, and of each that does not.
const LOUD_PPS: u64 = 90_000;
const QUIET_PPS: u64 = LOUD_PPS / 9 / 6;
const SECONDS: f64 = 2.5;
const WINDOW: Duration = Duration::from_millis(250);
/// What part of their packets the quiet ones must keep.
const KEPT: f64 = 0.9;
/// For that, in every window the worker must take so many times what the quiet ones send. With less it is they who overload it: one
/// of seven pods has a right to a seventh of what the worker takes, which is then hardly more than it sends.
const ENOUGH: f64 = 1.5;
/// The longest stop for which there is room: what the quiet ones send meanwhile is half of the ring.
const STOP_MAX: Duration = Duration::from_millis(100);

/// What kind of overload.
#[derive(Debug, Clone)]
struct Overload {
    quiet_pps: u64,
    /// What part of its packets the loud pod keeps.
    share: Range<f64>,
    /// How often a second, and for how long, another program has the worker's core.
    stop: Option<Duration>,
}

/// What came of one round: packets sent and delivered, by pod.
#[derive(Debug)]
struct Round {
    loud: (u64, u64),
    quiet: Vec<(u64, u64)>,
    policed: u64,
    /// Of the worker, the highest of a second.
    busy_percent: f64,
    /// Packets a second that the worker sent on, in the window when it was slowest.
    slowest_pps: f64,
    longest_stop: Duration,
}

impl Round {
    fn share((sent, delivered): (u64, u64)) -> f64 {
        delivered as f64 / sent.max(1) as f64
    }

    /// Of the quiet pods, the one that fared worst.
    fn worst(&self) -> f64 {
        self.quiet.iter().copied().map(Self::share).fold(1.0, f64::min)
    }

    /// Whether the machine let the worker do enough for the quiet ones.
    fn was_possible(&self) -> bool {
        let asked: u64 = self.quiet.iter().map(|(sent, _)| sent).sum();
        self.slowest_pps >= ENOUGH * asked as f64 / SECONDS && self.longest_stop <= STOP_MAX
    }

    fn print(&self, title: &str) {
        println!(
            "{title}: the loud pod keeps {:.1} % of {}, the others at worst {:.1} % of {} each; policed {}, worker busy {} %, \
             at least {:.0} packets a second",
            100.0 * Self::share(self.loud),
            self.loud.0,
            100.0 * self.worst(),
            self.quiet.first().map_or(0, |counts| counts.0),
            self.policed,
            self.busy_percent,
            self.slowest_pps
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

fn session(fairness: &str) -> Session {
    let mut session = Session::build(&Plan { pods: PODS, queues: 1, ..Plan::new("at-t-fair") }, &programs()).unwrap();
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

/// Every pod sends at its pace for the same time. The burden, from `rules` on, is as heavy as it takes until the worker is
/// overloaded as it should be. That the quiet ones lose something says nothing where the machine left them too little.
fn overloaded_round(session: &mut Session, rules: &mut usize, overload: &Overload) -> Round {
    for _ in 0..10 {
        burden(session, SINK, *rules);
        let round = round(session, overload);
        let share = Round::share(round.loud);
        if overload.share.contains(&share) && (round.was_possible() || round.worst() >= KEPT) {
            return round;
        }
        println!("with {rules} rules it is not as it should be, {overload:?}: {round:?}");
        *rules = if share >= overload.share.end { *rules * 2 } else { *rules * 2 / 3 };
    }
    panic!("the worker cannot be overloaded with {LOUD_PPS} packets a second as it should be: {overload:?}");
}

fn round(session: &mut Session, overload: &Overload) -> Round {
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
                let pps = if pod == LOUD { LOUD_PPS } else { overload.quiet_pps };
                let (to, pps, seconds) = (at(pod).to_string(), pps.to_string(), SECONDS.to_string());
                let mut flood = lab(session, pod);
                flood.args(["flood", "--to", &to, "--pps", &pps, "--seconds", &seconds, "--flows", "8"]);
                flood.spawn().unwrap()
            })
            .collect(),
    );
    let stops = overload.stop.map(|stop| Stops::start(session.daemon().unwrap().pid(), WINDOW, stop));
    // Rates are of a second: one that lies inside the flood shows what the worker did then.
    let (mut busy_percent, mut slowest_pps): (f64, f64) = (0.0, f64::INFINITY);
    let mut last: Option<(Instant, u64)> = None;
    for _ in 0..(SECONDS / WINDOW.as_secs_f64()) as u32 {
        session.listen(WINDOW).unwrap();
        let status = session.daemon().unwrap().status().unwrap();
        busy_percent = busy_percent.max(status.workers[0].busy_percent);
        let now = (Instant::now(), status.forwarded);
        if let Some((since, forwarded)) = last.replace(now) {
            slowest_pps = slowest_pps.min((status.forwarded - forwarded) as f64 / (now.0 - since).as_secs_f64());
        }
    }
    let longest_stop = stops.map_or(Duration::ZERO, Stops::end);
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
    Round { loud: both.next().unwrap(), quiet: both.collect(), policed, busy_percent, slowest_pps, longest_stop }
}

#[test]
fn a_pod_that_floods_takes_nothing_from_the_others() {
    if skipped("a_pod_that_floods_takes_nothing_from_the_others") {
        return;
    }
    let _turn = turn();
    // Other programs of the machine are no part of this.
    let _ahead = Ahead::take();
    let overload = Overload { quiet_pps: QUIET_PPS, share: 0.25..0.8, stop: None };
    let alone = Overload { quiet_pps: 0, ..overload.clone() };
    let stopped = Overload { stop: Some(Duration::from_millis(50)), ..overload.clone() };
    let heavy = Overload { share: 0.03..0.15, ..overload.clone() };
    let mut rules = 300;

    let mut unfair = session("off");
    let round = overloaded_round(&mut unfair, &mut rules, &overload);
    round.print("fairness off");
    assert_even_and_right(&unfair);
    assert_eq!(round.policed, 0);
    assert!(round.worst() < KEPT, "without policing nobody lost anything, so this shows nothing: {round:?}");
    drop(unfair);

    let mut fair = session("on");
    // One that is alone is policed too, but only behind a queue that keeps the worker busy all the time.
    let round = overloaded_round(&mut fair, &mut rules, &alone);
    round.print("fairness on, the loud pod alone");
    assert!(round.policed > 0 && round.busy_percent >= 80.0, "{round:?}");
    for (title, overload) in
        [("overloaded", overload), ("overloaded, now and then stopped", stopped), ("overloaded heavily", heavy)]
    {
        let round = overloaded_round(&mut fair, &mut rules, &overload);
        round.print(&format!("fairness on, {title}"));
        assert!(round.policed > 0 && round.worst() >= KEPT, "{overload:?}: {round:?}");
    }
    assert_even_and_right(&fair);
}
