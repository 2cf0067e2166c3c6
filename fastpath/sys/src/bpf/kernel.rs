//! One node's kernel side, open: claims, pod ports, sockets, counters.

use std::os::fd::{AsFd, BorrowedFd};

use atalho_layout::{ClaimKey, ClaimKind, KERNEL_COUNTERS, KernelCounter, LpmKey, PortRecord, SECRET_WORDS};
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, XskMap};

use super::error::BpfError;
use super::link;
use super::pinned::{Folder, Sizes, map_error, shapes};
use super::programs::{Constants, Programs};
use super::syscall::{self, Hook};
use crate::check;

/// What [`Kernel::open`] needs.
#[derive(Debug, Clone)]
pub struct Setup {
    pub sizes: Sizes,
    /// Interface indexes in the calling thread's network namespace.
    pub uplink: u32,
    /// The workers' end of the funnel.
    pub f0: u32,
    /// The kernel's end of the funnel.
    pub f1: u32,
    /// Queues of the funnel that have a worker.
    pub workers: u32,
    /// Whether pods are kept from crowding each other out while a worker is overloaded.
    pub is_fair: bool,
    /// The table's secret for a fresh start; a predecessor's stays in force, see [`Kernel::secret`].
    pub secret: [u64; SECRET_WORDS],
}

/// Whether there was a predecessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adopted {
    /// Everything is new and empty.
    Fresh,
    /// Maps and links of a predecessor were taken over: the table may be full of living flows.
    TakenOver,
}

/// The two ports that have AF_XDP sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XskPort {
    Uplink,
    Funnel,
}

/// What the maps hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InForce {
    pub claims: Vec<(ClaimKey, ClaimKind)>,
    pub ranges: Vec<LpmKey>,
    pub pods: Vec<(u32, PortRecord)>,
}

/// A mmapable array: its descriptor, and how many bytes there are to map.
#[derive(Debug, Clone, Copy)]
pub struct SharedMap<'a> {
    pub fd: BorrowedFd<'a>,
    pub bytes: usize,
}

/// The memory that workers share with the programs and their successors.
#[derive(Debug, Clone, Copy)]
pub struct SharedMaps<'a> {
    pub tags4: SharedMap<'a>,
    pub flows4: SharedMap<'a>,
    pub tags6: SharedMap<'a>,
    pub flows6: SharedMap<'a>,
    pub next_hops: SharedMap<'a>,
    pub affinity: SharedMap<'a>,
    /// How full each queue of the funnel is, see [`atalho_layout::pressure`].
    pub pressures: SharedMap<'a>,
}

/// The open kernel side of one node. Dropping it leaves everything in force: that is how flows outlive a restart.
pub struct Kernel {
    folder: Folder,
    pub(super) programs: Programs,
    secret: [u64; SECRET_WORDS],
    shared: [(MapData, usize); 7],
    claims: HashMap<MapData, [u8; CLAIM_BYTES], u32>,
    ranges: LpmTrie<MapData, [u8; 16], u32>,
    ports: HashMap<MapData, u32, [u8; PORT_BYTES]>,
    /// By port and counter.
    pod_drops: HashMap<MapData, [u32; 2], u64>,
    counters: PerCpuArray<MapData, u64>,
    uplink_xsks: XskMap<MapData>,
    funnel_xsks: XskMap<MapData>,
}

/// Interface index of lo in every network namespace (include/net/net_namespace.h, `LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

const CLAIM_BYTES: usize = size_of::<ClaimKey>();
const PORT_BYTES: usize = size_of::<PortRecord>();

impl Kernel {
    /// Makes the kernel side of a node, or takes a predecessor's over, and attaches it.
    ///
    /// `folder`: locked before anything of the node was touched.
    ///
    /// Order matters: what delivers comes first and `steer` last, so nothing is claimed that nobody could handle.
    ///
    /// # Errors
    /// Each variant of [`BpfError`]; nothing of a predecessor is changed unless all checks have passed.
    pub fn open(folder: Folder, setup: &Setup) -> Result<(Self, Adopted), BpfError> {
        setup.sizes.check()?;
        let (uplink, f1) = (check::by_index(setup.uplink)?, check::by_index(setup.f1)?);
        let predecessor = folder.predecessor(&setup.sizes)?;
        refuse_foreign(&folder, &uplink)?;

        let adopted = if predecessor.is_some() { Adopted::TakenOver } else { Adopted::Fresh };
        if adopted == Adopted::Fresh {
            // What an interrupted start left, if anything.
            folder.clear()?;
            folder.make(&setup.sizes, &setup.secret)?;
        }
        let secret = predecessor.unwrap_or(setup.secret);
        let constants = Constants {
            secret,
            f1: setup.f1,
            f1_mac: f1.mac,
            uplink_mac: uplink.mac,
            workers: setup.workers.max(1),
            is_fair: setup.is_fair,
        };
        let programs = Programs::load(&folder.path, &setup.sizes, &constants)?;
        let mut kernel = Self::open_maps(folder, programs, secret, &setup.sizes)?;

        let pins = kernel.folder.path.clone();
        let path = |name: &str| pins.join(name);
        link::attach(&path("deliver"), kernel.programs.deliver(), setup.f1, Hook::TcxIngress)?;
        link::attach(&path("funnel"), kernel.programs.funnel(), setup.f0, Hook::Xdp)?;
        link::attach(&path("uplink-out"), kernel.programs.node_egress(), setup.uplink, Hook::TcxEgress)?;
        link::attach(&path("lo-out"), kernel.programs.loopback_egress(), LOOPBACK, Hook::TcxEgress)?;
        kernel.adopt_pods()?;
        link::attach(&path("steer"), kernel.programs.steer(), setup.uplink, Hook::Xdp)?;
        kernel.folder.mark_complete()?;
        Ok((kernel, adopted))
    }

    fn open_maps(
        folder: Folder,
        programs: Programs,
        secret: [u64; SECRET_WORDS],
        sizes: &Sizes,
    ) -> Result<Self, BpfError> {
        let shapes = shapes(sizes);
        let shared = |name: &'static str| -> Result<(MapData, usize), BpfError> {
            let bytes = shapes.iter().find(|s| s.name == name).map_or(0, super::pinned::Shape::mapped_bytes);
            let data = MapData::from_pin(folder.path.join(name)).map_err(|e| map_error(name, "open", &e))?;
            Ok((data, bytes))
        };
        let shared = [
            shared("tags4")?,
            shared("flows4")?,
            shared("tags6")?,
            shared("flows6")?,
            shared("next_hops")?,
            shared("affinity")?,
            shared("pressures")?,
        ];
        Ok(Self {
            shared,
            claims: typed(&folder, "claims")?,
            ranges: typed(&folder, "ranges")?,
            ports: typed(&folder, "ports")?,
            pod_drops: typed(&folder, "pod_drops")?,
            counters: typed(&folder, "counters")?,
            uplink_xsks: typed(&folder, "uplink_xsks")?,
            funnel_xsks: typed(&folder, "funnel_xsks")?,
            folder,
            programs,
            secret,
        })
    }

    /// Puts the new programs under the pod links of a predecessor; forgets pods whose interface is gone.
    fn adopt_pods(&mut self) -> Result<(), BpfError> {
        for (ifindex, record) in self.pods()? {
            let alive = |name| {
                Ok::<_, BpfError>(link::look(&self.folder.path.join(name))?.is_some_and(|l| l.ifindex == ifindex))
            };
            if alive(pod_in(ifindex))? && alive(pod_out(ifindex))? {
                self.attach_pod(ifindex, &record)?;
            } else {
                self.detach_pod(ifindex)?;
            }
        }
        Ok(())
    }

    /// The table's secret in force: the pinned one after a take-over.
    pub fn secret(&self) -> [u64; SECRET_WORDS] {
        self.secret
    }

    /// The memory shared with the programs.
    pub fn maps(&self) -> SharedMaps<'_> {
        let [tags4, flows4, tags6, flows6, next_hops, affinity, pressures] =
            self.shared.each_ref().map(|(data, bytes)| SharedMap { fd: data.fd().as_fd(), bytes: *bytes });
        SharedMaps { tags4, flows4, tags6, flows6, next_hops, affinity, pressures }
    }

    /// Gives a receive queue to an AF_XDP socket. It leaves the map by itself when it is closed.
    ///
    /// # Errors
    /// [`BpfError::Map`] where the queue is beyond the map or the socket is not bound.
    pub fn set_xsk(&mut self, port: XskPort, queue: u32, socket: BorrowedFd<'_>) -> Result<(), BpfError> {
        let (name, map) = match port {
            XskPort::Uplink => ("uplink_xsks", &mut self.uplink_xsks),
            XskPort::Funnel => ("funnel_xsks", &mut self.funnel_xsks),
        };
        map.set(queue, socket, 0).map_err(|e| map_error(name, "insert a socket", &e))
    }

    /// Makes a destination ours; an existing claim changes its kind.
    ///
    /// # Errors
    /// [`BpfError::Map`], as for all that follow: the map is full or the kernel has no memory.
    pub fn claim(&mut self, key: &ClaimKey, kind: ClaimKind) -> Result<(), BpfError> {
        self.claims.insert(claim_bytes(key), kind as u32, 0).map_err(|e| map_error("claims", "insert", &e))
    }

    /// Gives a destination up; an unknown one is no error.
    pub fn unclaim(&mut self, key: &ClaimKey) -> Result<(), BpfError> {
        absent_is_fine(self.claims.remove(&claim_bytes(key)), "claims")
    }

    /// Makes a range of Services ours.
    pub fn claim_range(&mut self, key: &LpmKey) -> Result<(), BpfError> {
        let value = ClaimKind::ServiceCidr as u32;
        self.ranges.insert(&Key::new(key.prefix_len, key.addr), value, 0).map_err(|e| map_error("ranges", "insert", &e))
    }

    /// Gives a range up; an unknown one is no error.
    pub fn unclaim_range(&mut self, key: &LpmKey) -> Result<(), BpfError> {
        absent_is_fine(self.ranges.remove(&Key::new(key.prefix_len, key.addr)), "ranges")
    }

    /// Takes a pod's port: its record first, so the programs know it with their first packet.
    pub fn attach_pod(&mut self, ifindex: u32, record: &PortRecord) -> Result<(), BpfError> {
        self.ports.insert(ifindex, port_bytes(record), 0).map_err(|e| map_error("ports", "insert", &e))?;
        let folder = &self.folder.path;
        let attached =
            link::attach(&folder.join(pod_out(ifindex)), self.programs.node_egress(), ifindex, Hook::TcxEgress)
                .and_then(|()| {
                    link::attach(&folder.join(pod_in(ifindex)), self.programs.pod_ingress(), ifindex, Hook::TcxIngress)
                });
        if attached.is_err() {
            // Half a port is none; the first error is the one to tell.
            let _ = self.detach_pod(ifindex);
        }
        attached
    }

    /// Gives a pod's port up; one whose interface is gone, or that never was, is no error.
    pub fn detach_pod(&mut self, ifindex: u32) -> Result<(), BpfError> {
        link::detach(&self.folder.path.join(pod_in(ifindex)))?;
        link::detach(&self.folder.path.join(pod_out(ifindex)))?;
        for counter in KERNEL_COUNTERS {
            absent_is_fine(self.pod_drops.remove(&[ifindex, *counter as u32]), "pod_drops")?;
        }
        absent_is_fine(self.ports.remove(&ifindex), "ports")
    }

    fn pods(&self) -> Result<Vec<(u32, PortRecord)>, BpfError> {
        let entry = |e: Result<(u32, [u8; PORT_BYTES]), MapError>| e.map(|(ifindex, bytes)| (ifindex, port_of(&bytes)));
        let pods: Result<Vec<_>, _> = self.ports.iter().map(entry).collect();
        let mut pods = pods.map_err(|e| map_error("ports", "read", &e))?;
        pods.sort_by_key(|(ifindex, _)| *ifindex);
        Ok(pods)
    }

    /// Every claim, range and pod port in force, sorted.
    pub fn in_force(&self) -> Result<InForce, BpfError> {
        let mut claims = Vec::new();
        for entry in self.claims.iter() {
            let (bytes, kind) = entry.map_err(|e| map_error("claims", "read", &e))?;
            // A kind that we do not know was not written by this layout; it is left out, so control writes it anew.
            claims.extend(kind_of(kind).map(|kind| (claim_of(&bytes), kind)));
        }
        claims.sort_by_key(|(key, _)| claim_bytes(key));
        let mut ranges = Vec::new();
        for key in self.ranges.keys() {
            let key = key.map_err(|e| map_error("ranges", "read", &e))?;
            ranges.push(LpmKey { prefix_len: key.prefix_len(), addr: key.data() });
        }
        ranges.sort_by_key(|key| (key.addr, key.prefix_len));
        Ok(InForce { claims, ranges, pods: self.pods()? })
    }

    /// What was dropped of each pod port, by counter; what has not happened is left out.
    pub fn pod_drops(&self) -> Result<Vec<(u32, KernelCounter, u64)>, BpfError> {
        let mut drops = Vec::new();
        for entry in self.pod_drops.iter() {
            let ([ifindex, counter], packets) = entry.map_err(|e| map_error("pod_drops", "read", &e))?;
            drops.extend(KERNEL_COUNTERS.get(counter as usize).map(|counter| (ifindex, *counter, packets)));
        }
        Ok(drops)
    }

    /// The programs' counters, in the order of [`atalho_layout::KERNEL_COUNTERS`], summed over CPUs.
    pub fn counters(&self) -> Result<Vec<u64>, BpfError> {
        let sum = |index: u32| self.counters.get(&index, 0).map(|values| values.iter().sum());
        let sums: Result<Vec<u64>, _> = (0..self.counters.len()).map(sum).collect();
        sums.map_err(|e| map_error("counters", "read", &e))
    }
}

fn pod_in(ifindex: u32) -> String {
    format!("pod-{ifindex}-in")
}

fn pod_out(ifindex: u32) -> String {
    format!("pod-{ifindex}-out")
}

/// Another program on the uplink would decide before or after ours what becomes of a packet: refused by name.
fn refuse_foreign(folder: &Folder, uplink: &check::Interface) -> Result<(), BpfError> {
    let ours = |name: &str| -> Result<Option<u32>, BpfError> {
        let info = link::look(&folder.path.join(name))?;
        Ok(info.filter(|link| link.ifindex == uplink.ifindex).map(|link| link.program))
    };
    let foreign = |hook: Hook, id: u32| BpfError::Foreign {
        interface: uplink.name.clone(),
        hook: hook.name(),
        id,
        name: syscall::program_name(id).ok().filter(|n| !n.is_empty()).unwrap_or_else(|| "no name".into()),
    };
    if let Some(id) = uplink.xdp_program
        && ours("steer")? != Some(id)
    {
        return Err(foreign(Hook::Xdp, id));
    }
    for (hook, name) in [(Hook::TcxEgress, "uplink-out"), (Hook::TcxIngress, "uplink-in")] {
        let ids = syscall::tcx_programs(uplink.ifindex, hook).map_err(|source| BpfError::Attach {
            link: name.into(),
            ifindex: uplink.ifindex,
            source,
        })?;
        let ours = ours(name)?;
        if let Some(id) = ids.into_iter().find(|id| Some(*id) != ours) {
            return Err(foreign(hook, id));
        }
    }
    Ok(())
}

fn typed<T: TryFrom<Map, Error = MapError>>(folder: &Folder, name: &'static str) -> Result<T, BpfError> {
    MapData::from_pin(folder.path.join(name))
        .and_then(Map::from_map_data)
        .and_then(T::try_from)
        .map_err(|e| map_error(name, "open", &e))
}

fn absent_is_fine(removed: Result<(), MapError>, map: &'static str) -> Result<(), BpfError> {
    match removed {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(map_error(map, "remove", &error)),
    }
}

fn kind_of(kind: u32) -> Option<ClaimKind> {
    [ClaimKind::Vip, ClaimKind::NodePort, ClaimKind::Pod, ClaimKind::ServiceCidr, ClaimKind::Node]
        .into_iter()
        .find(|known| *known as u32 == kind)
}

/// The bytes of `struct claim_key`, see [`atalho_layout::CLAIM_KEY`].
fn claim_bytes(key: &ClaimKey) -> [u8; CLAIM_BYTES] {
    let mut bytes = [0; CLAIM_BYTES];
    bytes[..16].copy_from_slice(&key.addr);
    bytes[16..18].copy_from_slice(&key.port);
    bytes[18] = key.protocol;
    bytes
}

fn claim_of(bytes: &[u8; CLAIM_BYTES]) -> ClaimKey {
    let mut key = ClaimKey { protocol: bytes[18], ..ClaimKey::default() };
    key.addr.copy_from_slice(&bytes[..16]);
    key.port.copy_from_slice(&bytes[16..18]);
    key
}

/// The bytes of `struct port_record`, see [`atalho_layout::PORT`].
fn port_bytes(record: &PortRecord) -> [u8; PORT_BYTES] {
    let mut bytes = [0; PORT_BYTES];
    bytes[..6].copy_from_slice(&record.pod_mac);
    bytes[6..12].copy_from_slice(&record.host_mac);
    bytes[12..16].copy_from_slice(&record.addr4);
    bytes[16..].copy_from_slice(&record.addr6);
    bytes
}

fn port_of(bytes: &[u8; PORT_BYTES]) -> PortRecord {
    let mut record = PortRecord::default();
    record.pod_mac.copy_from_slice(&bytes[..6]);
    record.host_mac.copy_from_slice(&bytes[6..12]);
    record.addr4.copy_from_slice(&bytes[12..16]);
    record.addr6.copy_from_slice(&bytes[16..]);
    record
}
