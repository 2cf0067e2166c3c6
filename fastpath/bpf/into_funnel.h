/* Into the funnel: destination MAC = tag of the port by which the packet came in, queue chosen by a symmetric hash, so
 * both directions of an untranslated flow meet one worker, and so do all fragments of a datagram.
 */
#pragma once
#include "claims.h"
#include "counters.h"
#include "ports.h"

/* Set by the loader. */
const volatile __u32 workers;

/* As much of a packet as parsing reads where TCP, UDP or SCTP stands directly behind the IP header. */
#define LINEAR_BYTES (ETH_BYTES + 40 + 8)
/* The same of others: extension headers are long, and ICMP errors quote a packet that may have them too. */
#define LONG_LINEAR_BYTES 2048

struct frame {
    void *data;
    void *end;
    __u16 ethertype;
};

/* Makes this much of the frame readable; false where it is too short for an Ethernet header. */
INLINE bool open_linear(struct frame *f, struct __sk_buff *skb, __u32 bytes)
{
    __u32 linear = skb->data_end - skb->data;
    if (linear < bytes && linear < skb->len)
        bpf_skb_pull_data(skb, skb->len < bytes ? skb->len : bytes);
    f->data = (void *)(long)skb->data;
    f->end = (void *)(long)skb->data_end;
    if (f->data + ETH_BYTES > f->end)
        return false;
    f->ethertype = ntohs(*(__u16 *)(f->data + 12));
    return true;
}

INLINE bool has_long_headers(const struct frame *f)
{
    __u8 *ip = f->data + ETH_BYTES;
    if ((void *)(ip + 20) > f->end)
        return false;
    if (f->ethertype == ETH_IPV4)
        return ip[0] != 0x45 || ip[9] == PROTO_ICMP;
    return f->ethertype == ETH_IPV6 && !is_tcp_like(ip[6]);
}

/* Makes the headers readable; false where the frame is too short for an Ethernet header. */
INLINE bool open_frame(struct frame *f, struct __sk_buff *skb)
{
    if (!open_linear(f, skb, LINEAR_BYTES))
        return false;
    return !has_long_headers(f) || open_linear(f, skb, LONG_LINEAR_BYTES);
}

INLINE bool is_vlan(const struct __sk_buff *skb, __u16 ethertype)
{
    return skb->vlan_present || ethertype == ETH_8021Q || ethertype == ETH_8021AD;
}

INLINE __u32 queue_of(const struct packet *p)
{
    __u32 mix = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
        mix ^= p->own.src[i] ^ p->own.dst[i];
    /* Fragments by their addresses alone, as NICs do it: datagrams of one flow stay in order. */
    if (p->fragment == WHOLE)
        mix ^= (p->own.ports & 0xffff) ^ (p->own.ports >> 16);
    __u32 hash = (mix * 0x9e3779b97f4a7c15ULL) >> 32;
    return ((__u64)hash * workers) >> 32;
}

/* Counted as `counter` on success. The frame's destination MAC is written, all else stays. */
INLINE int into_funnel(struct __sk_buff *skb, __u32 queue, __u32 port, __u32 counter)
{
    __u8 tag[6] = { TAG_PREFIX_0, TAG_PREFIX_1, port >> 24, port >> 16, port >> 8, port };
    __u32 packets = segments(skb);
    if (bpf_skb_store_bytes(skb, 0, tag, sizeof(tag), 0)) {
        count(C_REDIRECT_FAILED, packets);
        return TC_DROP;
    }
    skb->queue_mapping = queue + 1; /* 0 means unset */
    int action = bpf_redirect(f1_ifindex, 0);
    count(action == TC_REDIRECT ? counter : C_REDIRECT_FAILED, packets);
    return action == TC_REDIRECT ? TC_REDIRECT : TC_DROP;
}
