//! Keeps the parts of control running: one that panics, or cannot go on, is made anew after a pause that grows while it
//! happens again and again. Workers know nothing of it: they go on by the tables that were published last.

use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;

use crate::shared::{Part, Shared};

/// The pause before a part is made anew; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A part that has run for so long is well again.
const WELL_AFTER: Duration = Duration::from_secs(5);
/// A thread that waits looks this often whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// What is kept running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Supervised {
    /// From objects and the node's network to tables in force.
    Programming,
    /// The unix socket of `atalho status` and its like.
    Socket,
    /// `/healthz`, `/metrics`.
    Http,
    /// The health-check node ports.
    HealthChecks,
    /// Packets a second of each worker.
    Rates,
    /// The thread that makes removed slots of the connection table usable again.
    Reclaim,
}

impl Supervised {
    pub const ALL: [Self; 6] =
        [Self::Programming, Self::Socket, Self::Http, Self::HealthChecks, Self::Rates, Self::Reclaim];

    pub fn name(self) -> &'static str {
        match self {
            Self::Programming => "programming",
            Self::Socket => "socket",
            Self::Http => "http",
            Self::HealthChecks => "health_checks",
            Self::Rates => "rates",
            Self::Reclaim => "reclaim",
        }
    }
}

impl fmt::Display for Supervised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Runs what `make` makes, and makes it anew whenever it panics or says why it cannot go on. Returns when it ends by itself.
pub async fn keep<F>(what: Supervised, shared: Arc<Shared>, mut make: impl FnMut() -> F)
where
    F: Future<Output = Result<(), String>>,
{
    let mut keeper = Keeper::new(what, shared);
    loop {
        let ended = {
            // Nothing of what panicked is looked at again: it is dropped and made anew.
            let mut run = std::pin::pin!(AssertUnwindSafe(make()).catch_unwind());
            tokio::select! {
                ended = &mut run => ended,
                () = tokio::time::sleep(WELL_AFTER) => {
                    keeper.is_well();
                    run.await
                }
            }
        };
        let why = match ended {
            Ok(Ok(())) => return,
            Ok(Err(why)) => why,
            Err(panic) => said(&*panic),
        };
        tokio::time::sleep(keeper.fails(&why)).await;
    }
}

/// The same for a thread, until `stop`. `run` returns when `stop` is set.
pub fn keep_thread(what: Supervised, shared: Arc<Shared>, stop: &AtomicBool, mut run: impl FnMut()) {
    let mut keeper = Keeper::new(what, shared);
    while !stop.load(Ordering::Relaxed) {
        let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(&mut run)) else { return };
        let until = Instant::now() + keeper.fails(&said(&*panic));
        while Instant::now() < until && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK);
        }
    }
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("without a word"))
}

/// Counts and tells, and knows how long to wait.
struct Keeper {
    what: Supervised,
    shared: Arc<Shared>,
    pause: Duration,
    began: Instant,
}

impl Keeper {
    fn new(what: Supervised, shared: Arc<Shared>) -> Self {
        Self { what, shared, pause: FIRST_PAUSE, began: Instant::now() }
    }

    fn is_well(&mut self) {
        self.tell(None);
    }

    /// Returns the pause before it may begin anew.
    fn fails(&mut self, why: &str) -> Duration {
        // What ran longer than the longest pause has not failed in a row.
        if self.began.elapsed() > LONGEST_PAUSE + self.pause {
            self.pause = FIRST_PAUSE;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        self.began = Instant::now();
        *self.shared.lock().restarts.entry(self.what).or_default() += 1;
        self.tell(Some(format!(
            "{}: {why}; begun anew after {:.1} s, and what was in force stays so; if it comes again, report it with the log",
            self.what,
            pause.as_secs_f64()
        )));
        pause
    }

    /// Sets or clears this part's fault and leaves the others' alone.
    fn tell(&self, fault: Option<String>) {
        let mut shared = self.shared.lock();
        let mut faults = shared.faults.get(&Part::Supervised).cloned().unwrap_or_default();
        faults.retain(|fault| !fault.starts_with(&format!("{}: ", self.what)));
        faults.extend(fault);
        shared.set_faults(Part::Supervised, faults);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_panics_or_fails_is_made_anew_and_told_of() {
        let shared = Arc::new(Shared::default());
        shared.lock().ready = true;
        let mut lives = 0;
        keep(Supervised::Programming, shared.clone(), || {
            lives += 1;
            let life = lives;
            let shared = shared.clone();
            async move {
                match life {
                    1 => panic!("no {}", "good"),
                    2 => {
                        let told = shared.lock().faults[&Part::Supervised].clone();
                        assert!(
                            told.len() == 1 && told[0].starts_with("programming: it panicked: no good"),
                            "{told:?}"
                        );
                        assert_eq!(shared.lock().state(), "degraded");
                        Err("the source is gone".into())
                    }
                    _ => Ok(()),
                }
            }
        })
        .await;
        assert_eq!((lives, shared.lock().restarts[&Supervised::Programming]), (3, 2));
        assert!(shared.lock().faults[&Part::Supervised][0].contains("the source is gone"));
    }

    #[test]
    fn pauses_grow_to_a_bound_and_a_part_clears_its_own_fault_alone() {
        let shared = Arc::new(Shared::default());
        let mut one = Keeper::new(Supervised::Http, shared.clone());
        let pauses: Vec<f64> = (0..9).map(|_| one.fails("no").as_secs_f64()).collect();
        assert_eq!(pauses, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]);
        Keeper::new(Supervised::Rates, shared.clone()).fails("no");
        assert_eq!(shared.lock().faults[&Part::Supervised].len(), 2);
        one.is_well();
        assert!(shared.lock().faults[&Part::Supervised][0].starts_with("rates: no"));
        one.began = Instant::now().checked_sub(Duration::from_secs(120)).unwrap();
        assert_eq!(one.fails("no"), FIRST_PAUSE);
    }

    #[test]
    fn a_thread_is_made_anew_until_it_is_to_end() {
        let (shared, stop) = (Arc::new(Shared::default()), AtomicBool::new(false));
        let mut lives = 0;
        keep_thread(Supervised::Reclaim, shared.clone(), &stop, || {
            lives += 1;
            assert!(lives > 1, "the first");
        });
        assert_eq!((lives, shared.lock().restarts[&Supervised::Reclaim]), (2, 1));
    }
}
