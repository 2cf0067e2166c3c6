//! The kernel side: programs, maps and links, pinned under `<bpffs>/atalho/<node>/` so that they outlive the process.
//!
//! [`Kernel::open`] makes them, or takes over what a predecessor left: maps are adopted if they are exactly what we would
//! make, programs are loaded anew and put under the pinned links in place. Two nodes live on one machine in two folders.
//!
//! What it does not do: decide what is claimed and which pods there are. That is control's, by the calls of [`Kernel`].

mod error;
mod grace;
mod kernel;
mod link;
mod pinned;
mod programs;
mod syscall;
#[cfg(test)]
mod tests;
mod uninstall;

pub use error::BpfError;
pub use grace::Grace;
pub use kernel::{Adopted, InForce, Kernel, Setup, SharedMap, SharedMaps, XskPort};
pub use pinned::{Folder, Sizes};
pub use uninstall::uninstall;
