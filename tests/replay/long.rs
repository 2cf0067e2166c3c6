//! A capture of any length in the same memory.

use std::io::{BufWriter, Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::capture::Order;
use crate::lab::{SECOND_NS, START_NS, command, examples};
use crate::packets::udp;

const PACKETS: u64 = 2_000_000;
/// Bytes of a packet's payload: 2 million make over 1 GB.
const PAYLOAD_BYTES: usize = 480;
/// Much less than the capture. Most of it is the connection table of the default size.
const MEMORY_KIB_MAX: u64 = 256 * 1024;

#[test]
fn a_gigabyte_streams_through_in_bounded_memory() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let from = folder.path().join("in.pcapng");
    let made = std::process::Command::new("mkfifo").arg(&from).status().expect("mkfifo");
    assert!(made.success());
    let started = Instant::now();
    let mut child = command(&examples(), &from, std::path::Path::new("/dev/null"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a run");
    let feeder = std::thread::spawn(move || feed(&from));
    let mut said = child.stderr.take().expect("standard error");
    let progress = std::thread::spawn(move || {
        let mut text = String::new();
        said.read_to_string(&mut text).map(|_| text)
    });
    let mut report = child.stdout.take().expect("standard output");
    let mut tail: Vec<u8> = Vec::new();
    let mut chunk = vec![0; 1 << 16];
    let mut peak_kib = 0;
    let mut looked = Instant::now();
    loop {
        let n = report.read(&mut chunk).expect("the report");
        if n == 0 {
            break;
        }
        tail.extend_from_slice(&chunk[..n]);
        tail.drain(..tail.len().saturating_sub(1000));
        if looked.elapsed() > Duration::from_millis(100) {
            looked = Instant::now();
            peak_kib = peak_kib.max(peak(child.id()));
        }
    }
    let bytes = feeder.join().expect("the feeder");
    let code = child.wait().expect("an end").code();
    let said = progress.join().expect("a thread").expect("text");
    assert_eq!(code, Some(0), "{said}");
    let tail = String::from_utf8_lossy(&tail);
    let books: serde_json::Value = serde_json::from_str(tail.lines().last().expect("books")).expect("JSON");
    assert_eq!(books["received"], PACKETS);
    assert_eq!(books["forwarded"], PACKETS, "{books}");
    assert!(said.contains("packets/s"), "no progress was told: {said}");
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{PACKETS} packets, {} MB in {seconds:.1} s: {:.0} packets/s; at most {peak_kib} KiB",
        bytes / 1_000_000,
        PACKETS as f64 / seconds
    );
    assert!(bytes > 1_000_000_000, "{bytes} bytes are no gigabyte");
    assert!(peak_kib > 0 && peak_kib < MEMORY_KIB_MAX, "{peak_kib} KiB");
}

/// Writes the capture: a thousand flows, ten seconds.
fn feed(to: &std::path::Path) -> u64 {
    let file = std::fs::File::options().write(true).open(to).expect("the pipe");
    let mut output = BufWriter::with_capacity(1 << 20, file);
    let order = Order::Little;
    let mut bytes = 0;
    let mut put = |block: &[u8]| {
        bytes += block.len() as u64;
        output.write_all(block).expect("a reader");
    };
    put(&order.section());
    put(&order.port("pod:default/pod-4", 9));
    // Blocks are made once; only their time changes, after type, length and interface.
    let mut blocks: Vec<Vec<u8>> = (0..1000)
        .map(|n| udp(&format!("10.244.1.14:{}", 10_000 + n), "10.96.0.50:443", &[7; PAYLOAD_BYTES]))
        .map(|packet| order.packet(0, 0, packet.len(), &packet))
        .collect();
    for n in 0..PACKETS {
        let block = &mut blocks[(n % 1000) as usize];
        let time_ns = START_NS + n * (10 * SECOND_NS / PACKETS);
        block[12..16].copy_from_slice(&((time_ns >> 32) as u32).to_le_bytes());
        block[16..20].copy_from_slice(&(time_ns as u32).to_le_bytes());
        put(block);
    }
    output.flush().expect("a reader");
    bytes
}

/// Most memory that the process ever had, KiB; 0 once it is gone.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}
