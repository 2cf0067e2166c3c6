//! Instructions of a packet, counted by callgrind in five fixed cases: a figure that does not depend on the machine's load. They
//! are held against kept ones, so that a change that makes packets dearer is noticed where it is made.
//!
//! valgrind is driven by this program itself, which callgrind runs once for each case and counts in one function of. A
//! benchmarking crate around valgrind would compare with the last run in the build folder, where this compares with a file under
//! version control; and it needs a runner of its own, of the very same version, installed from source on every machine.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::cases::{Case, PACKETS, Prepared};

/// Of the kept figure, so much more is let pass: compilers and C libraries differ a little.
const ROOM: f64 = 0.03;
const WRITE: &str = "ATALHO_WRITE_COUNTS";

#[derive(clap::Args)]
pub struct InstructionsArguments {
    /// Runs the packets of one case and counts nothing: what callgrind looks into.
    #[arg(long, hide = true)]
    case: Option<String>,
}

/// The kept figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// The compiler that they were counted with.
    rustc: String,
    /// By the name of the case.
    instructions_per_packet: BTreeMap<String, f64>,
}

/// Counts and compares, or counts and keeps. `false`: a packet has become dearer.
pub fn run(arguments: &InstructionsArguments) -> Result<bool> {
    if let Some(name) = &arguments.case {
        let case = Case::ALL.into_iter().find(|case| case.name() == name).context("there is no such case")?;
        return Prepared::new(case)?.run().map(|()| true);
    }
    let counted = Kept {
        rustc: env!("RUSTC_VERSION").into(),
        instructions_per_packet: Case::ALL
            .into_iter()
            .map(|case| Ok((case.name().into(), count(case)?)))
            .collect::<Result<_>>()?,
    };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json");
    if std::env::var_os(WRITE).is_some() {
        fs::write(&file, format!("{}\n", serde_json::to_string_pretty(&counted)?))
            .with_context(|| format!("cannot write {}", file.display()))?;
        eprintln!("bench: counts kept in {}", file.display());
    }
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let kept: Kept = serde_json::from_str(&text).with_context(|| format!("in {}", file.display()))?;
    let (is_fine, report) = compare(&counted, &kept);
    print!("{report}");
    Ok(is_fine)
}

/// Instructions of a packet.
fn count(case: Case) -> Result<f64> {
    let out = Scratch::new(case.name());
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*cases::process_counted*"])
        .arg(format!("--callgrind-out-file={}", out.0.display()))
        .arg(std::env::current_exe()?)
        .args(["instructions", "--case", case.name()])
        .output()
        .context("cannot run valgrind: ./scripts/setup installs it")?;
    ensure!(run.status.success(), "{} under valgrind: {}", case.name(), String::from_utf8_lossy(&run.stderr));
    let profile = fs::read_to_string(&out.0).with_context(|| format!("cannot read {}", out.0.display()))?;
    match total(&profile) {
        Some(instructions) if instructions > 0 => Ok(instructions as f64 / PACKETS as f64),
        _ => {
            bail!("{}: callgrind counted nothing: is this a build of the profile `release`, with symbols?", case.name())
        }
    }
}

/// The sum of a profile (Callgrind Format Specification, "totals").
fn total(profile: &str) -> Option<u64> {
    profile.lines().find_map(|line| line.strip_prefix("totals:"))?.trim().parse().ok()
}

/// A file for callgrind's profile, taken away when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("atalho-instructions-{}-{name}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Whether no case has become dearer, and all of it in words.
fn compare(counted: &Kept, kept: &Kept) -> (bool, String) {
    let (mut is_fine, mut is_cheaper, mut text) = (true, false, String::new());
    for (name, now) in &counted.instructions_per_packet {
        let Some(before) = kept.instructions_per_packet.get(name) else {
            is_fine = false;
            let _ = writeln!(text, "{name:<16} {now:>8.1} instructions a packet, none kept: DEARER");
            continue;
        };
        let change = now / before - 1.0;
        let verdict = if change > ROOM { "DEARER" } else { "" };
        is_fine &= change <= ROOM;
        is_cheaper |= change < -ROOM;
        let _ = writeln!(
            text,
            "{name:<16} {now:>8.1} instructions a packet, kept {before:>8.1} ({:+.1} %) {verdict}",
            100.0 * change
        );
    }
    if !is_fine || is_cheaper {
        let what = if is_fine { "Packets have become cheaper" } else { "Packets have become dearer" };
        let _ = writeln!(
            text,
            "{what} by more than {:.0} %. If that is meant, keep the new counts: {WRITE}=1 ./scripts/bench instructions, then\n\
             commit benches/instructions.json with the change that made it so.",
            100.0 * ROOM
        );
        if kept.rustc != counted.rustc {
            let _ = writeln!(text, "The kept ones are of {}, these of {}.", kept.rustc, counted.rustc);
        }
    }
    (is_fine, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(figure: f64) -> Kept {
        Kept { rustc: "rustc 1".into(), instructions_per_packet: BTreeMap::from([("udp".into(), figure)]) }
    }

    #[test]
    fn three_percent_more_pass_and_four_do_not() {
        assert!(compare(&counts(102.9), &counts(100.0)).0);
        let (is_fine, text) = compare(&counts(104.0), &counts(100.0));
        assert!(!is_fine && text.contains("DEARER") && text.contains("ATALHO_WRITE_COUNTS=1"), "{text}");
    }

    #[test]
    fn a_cheaper_packet_passes_and_asks_to_be_kept() {
        let (is_fine, text) = compare(&counts(90.0), &counts(100.0));
        assert!(is_fine && text.contains("cheaper"), "{text}");
    }

    #[test]
    fn a_case_that_was_never_counted_does_not_pass() {
        let none = Kept { instructions_per_packet: BTreeMap::new(), ..counts(0.0) };
        assert!(!compare(&counts(100.0), &none).0);
    }

    #[test]
    fn the_sum_stands_in_its_line() {
        assert_eq!(total("version: 1\nevents: Ir\n\nfn=(1) x\n5 9\n\ntotals: 1234\n"), Some(1234));
        assert_eq!(total("version: 1\n"), None);
    }
}
