//! Writers of the connection table are killed in the middle of their work, again and again over the same memory. What
//! they leave must be repaired into whole connections, and nothing that was whole may be lost by it.
//!
//! The test starts itself as a child, which inserts, touches, ends and expires connections by two threads while a third
//! moves the epochs. Every connection is a function of its number, so whatever is found can be compared word by word.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use atalho_engine::conntrack::{
    ConnTable, ConnectionState, Direction, Epochs, ExpiryScan, Flow, Geometry, InsertError, NewConnection, Rewrite,
    Segment, TableCheck, TableMemory, TcpSegment, TcpState,
};
use atalho_engine::flow::{FlowKey, Protocol};
use atalho_engine::tables::{Settings, Timeouts};
use atalho_layout::SECRET_WORDS;
use atalho_sys::mmap::SharedArray;

const TEST: &str = "a_table_outlives_200_kills_of_its_writers";
const MEMORY: &str = "ATALHO_TEST_KILL_MEMORY";
const ROUND: &str = "ATALHO_TEST_KILL_ROUND";

const KILLS: u32 = 200;
const THREADS: usize = 2;
/// Small, so that buckets fill up and slots are used again within a millisecond.
const MAX_FLOWS: usize = 800;
/// Connections of its own that a thread has at a time.
const OWN_MAX: usize = 200;
/// How many are inserted or ended in one go.
const BURST: usize = 16;
/// Connections that a thread promises to leave alone.
const KEPT_MAX: usize = 40;
/// For how many rounds a promise holds.
const KEPT_ROUNDS: u32 = 3;
/// No child lives longer, also if nobody kills it.
const LIFE: Duration = Duration::from_secs(60);

const SECRET: [u64; SECRET_WORDS] = [
    0x9e37_79b9_7f4a_7c15,
    0xbf58_476d_1ce4_e5b9,
    0x94d0_49bb_1331_11eb,
    0xd6e8_feb8_6659_fd93,
    0xa076_1d64_78bd_642f,
    0xe703_7ed1_a0b4_28db,
    0x8ebc_6af0_9c88_c6e3,
    0x5899_65cc_7537_4cc3,
    0x1d8e_4e27_c47d_124f,
    0xeb44_acca_b455_d165,
    0x2545_f491_4f6c_dd1d,
];

/// What was promised is TCP that is up, and stays.
const TIMEOUTS: Timeouts = Timeouts {
    udp_s: 5,
    tcp_syn_sent_s: 5,
    tcp_established_s: u32::MAX / 2,
    tcp_unacknowledged_s: u32::MAX / 2,
    ..Timeouts::DEFAULT
};

/// How the two threads come to a number; the lowest bits of it.
const OF_THREAD: [u32; THREADS] = [0, 1];
/// Both insert the same connection.
const SHARED: u32 = 2;
/// Each inserts one of its own, and both are translated to the same tuple; the next bit tells them apart.
const COLLIDING: u32 = 3;
/// Bit of a connection of one thread's own that it promises to keep.
const PROMISED: u32 = 4;

#[test]
fn a_table_outlives_200_kills_of_its_writers() {
    if let (Some(folder), Some(round)) = (std::env::var_os(MEMORY), std::env::var_os(ROUND)) {
        let round = round.to_str().and_then(|round| round.parse().ok()).expect("a number of a round");
        return write_until_killed(Path::new(&folder), round);
    }
    let memory = Memory::create();
    let said = memory.promises();
    let (mut promised, mut dirty, mut damage) = (Vec::<(u32, u32)>::new(), 0, TableCheck::default());
    let mut random = Random(u64::from(std::process::id()) + 1);
    for round in 1..=KILLS {
        said.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        let mut writer = Writer::start(&memory.folder, round);
        writer.wait_until_at_work(&said[0]);
        thread::sleep(Duration::from_micros(5000 + random.below(45_000)));
        writer.kill();

        let table = memory.table();
        let left = table.check();
        dirty += u32::from(!left.is_clean());
        let found = table.repair();
        assert_eq!(left.is_clean(), found.is_clean(), "round {round}: check says {left}, repair says {found}");
        add(&mut damage, &found);
        let healed = table.check();
        let context = format!("round {round}: {left} -> {healed}");
        assert_eq!(healed, TableCheck { connections: healed.connections, ..TableCheck::default() }, "{context}");
        assert_eq!(table.count(), healed.connections, "{context}");
        assert_eq!(assert_whole(&table), healed.connections, "{context}");

        promised.retain(|(since, _)| since + KEPT_ROUNDS > round);
        promised.extend(said[1..].iter().map(|word| (round, word.load(Ordering::Acquire))).filter(|(_, n)| *n != 0));
        for (since, number) in &promised {
            let wanted = connection(*number);
            let found = table.find(&wanted.original.key).map(|flow| flow.rewrite);
            assert_eq!(found, Some(wanted.original.rewrite), "{context}: {number:#x} of round {since} is lost");
        }
        // The number of the round has eight bits of a connection's number; those of this round are new to the table.
        assert!(table.connections().all(|flow| round_of(number_of(&flow.original.key)) <= round), "{context}");
    }
    println!("{dirty} of {KILLS} kills left something to repair: {damage}");
    assert!(dirty > 0, "no kill met a writer at work: this test has shown nothing");
    assert!(damage.half_inserted > 0 && damage.dying > 0, "{damage}");
    assert!(!promised.is_empty(), "nothing was promised: this test has shown little");
}

/// Every connection is as it was inserted, both ways; returns how many there are.
fn assert_whole(table: &ConnTable) -> u64 {
    table
        .connections()
        .map(|flow| {
            let wanted = connection(number_of(&flow.original.key));
            assert_eq!((flow.original, flow.reply), (wanted.original, wanted.reply));
            for direction in [wanted.original, wanted.reply] {
                let found = table.find(&direction.key).unwrap_or_else(|| panic!("{direction:?} is not found"));
                assert_eq!(found.rewrite, direction.rewrite);
                assert_eq!((found.next_hop, found.ingress), (direction.next_hop, direction.ingress));
                assert_eq!(found.is_reply, direction == wanted.reply);
            }
        })
        .count() as u64
}

fn add(sum: &mut TableCheck, found: &TableCheck) {
    sum.connections += found.connections;
    sum.dying += found.dying;
    sum.half_inserted += found.half_inserted;
    sum.stray_tags += found.stray_tags;
    sum.lost_tags += found.lost_tags;
    sum.misplaced += found.misplaced;
    sum.peerless += found.peerless;
    sum.duplicates += found.duplicates;
}

/// Connection `number`: the round in the upper eight bits, how it came about in the lower ones.
fn connection(number: u32) -> NewConnection {
    let (is_ipv6, is_tcp) = (number >> 4 & 1 == 1, number >> 5 & 1 == 1);
    let protocol = if is_tcp { Protocol::Tcp } else { Protocol::Udp };
    let address = |net: u32, host: u32| match is_ipv6 {
        true => IpAddr::V6(Ipv6Addr::from_bits(0xfd00_u128 << 112 | u128::from(net << 24 | host))),
        false => IpAddr::V4(Ipv4Addr::from_bits(net << 24 | host)),
    };
    let port = 1024 + round_of(number) as u16;
    let serial = number & 0x00ff_ffff;
    let request = FlowKey { src: address(10, serial), dst: address(11, 1), src_port: port, dst_port: 80, protocol };
    let answer = match number & 3 {
        // The same for both of them.
        COLLIDING => FlowKey {
            src: address(12, serial >> 3 << 3),
            dst: address(13, 1),
            src_port: 8080,
            dst_port: port,
            protocol,
        },
        _ => FlowKey { src: address(14, serial), dst: request.src, src_port: 8080, dst_port: port, protocol },
    };
    let rewrite = |to: FlowKey| Rewrite { src: to.src, dst: to.dst, src_port: to.src_port, dst_port: to.dst_port };
    NewConnection {
        original: Direction {
            key: request,
            rewrite: rewrite(answer.reversed()),
            next_hop: number,
            ingress: number ^ 0x5555_5555,
        },
        reply: Direction {
            key: answer,
            rewrite: rewrite(request.reversed()),
            next_hop: !number,
            ingress: number ^ 0x3333_3333,
        },
        is_service: number >> 6 & 1 == 1,
        first: if is_tcp { segment(TcpSegment::SYN, 1000, 0) } else { Segment::Other },
    }
}

fn number_of(original: &FlowKey) -> u32 {
    let low = match original.src {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(address) => address.to_bits() as u32,
    };
    u32::from(original.src_port - 1024) << 24 | (low & 0x00ff_ffff)
}

fn round_of(number: u32) -> u32 {
    number >> 24
}

fn segment(flags: u8, seq: u32, ack: u32) -> Segment {
    Segment::Tcp(TcpSegment { seq, ack, window: 65_000, payload_len: 0, flags, window_scale: None })
}

/// The table's memory as files, and a word by which a child says that it works, followed by its promises.
struct Memory {
    folder: PathBuf,
    geometry: Geometry,
}

impl Memory {
    fn create() -> Self {
        let shared_memory = Path::new("/dev/shm");
        let base = if shared_memory.is_dir() { shared_memory.to_owned() } else { std::env::temp_dir() };
        let memory = Self::open(&base.join(format!("atalho-kill-{}", std::process::id())));
        fs::create_dir(&memory.folder).expect("a folder for the table's memory");
        for (name, bytes) in memory.files() {
            let file = File::create_new(memory.folder.join(name)).expect("a file for the table's memory");
            file.set_len(bytes as u64).expect("room for the table's memory");
        }
        memory
    }

    fn open(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), geometry: Geometry::for_max_flows(MAX_FLOWS) }
    }

    fn files(&self) -> [(&'static str, usize); 5] {
        let geometry = self.geometry;
        [
            ("tags4", geometry.tags_bytes()),
            ("entries4", geometry.entries4_bytes()),
            ("tags6", geometry.tags_bytes()),
            ("entries6", geometry.entries6_bytes()),
            ("promises", 4 * (1 + THREADS * KEPT_MAX)),
        ]
    }

    fn file(&self, name: &str) -> File {
        File::options().read(true).write(true).open(self.folder.join(name)).expect("a file of the table's memory")
    }

    fn table(&self) -> ConnTable {
        let words32 = |name, bytes| SharedArray::words32(self.file(name).as_fd(), bytes).expect("mapped entries");
        let words64 = |name, bytes| SharedArray::words64(self.file(name).as_fd(), bytes).expect("mapped tags");
        let geometry = self.geometry;
        let memory = TableMemory {
            tags4: words64("tags4", geometry.tags_bytes()),
            entries4: words32("entries4", geometry.entries4_bytes()),
            tags6: words64("tags6", geometry.tags_bytes()),
            entries6: words32("entries6", geometry.entries6_bytes()),
        };
        ConnTable::new(memory, geometry, &SECRET)
    }

    fn promises(&self) -> &'static [AtomicU32] {
        let (name, bytes) = self.files()[4];
        SharedArray::words32(self.file(name).as_fd(), bytes).expect("mapped promises")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The child, seen from the parent. It does not outlive a test that fails.
struct Writer(Child);

impl Writer {
    fn start(folder: &Path, round: u32) -> Self {
        let child = Command::new(std::env::current_exe().expect("a path of this test"))
            .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
            .env(MEMORY, folder)
            .env(ROUND, round.to_string())
            .stdout(Stdio::null())
            .spawn()
            .expect("a child");
        Self(child)
    }

    /// Both its threads have begun.
    fn wait_until_at_work(&mut self, at_work: &AtomicU32) {
        let deadline = Instant::now() + LIFE;
        while at_work.load(Ordering::Acquire) < THREADS as u32 {
            if let Some(status) = self.0.try_wait().expect("a status") {
                panic!("the child ended before it was killed: {status}");
            }
            assert!(Instant::now() < deadline, "the child does not begin");
            thread::sleep(Duration::from_micros(200));
        }
    }

    fn kill(&mut self) {
        self.0.kill().expect("a child to kill");
        let status = self.0.wait().expect("a status");
        assert_eq!(status.signal(), Some(9), "the child ended before it was killed: {status}");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Ended already is no error.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The child's whole life.
fn write_until_killed(folder: &Path, round: u32) {
    // A thread that fails ends the process, and so is noticed by the one that waits to kill it.
    std::panic::set_hook(Box::new(|what| {
        eprintln!("in the child: {what}");
        std::process::exit(1);
    }));
    let memory = std::mem::ManuallyDrop::new(Memory::open(folder));
    let (table, promises, epochs) = (memory.table(), memory.promises(), Epochs::new());
    assert!(table.check().is_clean(), "{}", table.check());
    let words = [const { AtomicU64::new(u64::MAX) }; THREADS];
    let twice = AtomicU32::new(0);
    let end = Instant::now() + LIFE;
    thread::scope(|scope| {
        for (index, word) in words.iter().enumerate() {
            let (epochs, twice, kept) = (&epochs, &twice, &promises[1 + index * KEPT_MAX..][..KEPT_MAX]);
            scope.spawn(move || {
                let mut thread = WriterThread::new(index, round, table, epochs, twice, kept);
                epochs.enter(word);
                thread.step();
                promises[0].fetch_add(1, Ordering::AcqRel);
                while Instant::now() < end {
                    for _ in 0..64 {
                        epochs.enter(word);
                        thread.step();
                    }
                }
                epochs.leave(word);
            });
        }
        // Control: moves the epochs, and reads now and then.
        for turn in 0_u64.. {
            if Instant::now() >= end {
                return;
            }
            if epochs.waits() {
                let target = epochs.advance();
                while !epochs.passed(target, &words) {
                    thread::yield_now();
                }
                epochs.mark_safe(target);
            }
            if turn % 64 != 0 {
                thread::yield_now();
                continue;
            }
            for flow in table.connections() {
                let wanted = connection(number_of(&flow.original.key));
                assert_eq!((flow.original, flow.reply), (wanted.original, wanted.reply));
            }
        }
    });
}

/// One of the threads that write.
struct WriterThread<'a> {
    index: usize,
    round: u32,
    table: ConnTable,
    epochs: &'a Epochs,
    /// Hands out each number twice.
    twice: &'a AtomicU32,
    promises: &'a [AtomicU32],
    promised: usize,
    /// Inserted; with the epoch in which it was answered.
    promising: Vec<(u32, Option<u64>)>,
    own: Vec<u32>,
    inherited: Vec<u32>,
    scan: ExpiryScan,
    random: Random,
    inserts: u32,
    steps: u32,
}

impl<'a> WriterThread<'a> {
    fn new(
        index: usize,
        round: u32,
        table: ConnTable,
        epochs: &'a Epochs,
        twice: &'a AtomicU32,
        promises: &'a [AtomicU32],
    ) -> Self {
        let may_end = |number: &u32| !is_promise(*number) || round_of(*number) + KEPT_ROUNDS <= round;
        Self {
            index,
            round,
            table,
            epochs,
            twice,
            promises,
            promised: 0,
            promising: Vec::new(),
            own: Vec::new(),
            inherited: table.connections().map(|flow| number_of(&flow.original.key)).filter(may_end).collect(),
            scan: ExpiryScan::new(index, THREADS),
            random: Random(u64::from(round) << 8 | index as u64),
            inserts: 0,
            steps: 0,
        }
    }

    /// A second of the table's clock is short here.
    fn now_s(&self) -> u32 {
        self.round * 10_000 + self.steps / 64
    }

    fn step(&mut self) {
        self.steps = self.steps.wrapping_add(1);
        match self.random.below(8) {
            0..=3 => self.insert_some(),
            4 => self.packets(),
            5 | 6 => self.end_some(),
            _ => {
                let now_s = self.now_s();
                self.table.expire(&mut self.scan, 64, now_s, &TIMEOUTS, self.epochs);
            }
        }
        self.promise();
    }

    /// In one go, so that most of the time goes into the table.
    fn insert_some(&mut self) {
        let new: [_; BURST] = std::array::from_fn(|_| {
            let number = self.choose();
            (number, connection(number))
        });
        for (number, new) in &new {
            match self.table.insert(self.index as u8, self.epochs, new, self.now_s()) {
                Ok(_) if is_promise(*number) => self.promising.push((*number, None)),
                Ok(_) => self.own.push(*number),
                // Control has to get at the cores to move the epochs.
                Err(InsertError::TableFull) => thread::yield_now(),
                Err(_) => {}
            }
        }
        while self.own.len() > OWN_MAX {
            self.end_some();
        }
    }

    /// The number of the next connection to insert.
    fn choose(&mut self) -> u32 {
        let place = |number: u32| self.round << 24 | number << 3 & 0x00ff_ffff;
        match self.random.below(4) {
            0 => place(self.twice.fetch_add(1, Ordering::Relaxed) / 2) | SHARED,
            1 => place(self.twice.fetch_add(1, Ordering::Relaxed) / 2) | (self.index as u32) << 2 | COLLIDING,
            _ => {
                self.inserts += 1;
                let number = place(self.inserts) | OF_THREAD[self.index];
                let promises = is_tcp(number) && self.promised + self.promising.len() < KEPT_MAX;
                if promises && self.random.below(64) == 0 { number | PROMISED } else { number }
            }
        }
    }

    /// A packet each way of some of the own connections, where they are still there.
    fn packets(&mut self) {
        for _ in 0..BURST.min(self.own.len()) {
            let number = self.own[self.random.below(self.own.len() as u64) as usize];
            let new = connection(number);
            for direction in [new.original, new.reply] {
                let Some(flow) = self.table.find(&direction.key) else { continue };
                // Another one may have the translated tuple of a colliding connection by now.
                assert!(flow.rewrite == direction.rewrite || number & 3 == COLLIDING, "{number:#x}: {flow:?}");
                self.follow(&flow, TcpSegment::ACK);
            }
        }
    }

    /// A packet of this flow; of TCP, a segment with these flags.
    fn follow(&self, flow: &Flow, flags: u8) {
        let segment = match (flow.protocol, flow.is_reply) {
            (Protocol::Tcp, false) => segment(flags, 1001, 5001),
            (Protocol::Tcp, true) => segment(flags, 5000, 1001),
            _ => Segment::Other,
        };
        self.table.follow(flow, &segment, self.now_s(), &Settings { timeouts: TIMEOUTS, ..Settings::default() });
    }

    /// Ends some that an earlier process left, or some of its own.
    fn end_some(&mut self) {
        let from = if self.inherited.is_empty() { &mut self.own } else { &mut self.inherited };
        let mut found = Vec::with_capacity(BURST);
        for _ in 0..BURST.min(from.len()) {
            let number = from.swap_remove(self.random.below(from.len() as u64) as usize);
            found.extend(self.table.find(&connection(number).original.key));
        }
        for flow in found {
            self.table.end(self.epochs, flow.at);
        }
    }

    /// Answers what is to be promised, and promises it once nobody can still be about to end it.
    fn promise(&mut self) {
        let epoch = self.epochs.current();
        while let Some((number, answered)) = self.promising.first().copied() {
            let answer = self.table.find(&connection(number).reply.key);
            match (answer, answered) {
                // Ended for being idle, or for room.
                (None, _) => _ = self.promising.remove(0),
                (Some(answer), None) => {
                    self.follow(&answer, TcpSegment::SYN | TcpSegment::ACK);
                    if let Some(request) = self.table.find(&connection(number).original.key) {
                        self.follow(&request, TcpSegment::ACK);
                    }
                    // It was idle for too long, and is no more than expiry's.
                    if self.table.state(&answer) != Some(ConnectionState::Tcp(TcpState::Established)) {
                        self.promising.remove(0);
                        continue;
                    }
                    self.promising[0].1 = Some(epoch);
                }
                // Whoever judged it before it was answered has ended his step.
                (Some(_), Some(since)) if since + 2 <= epoch => {
                    self.promising.remove(0);
                    self.promises[self.promised].store(number, Ordering::Release);
                    self.promised += 1;
                }
                (Some(_), Some(_)) => return,
            }
        }
    }
}

/// Whether the connection of a thread's own is one that it promises to keep.
fn is_promise(number: u32) -> bool {
    OF_THREAD.contains(&(number & 3)) && number & PROMISED != 0
}

fn is_tcp(number: u32) -> bool {
    connection(number).original.key.protocol == Protocol::Tcp
}

/// Knuth's linear congruential generator: repeatable, and good enough to choose.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
