/* What the programs use of the kernel: helpers by number (include/uapi/linux/bpf.h), map definitions, byte order.
 * Kept here so that the build needs clang and the kernel's headers, no library.
 */
#pragma once
#include <linux/bpf.h>
#include <linux/types.h>

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) value *name
#define INLINE static __attribute__((always_inline)) inline

typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

/* One load, one store, in program order for the compiler. The kernel's verifier and JIT keep it. */
#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))

#define htons(x) __builtin_bswap16(x)
#define ntohs(x) __builtin_bswap16(x)
#define htonl(x) __builtin_bswap32(x)

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*bpf_skb_store_bytes)(struct __sk_buff *skb, __u32 offset, const void *from, __u32 len,
                                   __u64 flags) = (void *)9;
static long (*bpf_l4_csum_replace)(struct __sk_buff *skb, __u32 offset, __u64 from, __u64 to,
                                   __u64 flags) = (void *)11;
static long (*bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)23;
static long (*bpf_skb_load_bytes)(const void *skb, __u32 offset, void *to, __u32 len) = (void *)26;
static long (*bpf_skb_change_type)(struct __sk_buff *skb, __u32 type) = (void *)32;
static long (*bpf_skb_pull_data)(struct __sk_buff *skb, __u32 len) = (void *)39;
static long (*bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)51;
static long (*bpf_redirect_peer)(__u32 ifindex, __u64 flags) = (void *)155;
static __u64 (*bpf_ktime_get_coarse_ns)(void) = (void *)160;
static long (*bpf_check_mtu)(void *program_context, __u32 ifindex, __u32 *mtu_len, __s32 len_diff,
                             __u64 flags) = (void *)163;

/* Verdicts of a tcx program (include/uapi/linux/bpf.h, enum tcx_action_base; TCX_NEXT is missing in older headers). */
#define TC_NEXT (-1)
#define TC_DROP 2
#define TC_REDIRECT 7

#define PACKET_HOST 0
#define MTU_OF_SEGMENTS 1 /* bpf_check_mtu: BPF_MTU_CHK_SEGS, for GSO the segments */
#define ENODEV 19

#define ETH_BYTES 14
#define ETH_IPV4 0x0800
#define ETH_ARP 0x0806
#define ETH_IPV6 0x86dd
#define ETH_8021Q 0x8100
#define ETH_8021AD 0x88a8

#define PROTO_HOP_BY_HOP 0
#define PROTO_ICMP 1
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_ROUTING 43
#define PROTO_FRAGMENT 44
#define PROTO_AUTHENTICATION 51
#define PROTO_ICMPV6 58
#define PROTO_DESTINATION 60
#define PROTO_SCTP 132

/* Copies `n` bytes, 4 at a time where both sides are a multiple of it; `n` is a constant. */
#define copy(to, from, n) __builtin_memcpy(to, from, n)
