//! A pod's port, keyed by the interface index of its host end: what the kernel side needs to deliver and to check.

use crate::flow::{Field, Struct};

/// Value of the port map. Addresses in network byte order; all zero where the pod has none of that family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct PortRecord {
    /// The pod's own MAC; all zero while unknown.
    pub pod_mac: [u8; 6],
    /// The host end's MAC, which is the pod's gateway.
    pub host_mac: [u8; 6],
    pub addr4: [u8; 4],
    pub addr6: [u8; 16],
}

/// The C view of [`PortRecord`].
pub const PORT: Struct = Struct {
    name: "port_record",
    size: 32,
    fields: &[
        Field { name: "POD_MAC", offset: 0, c_type: "__u8", count: 6 },
        Field { name: "HOST_MAC", offset: 6, c_type: "__u8", count: 6 },
        Field { name: "ADDR4", offset: 12, c_type: "__u8", count: 4 },
        Field { name: "ADDR6", offset: 16, c_type: "__u8", count: 16 },
    ],
};

const _: () = {
    assert!(size_of::<PortRecord>() == PORT.size);
    assert!(std::mem::offset_of!(PortRecord, host_mac) == 6);
    assert!(std::mem::offset_of!(PortRecord, addr4) == 12);
    assert!(std::mem::offset_of!(PortRecord, addr6) == 16);
};
