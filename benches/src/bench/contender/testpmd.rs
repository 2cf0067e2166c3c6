//! DPDK's own test program over its AF_XDP driver, as the distribution packages both.

use anyhow::Result;

use super::process::Process;
use super::{Contender, Ground, Running, Way};

pub struct Testpmd;

impl Contender for Testpmd {
    fn name(&self) -> String {
        "DPDK testpmd, net_af_xdp".into()
    }

    fn way(&self) -> Way {
        Way::Reflected
    }

    fn cores(&self) -> u32 {
        2
    }

    fn start(&self, ground: &Ground<'_>) -> Result<Option<Box<dyn Running>>> {
        let cores = format!("{},{}", ground.spare, ground.core);
        let (main, prefix) = (ground.spare.to_string(), format!("--file-prefix={}", ground.plan.prefix));
        // What it prints would stay in its buffer while its output is a file. The main thread only waits for a key; one core forwards, from one queue of the port back to it.
        // Bursts of 64 were its best: 32 took 1 to 9 % longer, 256 a fifth, 512 twice as long. Descriptors of 2,048 or 4,096 (as
        // many as Atalho's uplink has) and busy polling on (its default) or off made no difference.
        #[rustfmt::skip]
        let command = [
            "stdbuf", "-oL", "dpdk-testpmd", "-l", &cores, "--main-lcore", &main, "--no-huge", "-m", "512", "--no-pci", "--no-telemetry",
            &prefix, "--vdev", "net_af_xdp0,iface=uplink,start_queue=0,queue_count=1", "--",
            "--forward-mode=macswap", "--auto-start", "--nb-cores=1", "--burst=64", "--rxd=4096", "--txd=4096",
            "--total-num-mbufs=32768",
        ];
        let log = ground.plan.folder().join("testpmd.log");
        Ok(Some(Box::new(Process::start(&ground.plan.node(), &command, log, "Press enter to exit")?)))
    }
}
