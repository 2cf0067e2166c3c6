/* What was dropped of each pod, beside the node's books. */
#pragma once
#include "counters.h"
#include "ports.h"

#define POD_DROPS_MAX (PORTS_MAX * 8)

struct pod_drop {
    __u32 port;
    __u32 counter; /* enum kernel_counter */
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct pod_drop);
    __type(value, __u64);
    __uint(max_entries, POD_DROPS_MAX);
} pod_drops SEC(".maps");

/* Counts a pod's packet, or the segments that one stands for, as dropped. */
INLINE int drop_of_pod(__u32 counter, struct __sk_buff *skb)
{
    struct pod_drop key = { .port = skb->ifindex, .counter = counter };
    __u64 packets = segments(skb);
    count(counter, packets);
    __u64 *dropped = bpf_map_lookup_elem(&pod_drops, &key);
    if (dropped)
        __sync_fetch_and_add(dropped, packets);
    else if (bpf_map_update_elem(&pod_drops, &key, &packets, BPF_NOEXIST)) {
        /* Another CPU was first. */
        dropped = bpf_map_lookup_elem(&pod_drops, &key);
        if (dropped)
            __sync_fetch_and_add(dropped, packets);
    }
    return TC_DROP;
}
