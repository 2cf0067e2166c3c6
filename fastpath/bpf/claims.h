/* What is ours by destination, and fragments by their first one.
 *
 * Never a port range: the node's own listeners live there. Node addresses are in the map too, as `CLAIM_NODE`: they are
 * what is *not* ours unless a node port or a tracked flow says so.
 */
#pragma once
#include "kernel.h"
#include "layout.h"
#include "parse.h"
#include "table.h"

#define CLAIMS_MAX 131072
#define RANGES_MAX 256
#define FRAGMENTS_MAX 16384
/* Datagrams that the node's own stack would still reassemble (net.ipv4.ipfrag_time, net.ipv6.ip6frag_time), in ns. */
#define FRAGMENT4_LIFE 30000000000ULL
#define FRAGMENT6_LIFE 60000000000ULL

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct claim_key);
    __type(value, __u32);
    __uint(max_entries, CLAIMS_MAX);
} claims SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct lpm_key);
    __type(value, __u32);
    __uint(max_entries, RANGES_MAX);
} ranges SEC(".maps");

struct fragment_key {
    __u32 src[4];
    __u32 dst[4];
    __u32 id;
    __u32 protocol;
};

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __type(key, struct fragment_key);
    __type(value, __u64); /* ns of the kernel's coarse clock when the first fragment came */
    __uint(max_entries, FRAGMENTS_MAX);
} fragments SEC(".maps");

/* Why a packet is ours, or that it is not. */
enum ours { NOT_OURS, OURS, OURS_BY_FRAGMENT };

/* The kind of claim on an address, 0 where there is none. */
INLINE __u32 claim_on(const __u32 *address, __u16 port, __u8 protocol)
{
    struct claim_key key = { .protocol = protocol };
    copy(key.addr, address, 16);
    copy(key.port, &port, 2);
    __u32 *kind = bpf_map_lookup_elem(&claims, &key);
    return kind ? *kind : 0;
}

INLINE bool in_service_range(const __u32 *address)
{
    struct lpm_key key = { .prefix_len = 128 };
    copy(key.addr, address, 16);
    return bpf_map_lookup_elem(&ranges, &key) != NULL;
}

/* Whether the destination, known to be a node address, has a node port of ours there. */
INLINE bool is_node_port(const struct packet *p)
{
    if (!p->has_flow || !is_tcp_like(p->own.protocol))
        return false;
    return claim_on(p->own.dst, p->own.ports >> 16, p->own.protocol) == CLAIM_NODE_PORT;
}

INLINE void fragment_key_of(struct fragment_key *key, const struct packet *p)
{
    copy(key->src, p->own.src, 16);
    copy(key->dst, p->own.dst, 16);
    key->id = p->fragment_id;
    /* An IPv6 fragment says what follows it there, which need not be the transport protocol (RFC 8200 section 4.5). */
    key->protocol = p->is_ipv6 ? 0 : p->own.protocol;
}

INLINE bool is_known_fragment(const struct packet *p)
{
    struct fragment_key key;
    fragment_key_of(&key, p);
    __u64 *seen = bpf_map_lookup_elem(&fragments, &key);
    return seen && bpf_ktime_get_coarse_ns() - *seen < (p->is_ipv6 ? FRAGMENT6_LIFE : FRAGMENT4_LIFE);
}

INLINE void learn_fragment(const struct packet *p)
{
    struct fragment_key key;
    fragment_key_of(&key, p);
    __u64 now = bpf_ktime_get_coarse_ns();
    bpf_map_update_elem(&fragments, &key, &now, BPF_ANY);
}

/* Whether a packet to a node address, or to one that nobody claims, is ours after all: by node port, by flow, by its
 * first fragment. A hit is ours whatever the entry's ingress port says: if it names another port, the worker drops the
 * packet by name, where passing it on would let it past the dataplane.
 */
INLINE enum ours ours_at_node(const struct packet *p)
{
    if (p->fragment == LATER_FRAGMENT)
        return is_known_fragment(p) ? OURS_BY_FRAGMENT : NOT_OURS;
    if (!is_node_port(p) && !find_flow(p))
        return NOT_OURS;
    if (p->fragment == FIRST_FRAGMENT)
        learn_fragment(p);
    return OURS;
}
