/* Fairness among pods whose packets meet in one queue of the funnel.
 *
 * What a full ring drops, it drops of everybody in proportion: a pod that floods takes the others' packets along. So a
 * pod may have in the ring at most one entry for every FREE_PER_ENTRY that are free there (dynamic thresholds: Choudhury
 * and Hahne, 1998). A lone pod gets a third of the ring, which keeps its worker as busy as all of it would; several that
 * flood get equal parts. The rest is for those who send little, and for the time in which a worker takes nothing because
 * another program has its core: nobody who is in the ring can be sent away again. While a worker keeps up its ring is
 * nearly empty, and nobody is policed. No clock and no rate is needed: the worker's own progress is both.
 *
 * A pod's own streams leave a part of what it may have to its other packets: a stream sends until something is lost, then
 * less, and what was lost again; a datagram or a handshake that is lost beside it waits for a timeout, or for ever.
 *
 * How many entries are a pod's is estimated: of what a worker takes from a well-mixed ring, a pod's part is as large as
 * its part of what waits there. An estimate forgets what was lost on the way; a count would keep it for ever. The CPUs of
 * one pod update it without a lock; a lost update makes it a packet or two wrong.
 */
#pragma once
#include "counters.h"
#include "layout.h"
#include "parse.h"

#define FREE_PER_ENTRY 2
/* Of a pod's entries, one in so many is not for its streams. */
#define BESIDE_STREAMS 4
/* No shorter is a full segment of a stream, nor what the kernel has joined of several (RFC 9293 section 3.7.1). */
#define STREAM_BYTES (ETH_BYTES + 576)
/* In front of every segment of a GSO packet: Ethernet, IPv6, TCP with timestamps. */
#define HEADERS_BYTES (ETH_BYTES + 40 + 32)

/* Set by the loader. */
const volatile bool is_fair;

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct pressure);
    __uint(max_entries, FUNNEL_QUEUES_MAX);
} pressures SEC(".maps");

/* A pod's part of a queue. */
struct share {
    __u32 entries; /* in the ring, when it last sent */
    __u32 waiting; /* of all, then */
    __u32 taken;   /* by the worker, until then */
    __u32 pad;
};

/* By queue and port; not kept across a restart. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32);
    __type(value, struct share);
    __uint(max_entries, SHARES_PER_QUEUE); /* the loader makes it as large as there are queues */
} shares SEC(".maps");

/* Ring entries that a packet takes; those of all its segments where the kernel has joined some. */
INLINE __u32 entries_of(struct __sk_buff *skb, __u32 piece_bytes)
{
    __u32 packets = segments(skb);
    __u32 bytes = skb->gso_size ? skb->gso_size + HEADERS_BYTES : skb->len;
    if (bytes <= piece_bytes || !piece_bytes)
        return packets;
    return packets * ((bytes - 1) / piece_bytes + 1);
}

/* Of a pod's entries, those that are still in the ring. */
INLINE __u32 entries_left(const struct share *share, __u32 taken)
{
    __u32 gone = taken - share->taken;
    if (gone >= share->waiting)
        return 0;
    return (__u64)share->entries * (share->waiting - gone) / share->waiting;
}

/* Whether a pod's packet may enter the queue, and if so, books it. */
INLINE bool may_enter(struct __sk_buff *skb, const struct packet *packet, __u32 queue, __u32 port)
{
    struct pressure *p = bpf_map_lookup_elem(&pressures, &queue);
    if (!is_fair || !p)
        return true;
    __u32 ring = READ_ONCE(p->ring);
    __u32 report = READ_ONCE(p->report);
    __u32 entries = entries_of(skb, READ_ONCE(p->piece_bytes));
    if (READ_ONCE(p->seen_report) != report) {
        p->sent = 0;
        p->seen_report = report;
    }
    __u32 waiting = READ_ONCE(p->waiting) + READ_ONCE(p->sent);
    /* Far from full there is room for all. */
    if (waiting < ring / 8 || !ring) {
        __sync_fetch_and_add(&p->sent, entries);
        return true;
    }
    __u32 index = queue * SHARES_PER_QUEUE + port % SHARES_PER_QUEUE;
    struct share *share = bpf_map_lookup_elem(&shares, &index);
    if (!share)
        return true;
    __u32 taken = READ_ONCE(p->taken);
    __u32 own = entries_left(share, taken) + entries;
    __u32 room = waiting < ring ? ring - waiting : 0;
    if (packet->own.protocol == PROTO_TCP && skb->len >= STREAM_BYTES)
        room -= room / BESIDE_STREAMS;
    if (own * FREE_PER_ENTRY > room)
        return false;
    __sync_fetch_and_add(&p->sent, entries);
    share->entries = own;
    share->waiting = waiting + entries;
    share->taken = taken;
    return true;
}
