/* The kernel side's books: every packet that a program sees ends in one of these, per CPU. A packet that the kernel has
 * joined (GSO) counts as the segments that will leave it.
 */
#pragma once
#include "kernel.h"
#include "layout.h"

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __type(key, __u32);
    __type(value, __u64);
    __uint(max_entries, KERNEL_COUNTERS);
} counters SEC(".maps");

INLINE void count(__u32 counter, __u32 packets)
{
    __u64 *value = bpf_map_lookup_elem(&counters, &counter);
    if (value)
        *value += packets;
}

INLINE __u32 segments(struct __sk_buff *skb)
{
    return skb->gso_segs ? skb->gso_segs : 1;
}

INLINE int end_at(__u32 counter, struct __sk_buff *skb, int action)
{
    count(counter, segments(skb));
    return action;
}
