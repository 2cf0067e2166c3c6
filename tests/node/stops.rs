//! A program that is stopped again and again, as if another one had its core meanwhile, whatever the machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Ends, with the program running, when dropped.
pub struct Stops {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Duration>>,
}

impl Stops {
    /// Every `period`, for `stop`.
    pub fn start(pid: u32, period: Duration, stop: Duration) -> Self {
        let pid = Pid::from_raw(pid as i32).expect("a process");
        let is_over = Arc::new(AtomicBool::new(false));
        let of_thread = is_over.clone();
        let thread = thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !of_thread.load(Ordering::SeqCst) {
                thread::sleep(period - stop);
                let since = Instant::now();
                kill_process(pid, Signal::STOP).expect("it runs");
                thread::sleep(stop);
                kill_process(pid, Signal::CONT).expect("it is stopped");
                longest = longest.max(since.elapsed());
            }
            longest
        });
        Self { is_over, thread: Some(thread) }
    }

    /// Returns how long the longest stop was; a busy machine makes them longer than they should be.
    pub fn end(mut self) -> Duration {
        self.is_over.store(true, Ordering::SeqCst);
        self.thread.take().expect("it ends once").join().expect("the program ran all the time")
    }
}

impl Drop for Stops {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Of what went wrong in it the test knows already.
        self.thread.take().map(JoinHandle::join);
    }
}
