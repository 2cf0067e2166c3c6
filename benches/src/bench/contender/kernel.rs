//! The node's kernel as a router: no Service, no translation, no connection.

use anyhow::Result;

use super::{Contender, Ground, Running, Way};

pub struct Kernel;

impl Contender for Kernel {
    fn name(&self) -> String {
        "kernel forwarding, no NAT".into()
    }

    fn way(&self) -> Way {
        Way::Routed
    }

    fn cores(&self) -> u32 {
        1
    }

    fn kernel_forwards(&self) -> bool {
        true
    }

    fn start(&self, _ground: &Ground<'_>) -> Result<Option<Box<dyn Running>>> {
        Ok(None)
    }
}
