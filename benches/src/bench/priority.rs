//! Lets the bench's session go before others for as long as it measures. Where the kernel groups tasks by session
//! (sched_autogroup, sched(7)), `nice` has no effect between sessions; the group's own has.

use std::fs;

const GROUP: &str = "/proc/self/autogroup";
/// As far ahead as is of use without starving the rest of the machine.
const AHEAD: &str = "-15";

/// Puts the old value back when dropped.
pub struct Ahead {
    before: String,
}

impl Ahead {
    /// `None`: the kernel does not group, or does not let us; the figures are then as good as the machine is quiet.
    pub fn take() -> Option<Self> {
        let before = nice_of(&fs::read_to_string(GROUP).ok()?)?.to_owned();
        fs::write(GROUP, AHEAD).ok()?;
        Some(Self { before })
    }
}

/// "/autogroup-25 nice 0" says 0.
fn nice_of(line: &str) -> Option<&str> {
    line.trim().rsplit_once(" nice ").map(|(_, nice)| nice)
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let _ = fs::write(GROUP, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::nice_of;

    #[test]
    fn the_value_stands_behind_the_word() {
        assert_eq!(nice_of("/autogroup-25 nice -15\n"), Some("-15"));
        assert_eq!(nice_of("nothing of the kind"), None);
    }
}
