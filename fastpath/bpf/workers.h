/* Giving a frame to the worker that listens on a receive queue. */
#pragma once
#include "counters.h"

#define QUEUES_MAX 256

/* AF_XDP sockets by receive queue: an empty slot is a queue without a worker. */
#define SOCKETS(name)                         \
    struct {                                  \
        __uint(type, BPF_MAP_TYPE_XSKMAP);    \
        __type(key, __u32);                   \
        __type(value, __u32);                 \
        __uint(max_entries, QUEUES_MAX);      \
    } name SEC(".maps")

/* Ours and nobody there: dropped and counted, never passed. The node's stack would answer with a reset and kill a
 * connection that a restart of a second should not disturb. The socket may also go between look-up and redirect: the
 * fallback action keeps that closed too.
 */
#define GIVE_TO_WORKER(ctx, sockets, claimed, no_worker)                            \
    ({                                                                              \
        __u32 queue = (ctx)->rx_queue_index;                                        \
        int action = XDP_DROP;                                                      \
        if (bpf_map_lookup_elem(&(sockets), &queue)) {                              \
            count(claimed, 1);                                                      \
            action = bpf_redirect_map(&(sockets), queue, XDP_DROP);                 \
        } else {                                                                    \
            count(no_worker, 1);                                                    \
        }                                                                           \
        action;                                                                     \
    })
