/* Reading the connection table. The programs never write it: workers do, and what they wrote is the truth of both tiers.
 *
 * A key hashes to two buckets of 32 slots. A bucket's 32 tags of two bytes are one line; only a slot whose tag fits
 * is read, and the second bucket only where the first has no such entry. Publication: a worker writes the entry, then its phase `Live` with a new sequence in `ctl`, then the tag. We
 * read `ctl` before and after the key: the same word twice, Live both times, means that the key was that of a live entry
 * in between, because a slot is not reused before a kernel grace period. Plain loads are enough for that on x86, which
 * reads in order; other machines need load-acquire here, which the BPF of today's compilers does not have.
 */
#pragma once
#include "kernel.h"
#include "layout.h"
#include "parse.h"

#define BUCKETS_DEFAULT 2 /* the loader makes the arrays as large as it was asked for */
#define LANES 0x0001000100010001ULL

/* Set by the loader. */
const volatile __u64 secret[SECRET_WORDS];
const volatile __u32 buckets4;
const volatile __u32 buckets6;

struct tag_bucket {
    __u64 words[SLOTS_PER_BUCKET * TAG_BYTES / 8];
};
_Static_assert(SLOTS_PER_BUCKET == 32 && TAG_BYTES == 2, "the scan below reads eight words of four tags");

#define SHARED_ARRAY(name, value_type, entries)    \
    struct {                                       \
        __uint(type, BPF_MAP_TYPE_ARRAY);          \
        __uint(map_flags, BPF_F_MMAPABLE);         \
        __type(key, __u32);                        \
        __type(value, value_type);                 \
        __uint(max_entries, entries);              \
    } name SEC(".maps")

SHARED_ARRAY(tags4, struct tag_bucket, BUCKETS_DEFAULT);
SHARED_ARRAY(flows4, struct flow4, BUCKETS_DEFAULT * SLOTS_PER_BUCKET);
SHARED_ARRAY(tags6, struct tag_bucket, BUCKETS_DEFAULT);
SHARED_ARRAY(flows6, struct flow6, BUCKETS_DEFAULT * SLOTS_PER_BUCKET);

/* Multilinear over the key's words. All of this is the same in layout/src/hash.rs. */
INLINE __u32 hash4(const struct tuple *t)
{
    __u64 sum = secret[4];
    sum += secret[0] * t->src[3];
    sum += secret[1] * t->dst[3];
    sum += secret[2] * t->ports;
    sum += secret[3] * t->protocol;
    return sum >> 32;
}

INLINE __u32 hash6(const struct tuple *t)
{
    __u64 sum = secret[10];
#pragma unroll
    for (int i = 0; i < 4; i++)
        sum += secret[i] * t->src[i];
#pragma unroll
    for (int i = 0; i < 4; i++)
        sum += secret[4 + i] * t->dst[i];
    sum += secret[8] * t->ports;
    sum += secret[9] * t->protocol;
    return sum >> 32;
}

INLINE __u16 tag_of(__u32 hash)
{
    __u16 tag = hash;
    return tag ? tag : 1;
}

INLINE __u32 first_bucket(__u32 hash, __u32 buckets)
{
    return ((__u64)hash * buckets) >> 32;
}

INLINE __u32 second_bucket(__u32 hash, __u32 buckets)
{
    __u32 first = first_bucket(hash, buckets);
    __u32 second = first_bucket(hash * 0x9e3779b1u, buckets);
    if (second != first)
        return second;
    return first + 1 == buckets ? 0 : first + 1;
}

/* Both return the entry's ingress port, 0 where this is not a live entry of `t`. */
INLINE __u32 live4(__u32 slot, const struct tuple *t)
{
    struct flow4 *f = bpf_map_lookup_elem(&flows4, &slot);
    if (!f)
        return 0;
    __u32 ctl = READ_ONCE(f->ctl);
    if ((ctl & 0xff) != PHASE_LIVE)
        return 0;
    if (READ_ONCE(f->src) != t->src[3] || READ_ONCE(f->dst) != t->dst[3] || READ_ONCE(f->ports) != t->ports ||
        (READ_ONCE(f->kind) & 0xff) != t->protocol)
        return 0;
    __u32 ingress = READ_ONCE(f->ingress);
    return READ_ONCE(f->ctl) == ctl ? ingress : 0;
}

INLINE __u32 live6(__u32 slot, const struct tuple *t)
{
    struct flow6 *f = bpf_map_lookup_elem(&flows6, &slot);
    if (!f)
        return 0;
    __u32 ctl = READ_ONCE(f->ctl);
    if ((ctl & 0xff) != PHASE_LIVE)
        return 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (READ_ONCE(f->src[i]) != t->src[i] || READ_ONCE(f->dst[i]) != t->dst[i])
            return 0;
    if (READ_ONCE(f->ports) != t->ports || (READ_ONCE(f->kind) & 0xff) != t->protocol)
        return 0;
    __u32 ingress = READ_ONCE(f->ingress);
    return READ_ONCE(f->ctl) == ctl ? ingress : 0;
}

/* Four tags of a word at once: a lane of `differs` is 0 where the tag fits. The test for "some lane is 0" may also see
 * a lane just above a fitting one; the exact comparison below settles it.
 */
#define SCAN_WORD(index, live)                                                 \
    do {                                                                       \
        __u64 differs = READ_ONCE(tags->words[index]) ^ pattern;               \
        if ((differs - LANES) & ~differs & (LANES << 15)) {                    \
            for (__u32 lane = 0; lane < 4; lane++) {                           \
                if ((differs >> (16 * lane)) & 0xffff)                         \
                    continue;                                                  \
                __u32 ingress = live(bucket * SLOTS_PER_BUCKET + (index) * 4 + lane, t); \
                if (ingress)                                                   \
                    return ingress;                                            \
            }                                                                  \
        }                                                                      \
    } while (0)

/* Functions of their own: both buckets run the same instructions. */
static __attribute__((noinline)) __u32 scan4(__u32 bucket, __u32 tag, const struct tuple *t)
{
    struct tag_bucket *tags = bpf_map_lookup_elem(&tags4, &bucket);
    if (!tags)
        return 0;
    __u64 pattern = tag * LANES;
    SCAN_WORD(0, live4);
    SCAN_WORD(1, live4);
    SCAN_WORD(2, live4);
    SCAN_WORD(3, live4);
    SCAN_WORD(4, live4);
    SCAN_WORD(5, live4);
    SCAN_WORD(6, live4);
    SCAN_WORD(7, live4);
    return 0;
}

static __attribute__((noinline)) __u32 scan6(__u32 bucket, __u32 tag, const struct tuple *t)
{
    struct tag_bucket *tags = bpf_map_lookup_elem(&tags6, &bucket);
    if (!tags)
        return 0;
    __u64 pattern = tag * LANES;
    SCAN_WORD(0, live6);
    SCAN_WORD(1, live6);
    SCAN_WORD(2, live6);
    SCAN_WORD(3, live6);
    SCAN_WORD(4, live6);
    SCAN_WORD(5, live6);
    SCAN_WORD(6, live6);
    SCAN_WORD(7, live6);
    return 0;
}

/* The ingress port (kernel interface index) of the live entry of this flow; 0 where there is none. */
INLINE __u32 find_flow(const struct packet *p)
{
    if (!p->has_flow)
        return 0;
    const struct tuple *flow = &p->flow;
    if (p->is_ipv6) {
        __u32 hash = hash6(flow);
        __u32 ingress = scan6(first_bucket(hash, buckets6), tag_of(hash), flow);
        return ingress ? ingress : scan6(second_bucket(hash, buckets6), tag_of(hash), flow);
    }
    __u32 hash = hash4(flow);
    __u32 ingress = scan4(first_bucket(hash, buckets4), tag_of(hash), flow);
    return ingress ? ingress : scan4(second_bucket(hash, buckets4), tag_of(hash), flow);
}
