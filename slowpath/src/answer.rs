//! Which answer a punted packet gets, if it may get one.

use atalho_engine::tables::Tables;
use atalho_engine::verdict::{DropReason, PuntReason};
use etherparse::IpNumber;

use crate::abort;
use crate::icmp::{self, Error};
use crate::punted::Punted;
use crate::reset;

/// The answer, from the IP header on. `mtu`: of the next hop that `packet` did not fit.
///
/// Service addresses answer for themselves; as a router the node answers with its primary address, which is the pods'
/// gateway's stand-in and routed everywhere. To the node itself the destination answers: its stack refuses what comes in by a
/// port with a source of its own.
///
/// # Errors
/// Why there is none.
pub fn answer(packet: &Punted<'_>, reason: PuntReason, mtu: u16, tables: &Tables) -> Result<Vec<u8>, DropReason> {
    match reason {
        PuntReason::EchoToVip => {
            may(!packet.is_fragment(), DropReason::Fragment)?;
            may(packet.is_answerable(), DropReason::SlowPathMalformed)?;
            may(packet.has_valid_transport(), DropReason::BadChecksum)?;
            icmp::echo_reply(packet).ok_or(DropReason::SlowPathMalformed)
        }
        // The checksum covers what is elsewhere, and so does the sequence number of a reset.
        PuntReason::NoEndpoint | PuntReason::UnknownServicePort if packet.is_fragment() => {
            may(packet.may_cause_error() && packet.protocol != IpNumber::TCP.0, DropReason::Fragment)?;
            icmp::error(packet.dst, packet, Error::PortUnreachable).ok_or(DropReason::SlowPathMalformed)
        }
        PuntReason::NoEndpoint | PuntReason::UnknownServicePort => {
            may(packet.is_answerable() && packet.may_cause_error(), DropReason::SlowPathMalformed)?;
            may(packet.has_valid_transport(), DropReason::BadChecksum)?;
            let answer = if packet.protocol == IpNumber::TCP.0 {
                reset::reset(packet)
            } else {
                icmp::error(packet.dst, packet, Error::PortUnreachable)
            };
            answer.ok_or(DropReason::SlowPathMalformed)
        }
        PuntReason::NoConnection => {
            let is_tcp = packet.protocol == IpNumber::TCP.0;
            may(!packet.is_fragment(), if is_tcp { DropReason::TcpNotSyn } else { DropReason::SctpNotInit })?;
            may(packet.is_answerable(), DropReason::SlowPathMalformed)?;
            may(packet.has_valid_transport(), DropReason::BadChecksum)?;
            let answer = if is_tcp { reset::reset(packet) } else { abort::abort(packet) };
            answer.ok_or(DropReason::SlowPathMalformed)
        }
        PuntReason::TtlExceeded => router_error(packet, Error::TimeExceeded, DropReason::TtlExceededSilently, tables),
        PuntReason::TooBig => {
            may(mtu != 0, DropReason::TooBig)?;
            router_error(packet, Error::TooBig { mtu }, DropReason::TooBig, tables)
        }
        PuntReason::Unreachable => router_error(packet, Error::NetUnreachable, DropReason::NoRoute, tables),
        // It has waited long enough.
        PuntReason::NeighbourUnresolved => {
            router_error(packet, Error::HostUnreachable, DropReason::NeighbourTimeout, tables)
        }
        // These wait or go on, see `crate::slow_path`.
        PuntReason::Fragment | PuntReason::ToCut | PuntReason::TrackedElsewhere => Err(DropReason::SlowPathMalformed),
    }
}

fn router_error(
    packet: &Punted<'_>,
    what: Error,
    silently: DropReason,
    tables: &Tables,
) -> Result<Vec<u8>, DropReason> {
    may(packet.may_cause_error(), silently)?;
    let source = match tables.is_node_address(packet.src) {
        true => packet.dst,
        false => tables.primary_address(packet.src).ok_or(silently)?,
    };
    icmp::error(source, packet, what).ok_or(silently)
}

fn may(allowed: bool, otherwise: DropReason) -> Result<(), DropReason> {
    if allowed { Ok(()) } else { Err(otherwise) }
}
