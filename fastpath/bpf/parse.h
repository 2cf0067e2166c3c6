/* From a frame to what a claim needs: addresses, and the tuple to look up in the connection table.
 *
 * Addresses stand as 16 bytes, IPv4 as ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2), so that one claim map serves both
 * families. An ICMP error is looked up by the packet that it quotes, turned round: it concerns the flow whose answers
 * would have come that way (RFC 5508 section 4). Echo: the identifier is the requester's port, the other side's is 0.
 *
 * What it does not do: check lengths and checksums. A packet that is ours goes to a worker, which checks everything.
 */
#pragma once
#include "kernel.h"

#define MAPPED_PREFIX htonl(0xffff)
#define EXTENSION_HEADERS_MAX 6 /* as in the workers: fastpath/engine/src/wire/ipv6.rs */

struct tuple {
    __u32 src[4];
    __u32 dst[4];
    __u32 ports; /* the source port's two bytes, then the destination's, as they stand in the packet */
    __u32 protocol;
};

enum fragment { WHOLE, FIRST_FRAGMENT, LATER_FRAGMENT };
enum parsed { PARSED, NOT_IP, MALFORMED };

struct packet {
    struct tuple own;  /* of the packet itself */
    struct tuple flow; /* to look up: own, or the reverse of what an ICMP error quotes */
    __u32 fragment_id;
    __u8 fragment;
    __u8 is_ipv6;
    __u8 has_flow;  /* `flow` is complete */
    __u8 icmp_type; /* where protocol is ICMP or ICMPv6 */
};

struct ipv4_header {
    __u8 version_ihl;
    __u8 tos;
    __u16 total_len;
    __u16 id;
    __u16 fragment;
    __u8 ttl;
    __u8 protocol;
    __u16 checksum;
    __u32 src;
    __u32 dst;
};

struct ipv6_header {
    __u32 version_class_label;
    __u16 payload_len;
    __u8 next_header;
    __u8 hop_limit;
    __u32 src[4];
    __u32 dst[4];
};

INLINE bool is_tcp_like(__u32 protocol)
{
    return protocol == PROTO_TCP || protocol == PROTO_UDP || protocol == PROTO_SCTP;
}

INLINE void set_ipv4(struct tuple *t, __u32 src, __u32 dst)
{
    t->src[0] = t->src[1] = t->dst[0] = t->dst[1] = 0;
    t->src[2] = t->dst[2] = MAPPED_PREFIX;
    t->src[3] = src;
    t->dst[3] = dst;
}

/* Ports of TCP, UDP and SCTP, identifier of echo. False where there are none or they lie outside. */
INLINE bool parse_ports(struct tuple *t, void *l4, void *end)
{
    if (is_tcp_like(t->protocol)) {
        if (l4 + 4 > end)
            return false;
        t->ports = *(__u32 *)l4;
        return true;
    }
    if (t->protocol != PROTO_ICMP && t->protocol != PROTO_ICMPV6)
        return false;
    if (l4 + 8 > end)
        return false;
    __u8 type = *(__u8 *)l4;
    __u32 identifier = *(__u16 *)(l4 + 4);
    bool request = t->protocol == PROTO_ICMP ? type == 8 : type == 128;
    bool reply = t->protocol == PROTO_ICMP ? type == 0 : type == 129;
    t->ports = request ? identifier : identifier << 16;
    return request || reply;
}

INLINE bool is_icmp_error(__u32 protocol, __u8 type)
{
    if (protocol == PROTO_ICMP) /* unreachable, time exceeded, parameter problem */
        return type == 3 || type == 11 || type == 12;
    return protocol == PROTO_ICMPV6 && type >= 1 && type <= 4;
}

/* Where a walk over IPv6 extension headers has come to. */
struct extensions {
    __u8 next;     /* the type of what stands at `at` */
    __u8 fragment; /* enum fragment */
    __u32 fragment_id;
    void *at;
};

#define EXTENSION_HEADERS                                                                                      \
    (1ULL << PROTO_HOP_BY_HOP | 1ULL << PROTO_ROUTING | 1ULL << PROTO_FRAGMENT | 1ULL << PROTO_AUTHENTICATION | \
     1ULL << PROTO_DESTINATION)

/* 1 where they are equal, else 0, without a branch. */
INLINE __u64 is_equal(__u64 a, __u64 b)
{
    __u64 difference = a ^ b;
    asm volatile("" : "+r"(difference));
    return (difference - 1) >> 63;
}

/* The length of an extension header. Without a branch: the verifier follows each one on its own through all that comes
 * behind, and there are twelve of them in an error about a packet with headers.
 */
INLINE __u32 extension_bytes(__u8 type, __u8 units)
{
    __u64 is_authentication = is_equal(type, PROTO_AUTHENTICATION); /* in four bytes, less two of them: RFC 4302 section 2.2 */
    __u64 is_fragment = is_equal(type, PROTO_FRAGMENT);             /* always eight bytes */
    return ((units & (is_fragment - 1)) + 1 + is_authentication) * (8 - 4 * is_authentication);
}

/* Walks to the transport header, or to what follows a later fragment's header. False where the frame ends before. */
INLINE bool walk_extensions(struct extensions *e, void *end)
{
    for (int i = 0; i < EXTENSION_HEADERS_MAX; i++) {
        if (e->next > 63 || !(EXTENSION_HEADERS >> e->next & 1))
            return true;
        if (e->at + 8 > end)
            return false;
        __u8 *header = e->at;
        __u8 type = e->next;
        e->next = header[0];
        e->at += extension_bytes(type, header[1]);
        if (type == PROTO_FRAGMENT) {
            __u16 offset_more = ntohs(*(__u16 *)(header + 2));
            e->fragment_id = *(__u32 *)(header + 4);
            e->fragment = offset_more & 0xfff8 ? LATER_FRAGMENT : offset_more & 1 ? FIRST_FRAGMENT : WHOLE;
            if (e->fragment == LATER_FRAGMENT)
                return true;
        }
    }
    return true;
}

/* The flow of an ICMP error: the packet it quotes, turned round. */
INLINE bool parse_quote(struct packet *p, void *quote, void *end)
{
    struct tuple sent = {};
    void *l4;
    if (p->is_ipv6) {
        struct ipv6_header *ip = quote;
        if ((void *)(ip + 1) > end)
            return false;
        copy(sent.src, ip->src, 16);
        copy(sent.dst, ip->dst, 16);
        struct extensions e = { .next = ip->next_header, .at = ip + 1 };
        if (!walk_extensions(&e, end) || e.fragment == LATER_FRAGMENT)
            return false;
        sent.protocol = e.next;
        l4 = e.at;
    } else {
        struct ipv4_header *ip = quote;
        if ((void *)(ip + 1) > end || ip->fragment & htons(0x1fff))
            return false;
        set_ipv4(&sent, ip->src, ip->dst);
        sent.protocol = ip->protocol;
        l4 = quote + (ip->version_ihl & 15) * 4;
    }
    if (!parse_ports(&sent, l4, end))
        return false;
    copy(p->flow.src, sent.dst, 16);
    copy(p->flow.dst, sent.src, 16);
    p->flow.ports = sent.ports << 16 | sent.ports >> 16;
    p->flow.protocol = sent.protocol;
    return true;
}

INLINE void parse_transport(struct packet *p, void *l4, void *end)
{
    __u32 protocol = p->own.protocol;
    if (protocol == PROTO_ICMP || protocol == PROTO_ICMPV6) {
        if (l4 + 8 > end)
            return;
        p->icmp_type = *(__u8 *)l4;
        if (is_icmp_error(protocol, p->icmp_type)) {
            p->has_flow = parse_quote(p, l4 + 8, end);
            return;
        }
    }
    p->has_flow = parse_ports(&p->own, l4, end);
    copy(&p->flow, &p->own, sizeof(p->flow));
}

INLINE enum parsed parse_ipv4(struct packet *p, void *at, void *end)
{
    struct ipv4_header *ip = at;
    if ((void *)(ip + 1) > end || ip->version_ihl < 0x45 || ip->version_ihl > 0x4f)
        return MALFORMED;
    set_ipv4(&p->own, ip->src, ip->dst);
    p->own.protocol = ip->protocol;
    __u16 fragment = ntohs(ip->fragment);
    p->fragment_id = ip->id;
    p->fragment = fragment & 0x1fff ? LATER_FRAGMENT : fragment & 0x2000 ? FIRST_FRAGMENT : WHOLE;
    if (p->fragment != LATER_FRAGMENT)
        parse_transport(p, at + (ip->version_ihl & 15) * 4, end);
    return PARSED;
}

INLINE enum parsed parse_ipv6(struct packet *p, void *at, void *end)
{
    struct ipv6_header *ip = at;
    if ((void *)(ip + 1) > end || (*(__u8 *)at >> 4) != 6)
        return MALFORMED;
    p->is_ipv6 = 1;
    copy(p->own.src, ip->src, 16);
    copy(p->own.dst, ip->dst, 16);
    struct extensions e = { .next = ip->next_header, .at = ip + 1 };
    bool is_whole = walk_extensions(&e, end);
    p->own.protocol = e.next;
    p->fragment = e.fragment;
    p->fragment_id = e.fragment_id;
    /* Without its transport header the addresses are known, the flow is not. */
    if (is_whole && e.fragment != LATER_FRAGMENT)
        parse_transport(p, e.at, end);
    return PARSED;
}

/* `ethertype` in host order. */
INLINE enum parsed parse_ip(struct packet *p, __u16 ethertype, void *at, void *end)
{
    if (ethertype == ETH_IPV4)
        return parse_ipv4(p, at, end);
    if (ethertype == ETH_IPV6)
        return parse_ipv6(p, at, end);
    return NOT_IP;
}

INLINE bool is_ipv6_multicast(const __u32 *address)
{
    return *(const __u8 *)address == 0xff;
}

INLINE bool is_ipv6_link_local(const __u32 *address)
{
    return (address[0] & htonl(0xffc00000)) == htonl(0xfe800000);
}

/* Neighbour discovery (RFC 4861): router and neighbour solicitation and advertisement, redirect. */
INLINE bool is_neighbour_discovery(const struct packet *p)
{
    return p->own.protocol == PROTO_ICMPV6 && p->icmp_type >= 133 && p->icmp_type <= 137;
}

INLINE bool same_address(const __u32 *a, const __u32 *b)
{
    return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

INLINE bool same_mac(const __u8 *a, const volatile __u8 *b)
{
    return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4] && a[5] == b[5];
}
