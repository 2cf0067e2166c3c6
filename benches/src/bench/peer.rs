//! Everybody there is to be measured.

use super::cluster::Cluster;
use super::contender::Contender;
use super::contender::kernel::Kernel;
use super::contender::kube_proxy::KubeProxy;
use super::contender::l2fwd::L2fwd;
use super::contender::testpmd::Testpmd;
use super::contender::worker::Worker;
use super::programs::{FLOWS_MAX, Flows};

/// By the number of Services where that makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Datagrams' flows that are not answered live for so many seconds.
    Worker {
        services: u32,
        udp_s: u32,
    },
    KubeProxy(u32),
    Kernel,
    L2fwd,
    Testpmd,
}

impl Peer {
    /// Flows that last must not end because the generator has not come round to them; flows that are to be new have to make
    /// room. A node whose table a million of them fill is one of its own.
    pub fn worker(services: u32, flows: Flows) -> Self {
        let udp_s = match flows {
            Flows::Lasting(FLOWS_MAX) => 7200,
            Flows::Lasting(_) => 3600,
            Flows::Fresh => 30,
        };
        Self::Worker { services, udp_s }
    }

    pub fn contender(self) -> Box<dyn Contender> {
        match self {
            Self::Worker { services, udp_s } => Box::new(Worker { cluster: Cluster { services }, udp_s }),
            Self::KubeProxy(services) => Box::new(KubeProxy { cluster: Cluster { services } }),
            Self::Kernel => Box::new(Kernel),
            Self::L2fwd => Box::new(L2fwd),
            Self::Testpmd => Box::new(Testpmd),
        }
    }

    /// Part of the names of its namespaces.
    pub fn label(self) -> String {
        match self {
            Self::Worker { services, udp_s } => format!("worker{services}-{udp_s}"),
            Self::KubeProxy(services) => format!("proxy{services}"),
            Self::Kernel => "kernel".into(),
            Self::L2fwd => "l2fwd".into(),
            Self::Testpmd => "testpmd".into(),
        }
    }
}
