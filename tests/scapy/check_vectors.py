"""Reads the packets of a pcap with scapy and computes every length and checksum in them anew.

    check_vectors.py PACKETS.pcap NAMES.txt

Line n of NAMES says what packet n is. Exit code 1 where a packet is not as scapy would have it.
"""

import sys

from scapy.layers.inet import IP, UDP, IPerror, in4_chksum
from scapy.layers.inet6 import IPv6, IPerror6, in6_chksum
from scapy.layers.l2 import Ether
from scapy.layers.sctp import crc32c
from scapy.utils import RawPcapReader, checksum

ICMP_NUMBER, TCP_NUMBER, UDP_NUMBER, ICMPV6_NUMBER, SCTP_NUMBER = 1, 6, 17, 58, 132
ICMP_ERRORS = {ICMP_NUMBER: {3, 11, 12}, ICMPV6_NUMBER: {1, 2, 3, 4}}
FRAGMENT_HEADER, AUTHENTICATION_HEADER = 44, 51
EXTENSION_HEADERS = {0, 43, FRAGMENT_HEADER, AUTHENTICATION_HEADER, 60}


class Wrong(Exception):
    """A field that is not what it must be."""


def expect(what, found, wanted):
    if found != wanted:
        raise Wrong(f"{what} is {found:#x}, must be {wanted:#x}")


def check_ipv4(ip, data, is_quoted):
    header_bytes = ip.ihl * 4
    expect("sum over the IPv4 header", checksum(data[:header_bytes]), 0)
    if not is_quoted:
        expect("total length", ip.len, len(data))
    is_whole = len(data) >= ip.len and not ip.flags.MF and ip.frag == 0
    if is_whole:
        check_transport(ip, ip.proto, data[header_bytes : ip.len])


def check_ipv6(ip, data, is_quoted):
    packet_bytes = 40 + ip.plen
    if not is_quoted:
        expect("payload length", ip.plen, len(data) - 40)
    number, at, is_fragment = ip.nh, 40, False
    # By hand: scapy stops at routing headers without addresses and at authentication headers of any kind.
    while number in EXTENSION_HEADERS and at + 4 <= len(data):
        next_number, units = data[at], data[at + 1]
        if number == FRAGMENT_HEADER:
            is_fragment |= int.from_bytes(data[at + 2 : at + 4], "big") & 0xFFF9 != 0
            at += 8
        else:
            at += (units + 2) * 4 if number == AUTHENTICATION_HEADER else (units + 1) * 8
        number = next_number
    if len(data) >= packet_bytes and not is_fragment:
        check_transport(ip, number, data[at:packet_bytes])


def pseudo_checksum(ip, number, data):
    if ip.version == 4:
        # It takes an IP that is no quotation, and only looks at its addresses and length.
        return in4_chksum(number, IP(src=ip.src, dst=ip.dst), data)
    return in6_chksum(number, IPv6(src=ip.src, dst=ip.dst, nh=number), data)


def check_transport(ip, number, data):
    """`data` is all that there is behind the IP headers."""
    if number == TCP_NUMBER:
        expect("sum over TCP", pseudo_checksum(ip, number, data), 0)
    elif number == UDP_NUMBER:
        udp = UDP(data)
        if udp.len > len(data) or udp.len < 8:
            raise Wrong(f"UDP length is {udp.len}, there are {len(data)} bytes")
        if udp.chksum == 0 and ip.version == 4:
            return
        if udp.chksum == 0:
            raise Wrong("IPv6 UDP without a checksum")
        expect("sum over UDP", pseudo_checksum(ip, number, data[: udp.len]), 0)
    elif number == SCTP_NUMBER:
        found = int.from_bytes(data[8:12], "big")
        expect("CRC32c", found, crc32c(data[:8] + bytes(4) + data[12:]))
    elif number == ICMP_NUMBER:
        expect("sum over ICMP", checksum(data), 0)
        check_quotation(number, data)
    elif number == ICMPV6_NUMBER:
        expect("sum over ICMPv6", pseudo_checksum(ip, number, data), 0)
        check_quotation(number, data)
    else:
        raise Wrong(f"protocol {number} is not expected")


def check_quotation(number, message):
    if message[0] not in ICMP_ERRORS[number]:
        return
    quoted = message[8:]
    if number == ICMP_NUMBER:
        check_ipv4(IPerror(quoted), quoted, True)
    else:
        check_ipv6(IPerror6(quoted), quoted, True)


def check(frame):
    ether = Ether(frame)
    if IP in ether:
        check_ipv4(ether[IP], frame[14:], False)
    elif IPv6 in ether:
        check_ipv6(ether[IPv6], frame[14:], False)
    else:
        raise Wrong("neither IPv4 nor IPv6")


def main(pcap_path, names_path):
    with open(names_path, encoding="utf-8") as file:
        names = file.read().splitlines()
    packets = wrong = 0
    with RawPcapReader(pcap_path) as reader:
        for name, (frame, _) in zip(names, reader):
            packets += 1
            try:
                check(frame)
            except Wrong as error:
                wrong += 1
                print(f"packet {packets} ({name}): {error}")
    print(f"{wrong} of {packets} packets are wrong")
    return 1 if wrong or packets != len(names) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
