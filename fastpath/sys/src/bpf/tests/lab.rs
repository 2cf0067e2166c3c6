//! A node made of one network namespace, a BPF file system of its own, and as many pods as a test asks for.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::{env, fs, process};

use atalho_layout::{KERNEL_COUNTERS, KernelCounter, PortRecord, SECRET_WORDS};
use aya::programs::TestRunOptions;

use crate::bpf::{Adopted, BpfError, Folder, Kernel, Setup, Sizes};
use crate::check;
use crate::mmap::SharedArray;

pub(super) const SIZES: Sizes = Sizes { buckets4: 61, buckets6: 37, next_hops: 16 };
/// Odd and large, so that a wrong word or a lost carry shows.
pub(super) const SECRET: [u64; SECRET_WORDS] = {
    let mut secret = [0; SECRET_WORDS];
    let mut i = 0;
    while i < SECRET_WORDS {
        secret[i] = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(i as u64 * 2 + 3);
        i += 1;
    }
    secret
};

/// Whether to skip, said aloud.
pub(super) fn skipped(test: &str) -> bool {
    let skip = env::var_os("ATALHO_SKIP_ROOT_TESTS").is_some_and(|v| v == "1");
    if skip {
        println!("SKIPPED: {test}: ATALHO_SKIP_ROOT_TESTS=1");
    }
    skip
}

/// Runs a command of iproute2 or mount, in the calling thread's namespace.
pub(super) fn sh(command: &str) {
    let mut words = command.split(' ');
    let program = words.next().expect("a command");
    let output = Command::new(program).args(words).output().unwrap_or_else(|e| panic!("{command}: {e}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Moves the calling thread into a namespace, for good.
pub(super) fn enter(namespace: &str) {
    let file = fs::File::open(format!("/run/netns/{namespace}")).expect("the namespace exists");
    // SAFETY: setns takes no pointer; the descriptor is open.
    let entered = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(entered, 0, "setns: {}", std::io::Error::last_os_error());
}

/// The node. The thread that made it is inside its namespace.
pub(super) struct Lab {
    pub(super) namespace: String,
    pub(super) bpffs: PathBuf,
    pods: Vec<String>,
}

/// A pod's two ends.
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) ifindex: u32,
    pub(super) record: PortRecord,
}

impl Lab {
    /// An uplink (`uplink`, its far end `far`), a funnel (`f0`, `f1`), two queues each, all up.
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let namespace = format!("at-d-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let bpffs = PathBuf::from(format!("/tmp/{namespace}-bpf"));
        fs::create_dir(&bpffs).expect("a folder to mount on");
        sh(&format!("mount -t bpf bpf {}", bpffs.display()));
        sh(&format!("ip netns add {namespace}"));
        let lab = Self { namespace, bpffs, pods: Vec::new() };
        enter(&lab.namespace);
        for (one, other) in [("uplink", "far"), ("f0", "f1")] {
            sh(&format!(
                "ip link add {one} numrxqueues 2 numtxqueues 2 type veth peer name {other} numrxqueues 2 numtxqueues 2"
            ));
            // Their stacks stay silent, so that counters count what a test sends.
            for name in [one, other] {
                sh(&format!("ip link set {name} addrgenmode none"));
                sh(&format!("ip link set {name} up"));
            }
        }
        sh("ip link set lo up");
        lab
    }

    /// Adds a pod with 10.244.0.(10 + n) and fd00:244::(10 + n) behind the host end `pod<n>`.
    pub(super) fn add_pod(&mut self, number: u8) -> Pod {
        let namespace = format!("{}-p{number}", self.namespace);
        sh(&format!("ip netns add {namespace}"));
        self.pods.push(namespace.clone());
        sh(&format!("ip link add pod{number} type veth peer name eth0 netns {namespace}"));
        // The node's own stack stays silent here too, however long a test takes.
        sh(&format!("ip link set pod{number} addrgenmode none"));
        sh(&format!("ip link set pod{number} up"));
        let host = check::by_name(&format!("pod{number}")).expect("just made");
        let (v4, v6) = (format!("10.244.0.{}", 10 + number), format!("fd00:244::{:x}", 10 + number));
        let inside = |command: &str| sh(&format!("ip -n {namespace} {command}"));
        inside("link set eth0 up");
        inside("link set lo up");
        inside(&format!("addr add {v4}/32 dev eth0"));
        inside(&format!("addr add {v6}/128 dev eth0 nodad"));
        for (family, gateway) in [("-4", "169.254.1.1"), ("-6", "fe80::1")] {
            inside(&format!("{family} route add {gateway} dev eth0"));
            inside(&format!("{family} neigh replace {gateway} lladdr {} dev eth0 nud permanent", mac_text(&host.mac)));
            inside(&format!("{family} route add default via {gateway} dev eth0"));
        }
        let pod_mac = in_namespace(&namespace, || check::by_name("eth0").expect("just made").mac);
        let record = PortRecord {
            pod_mac,
            host_mac: host.mac,
            addr4: v4.parse::<std::net::Ipv4Addr>().expect("an address").octets(),
            addr6: v6.parse::<std::net::Ipv6Addr>().expect("an address").octets(),
        };
        Pod { namespace, ifindex: host.ifindex, record }
    }

    pub(super) fn try_open(&self, sizes: Sizes) -> Result<(Kernel, Adopted), BpfError> {
        let index = |name: &str| check::by_name(name).expect("the lab made it").ifindex;
        let setup = Setup {
            sizes,
            uplink: index("uplink"),
            f0: index("f0"),
            f1: index("f1"),
            workers: 2,
            is_fair: true,
            secret: SECRET,
        };
        Kernel::open(Folder::lock(&self.bpffs, "node-a.example")?, &setup)
    }

    pub(super) fn open(&self) -> (Kernel, Adopted) {
        self.try_open(SIZES).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Names of what is pinned.
    pub(super) fn pins(&self) -> Vec<String> {
        let list = |path: &Path| -> Vec<String> {
            let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
            entries.map(|e| e.expect("readable").file_name().to_string_lossy().into_owned()).collect()
        };
        list(&self.bpffs.join("atalho/node-a_example"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in self.pods.iter().chain([&self.namespace]) {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
        let _ = Command::new("umount").args(["-l".as_ref(), self.bpffs.as_os_str()]).status();
        let _ = fs::remove_dir(&self.bpffs);
    }
}

pub(super) fn mac_text(mac: &[u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// Runs something in another namespace, in a thread of its own.
pub(super) fn in_namespace<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(namespace);
            work()
        });
        thread.join().expect("the thread ran")
    })
}

/// Counters that moved while `work` ran, with by how much.
pub(super) fn counted<T>(kernel: &mut Kernel, work: impl FnOnce(&mut Kernel) -> T) -> (T, Vec<(KernelCounter, u64)>) {
    let before = kernel.counters().expect("counters");
    let result = work(kernel);
    let after = kernel.counters().expect("counters");
    let moved = KERNEL_COUNTERS.iter().zip(before.into_iter().zip(after));
    (result, moved.filter(|(_, (b, a))| a != b).map(|(c, (b, a))| (*c, a - b)).collect())
}

/// Runs an XDP program on a frame; returns its action.
pub(super) fn run_xdp(kernel: &Kernel, program: &str, frame: &[u8]) -> u32 {
    let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() };
    kernel.programs.run(program, options).unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// Runs a tcx program on a frame that came in by an interface; returns its action and the frame after.
pub(super) fn run_tcx(kernel: &Kernel, program: &str, ifindex: u32, frame: &[u8]) -> (i32, Vec<u8>) {
    let mut context = [0u8; 192];
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes()); // struct __sk_buff, ifindex
    let mut out = vec![0u8; frame.len()];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: Some(&context),
        ..TestRunOptions::default()
    };
    let action = kernel.programs.run(program, options).unwrap_or_else(|e| panic!("{program}: {e}"));
    (action as i32, out)
}

/// The shared arrays of one family as words.
pub(super) struct Table {
    tags: &'static [std::sync::atomic::AtomicU32],
    flows: &'static [std::sync::atomic::AtomicU32],
}

impl Table {
    pub(super) fn new(kernel: &Kernel, is_ipv6: bool) -> Self {
        let maps = kernel.maps();
        let (tags, flows) = if is_ipv6 { (maps.tags6, maps.flows6) } else { (maps.tags4, maps.flows4) };
        Self {
            tags: SharedArray::words32(tags.fd, tags.bytes).expect("mmapable"),
            flows: SharedArray::words32(flows.fd, flows.bytes).expect("mmapable"),
        }
    }

    /// Writes an entry's words into a slot and its tag beside it, as a worker would.
    pub(super) fn write(&self, slot: usize, words: &[u32], tag: u16) {
        let at = slot * words.len();
        for (to, from) in self.flows[at..].iter().zip(words) {
            to.store(*from, Ordering::SeqCst);
        }
        let shift = slot % 2 * 16;
        let word = &self.tags[slot / 2];
        let kept = word.load(Ordering::SeqCst) & !(0xffff << shift);
        word.store(kept | u32::from(tag) << shift, Ordering::SeqCst);
    }
}

/// A reproducible stream of numbers (splitmix64).
pub(super) struct Random(AtomicU64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    pub(super) fn next(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}
