//! What every test here needs: a lab, a turn on the machine, and traffic on every path with an account of it.

use std::net::IpAddr;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use atalho_benches::apiserver::{self, ApiServer};
use atalho_benches::lab::command::run_in;
use atalho_benches::lab::objects;
use atalho_benches::lab::paths::{self, Path};
use atalho_benches::lab::plan::{Family, Plan};
use atalho_benches::lab::session::{Programs, Session};
use atalho_benches::traffic::client::{JobKind, Outcome};

/// Held by a test whose result depends on the machine's two cores.
static MACHINE: Mutex<()> = Mutex::new(());

pub fn turn() -> MutexGuard<'static, ()> {
    // A test that failed holding it is no reason for the others to fail.
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the test is to be left out; says so in a line that is counted.
pub fn skipped(test: &str) -> bool {
    let skip = std::env::var_os("ATALHO_SKIP_ROOT_TESTS").is_some();
    if skip {
        println!("SKIPPED: {test}: needs root and XDP");
    }
    skip
}

pub fn programs() -> Programs {
    Programs::beside(FilePath::new(env!("CARGO_BIN_EXE_atalho"))).expect("both programs")
}

pub fn atalho() -> PathBuf {
    env!("CARGO_BIN_EXE_atalho").into()
}

/// A lab with the daemon ready on the examples.
pub fn ready(plan: &Plan) -> Session {
    let mut session = Session::build(plan, &programs()).expect("a lab");
    session.start_daemon_on_manifests(None).expect("a daemon that is ready");
    session
}

/// A lab with an API server that has the objects of the examples, and no daemon yet.
pub fn with_server(prefix: &str) -> (Session, ApiServer) {
    let plan = Plan::new(prefix);
    let binaries = apiserver::binaries().expect("kube-apiserver and etcd");
    let session = Session::build(&plan, &programs()).expect("a lab");
    let server = ApiServer::start(&binaries, &plan, &programs().lab).expect("an API server");
    server.apply(&objects::files(&objects::write(&plan).unwrap()).unwrap()).expect("objects");
    (session, server)
}

/// Short requests on every path of both families at once; fails with everything that was wrong with them.
pub fn assert_all_paths_work(session: &mut Session, seconds: f64) -> Vec<Outcome> {
    let mut jobs = Vec::new();
    for path in Family::BOTH.into_iter().flat_map(paths::paths) {
        for kind in [JobKind::Tcp, JobKind::Udp] {
            let id = session.ask(path.from, paths::job(&path, kind, seconds)).expect("a job");
            jobs.push((id, path.clone(), kind));
        }
    }
    finish(session, &jobs, seconds)
}

/// Waits for jobs, and fails with everything that was wrong with them.
pub fn finish(session: &mut Session, jobs: &[(u32, Path, JobKind)], seconds: f64) -> Vec<Outcome> {
    let ids: Vec<u32> = jobs.iter().map(|job| job.0).collect();
    let outcomes = session.wait_for(&ids, Duration::from_secs_f64(seconds + 20.0)).expect("all jobs end");
    let complaints: Vec<String> = jobs
        .iter()
        .zip(&outcomes)
        .flat_map(|((_, path, kind), outcome)| paths::complaints(path, *kind, outcome))
        .collect();
    assert!(complaints.is_empty(), "{}\n{}", complaints.join("\n"), last_words(session));
    outcomes
}

/// The books are even, and no kernel got a packet with a wrong checksum or length.
pub fn assert_even_and_right(session: &Session) {
    let status = session.daemon().and_then(|daemon| daemon.settled_status()).expect("a status");
    assert!(status.is_even(), "{status:?}");
    assert_eq!(session.wrong_packets().expect("counters"), Vec::<String>::new());
}

/// The node's own way to outside addresses of Services comes after the tables.
pub fn wait_for_routes(plan: &Plan, addresses: &[IpAddr]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let has_route = |address: &IpAddr| {
        let kind = if address.is_ipv4() { "-4" } else { "-6" };
        !run_in(&plan.node(), "ip", &[kind, "route", "show", "exact", &address.to_string()]).unwrap().trim().is_empty()
    };
    while !addresses.iter().all(has_route) {
        assert!(Instant::now() < deadline, "no routes into the funnel for all of {addresses:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

pub fn last_words(session: &Session) -> String {
    session.daemon().map(|daemon| daemon.last_words()).unwrap_or_default()
}

/// A link address as `ip` prints it.
pub fn parse_mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.split(':').map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}
