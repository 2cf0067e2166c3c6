//! What leaves, read by scapy (`tests/scapy/check_vectors.py`): a third implementation of every length and checksum.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::{RUNS, Run};

/// Frames that left, each with the vector that sent it.
fn frames() -> Vec<(String, Vec<u8>)> {
    let mut frames = Vec::new();
    for Run { subject, vector, trace } in &*RUNS {
        let name = format!("{subject}, {}: {}", vector.source, vector.what);
        frames.extend(trace.kept.iter().map(|(_, after)| (name.clone(), after.clone())));
    }
    frames
}

/// Writes the frames in the form of libpcap (a header of 24 bytes, 16 before each frame), and their names, a line each.
fn write(frames: &[(String, Vec<u8>)], name: &str) -> (PathBuf, PathBuf) {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let mut pcap = words(&[0xa1b2_c3d4, 4 << 16 | 2, 0, 0, 65_535, 1]);
    let mut names = String::new();
    for (name, frame) in frames {
        let len = frame.len() as u32;
        pcap.extend(words(&[0, 0, len, len]));
        pcap.extend(frame);
        writeln!(names, "{name}").unwrap();
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (pcap_path, names_path) = (folder.join(format!("{name}.pcap")), folder.join(format!("{name}.txt")));
    std::fs::write(&pcap_path, pcap).unwrap();
    std::fs::write(&names_path, names).unwrap();
    (pcap_path, names_path)
}

fn check(python: &str, (pcap, names): &(PathBuf, PathBuf)) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/scapy/check_vectors.py");
    Command::new(python).args([&script, pcap, names]).output().expect("scapy's Python runs")
}

#[test]
fn scapy_agrees_with_every_packet_that_leaves() {
    let made = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/scapy")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let python = String::from_utf8(made.stdout).unwrap();
    let python = python.trim();

    let frames = frames();
    let output = check(python, &write(&frames, "vectors"));
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "scapy does not agree: {said}");
    assert!(said.contains(&format!("{} packets", frames.len())), "it has read them all: {said}");

    // What checks must be able to fail: one bit of each frame is wrong.
    let damaged: Vec<_> = frames.iter().step_by(37).cloned().map(damage).collect();
    let output = check(python, &write(&damaged, "damaged"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("{} of {} packets are wrong", damaged.len(), damaged.len())), "{said}");
}

/// IPv4's TTL, IPv6's last byte of payload; but that of a fragment is covered by no checksum that is there, its length is.
fn damage((name, mut frame): (String, Vec<u8>)) -> (String, Vec<u8>) {
    let is_v4 = frame[14] >> 4 == 4;
    let at = match is_v4 {
        true => 22,
        false if frame[20] == 44 => 19,
        false => frame.len() - 1,
    };
    frame[at] ^= 1;
    (name, frame)
}
