//! Loading the programs with the node's maps and constants.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use atalho_layout::{SECRET_WORDS, SHARES_PER_QUEUE};
use aya::programs::{Program, ProgramError, ProgramFd, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};

use super::error::BpfError;
use super::pinned::{self, Sizes, chain};

static STEER: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.o"));
static FUNNEL: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/funnel.o"));
static POD: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pod.o"));
static LOOPBACK: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/loopback.o"));
static DELIVER: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/deliver.o"));

/// What the programs are told once, at loading.
#[derive(Debug)]
pub(super) struct Constants {
    pub(super) secret: [u64; SECRET_WORDS],
    pub(super) f1: u32,
    pub(super) f1_mac: [u8; 6],
    pub(super) uplink_mac: [u8; 6],
    pub(super) workers: u32,
    /// Whether pods are kept from crowding each other out.
    pub(super) is_fair: bool,
}

/// The loaded programs. Links hold them too, so dropping this detaches nothing.
#[derive(Debug)]
pub(super) struct Programs {
    steer: Ebpf,
    funnel: Ebpf,
    pod: Ebpf,
    loopback: Ebpf,
    deliver: Ebpf,
}

impl Programs {
    /// Loads all programs. Maps are opened where they are pinned in `folder`, else made and pinned there.
    pub(super) fn load(folder: &Path, sizes: &Sizes, constants: &Constants) -> Result<Self, BpfError> {
        let is_fair = u8::from(constants.is_fair);
        let mut loader = EbpfLoader::new();
        for shape in pinned::shapes(sizes) {
            loader.map_pin_path(shape.name, folder.join(shape.name));
            loader.map_max_entries(shape.name, shape.entries);
        }
        loader
            .map_max_entries("shares", constants.workers * SHARES_PER_QUEUE)
            .override_global("is_fair", &is_fair, false)
            .override_global("secret", &constants.secret, false)
            .override_global("buckets4", &sizes.buckets4, false)
            .override_global("buckets6", &sizes.buckets6, false)
            .override_global("f1_ifindex", &constants.f1, false)
            .override_global("f1_mac", &constants.f1_mac, false)
            .override_global("uplink_mac", &constants.uplink_mac, false)
            .override_global("workers", &constants.workers, false);
        let mut open = |program, object| loader.load(object).map_err(|e| BpfError::Load { program, reason: chain(&e) });
        let (mut steer, mut funnel) = (open("steer", STEER)?, open("funnel", FUNNEL)?);
        let (mut pod, mut loopback) = (open("pod", POD)?, open("loopback", LOOPBACK)?);
        let mut deliver = open("deliver", DELIVER)?;
        load_xdp(&mut steer, "steer")?;
        load_xdp(&mut funnel, "funnel")?;
        load_tcx(&mut pod, "pod_ingress")?;
        load_tcx(&mut pod, "node_egress")?;
        load_tcx(&mut loopback, "loopback_egress")?;
        load_tcx(&mut deliver, "deliver")?;
        Ok(Self { steer, funnel, pod, loopback, deliver })
    }

    pub(super) fn steer(&self) -> BorrowedFd<'_> {
        fd(&self.steer, "steer")
    }

    pub(super) fn funnel(&self) -> BorrowedFd<'_> {
        fd(&self.funnel, "funnel")
    }

    pub(super) fn pod_ingress(&self) -> BorrowedFd<'_> {
        fd(&self.pod, "pod_ingress")
    }

    pub(super) fn node_egress(&self) -> BorrowedFd<'_> {
        fd(&self.pod, "node_egress")
    }

    pub(super) fn loopback_egress(&self) -> BorrowedFd<'_> {
        fd(&self.loopback, "loopback_egress")
    }

    pub(super) fn deliver(&self) -> BorrowedFd<'_> {
        fd(&self.deliver, "deliver")
    }

    /// Runs a program once on a made-up packet (Documentation/bpf/bpf_prog_run.rst); returns its action.
    #[cfg(test)]
    pub(super) fn run(&self, program: &str, options: aya::programs::TestRunOptions<'_>) -> Result<u32, String> {
        use aya::programs::TestRun;
        let mut objects = [&self.steer, &self.funnel, &self.pod, &self.loopback, &self.deliver].into_iter();
        let found = objects.find_map(|object| object.program(program)).ok_or("no such program")?;
        let ran = match found {
            Program::Xdp(xdp) => xdp.test_run(options),
            Program::SchedClassifier(tcx) => tcx.test_run(options),
            _ => return Err("neither XDP nor tcx".into()),
        };
        ran.map(|result| result.return_value).map_err(|e| chain(&e))
    }
}

/// How often a load that a signal interrupted is tried again.
const LOADS_MAX: u32 = 20;

fn load_xdp(object: &mut Ebpf, program: &'static str) -> Result<(), BpfError> {
    let xdp: &mut Xdp = named(object, program)?;
    load(program, || xdp.load())
}

fn load_tcx(object: &mut Ebpf, program: &'static str) -> Result<(), BpfError> {
    let tcx: &mut SchedClassifier = named(object, program)?;
    load(program, || tcx.load())
}

fn named<'a, P>(object: &'a mut Ebpf, program: &'static str) -> Result<P, BpfError>
where
    P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let failed = |reason: String| BpfError::Load { program, reason };
    let found = object.program_mut(program).ok_or_else(|| failed("it is not in its object file".into()))?;
    P::try_from(found).map_err(|e| failed(chain(&e)))
}

/// The verifier gives up with EAGAIN when a signal is pending, whatever it is for.
fn load(program: &'static str, mut attempt: impl FnMut() -> Result<(), ProgramError>) -> Result<(), BpfError> {
    for _ in 1..LOADS_MAX {
        match attempt() {
            Err(ProgramError::LoadError { io_error, .. }) if io_error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done.map_err(|e| BpfError::Load { program, reason: chain(&e) }),
        }
    }
    attempt().map_err(|e| BpfError::Load { program, reason: chain(&e) })
}

/// The descriptor of a program that `Programs::load` has loaded.
fn fd<'a>(object: &'a Ebpf, program: &str) -> BorrowedFd<'a> {
    let fd: &ProgramFd = object.program(program).and_then(|p| p.fd().ok()).expect("Programs::load loaded it");
    fd.as_fd()
}
