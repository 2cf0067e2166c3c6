/* The bench's traffic: `generate` makes UDP frames out of nothing (XDP, run by BPF_PROG_TEST_RUN with live frames),
 * `swallow` ends a frame where it arrives (XDP), `judge` counts and checks what comes out behind the node (tcx).
 *
 * `judge` sits where a receiver's stack begins: whoever transmits has made an skb by then, as for any real receiver. An
 * XDP program there would first turn the skbs of an AF_XDP socket into frames again, which no receiver pays for.
 *
 * Everything here has one frame length, one family and one protocol: it measures, it does not test.
 */
#include "kernel.h"

#define FRAME_BYTES 60
#define WORDS (FRAME_BYTES / 2)
#define IP 14
#define UDP (IP + 20)
#define DATA (UDP + 8)
#define MAGIC 0x4154
#define PORT_BASE 10000

static long (*bpf_skb_load_bytes)(const void *skb, __u32 offset, void *to, __u32 len) = (void *)26;

/* Set by the loader. The template is a whole frame of flow 0, sequence 0, with right checksums. */
const volatile __u8 template[FRAME_BYTES];
const volatile __u32 flows; /* a power of two, at most 32768 */
const volatile __u8 sink_mac[6];
const volatile __u32 first_endpoint; /* host byte order; endpoints stand in a row */
const volatile __u32 endpoints;
const volatile __u16 endpoint_port; /* host byte order */
const volatile __u8 sink_ttl;

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 4);
    __type(key, __u32);
    __type(value, __u64);
} counts SEC(".maps");

/* The interface by which frames leave. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} out SEC(".maps");

/* Which endpoint each flow went to: it has to stay there. 0 = none yet, else index + 1. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 32768);
    __type(key, __u32);
    __type(value, __u32);
} chosen SEC(".maps");

enum { SENT, SWALLOWED, RIGHT, WRONG };

INLINE __u64 *counter(__u32 which)
{
    return bpf_map_lookup_elem(&counts, &which);
}

INLINE int add_one(__u32 which, int verdict)
{
    __u64 *n = counter(which);
    if (n)
        *n += 1;
    return verdict;
}

INLINE __u16 fold(__u32 sum)
{
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

/* Every frame is written anew from its first byte to its last: its page comes back as the node left it. */
SEC("xdp")
int generate(struct xdp_md *ctx)
{
    __u16 *frame = (void *)(long)ctx->data;
    void *end = (void *)(long)ctx->data_end;
    __u64 *sent = counter(SENT);
    __u32 only = 0;
    __u32 *ifindex = bpf_map_lookup_elem(&out, &only);

    if ((void *)frame + FRAME_BYTES > end || !sent || !ifindex)
        return XDP_ABORTED;
    __u64 sequence = (*sent)++;
    __u16 flow = sequence & (flows - 1);
    const volatile __u16 *from = (const volatile __u16 *)template;
#pragma unroll
    for (int i = 0; i < WORDS; i++)
        frame[i] = from[i];

    __u16 port = htons(PORT_BASE + flow);
    __u16 data[4] = {htons(flow), sequence, sequence >> 16, sequence >> 32};
    /* The template has zeros there and PORT_BASE as its port (RFC 1624, equation 3). */
    __u32 sum = (__u16)~frame[UDP / 2 + 3];
    sum += (__u16)~frame[UDP / 2] + port;
    frame[UDP / 2] = port;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        sum += data[i];
        frame[DATA / 2 + 1 + i] = data[i];
    }
    __u16 checksum = ~fold(sum);
    frame[UDP / 2 + 3] = checksum ? checksum : 0xffff;
    return bpf_redirect(*ifindex, 0);
}

SEC("xdp")
int swallow(struct xdp_md *ctx)
{
    __u16 *frame = (void *)(long)ctx->data;
    void *end = (void *)(long)ctx->data_end;

    /* The kernel's own frames for the link are none of the bench's. */
    if ((void *)frame + FRAME_BYTES > end || frame[6] != htons(ETH_IPV4) || frame[DATA / 2] != htons(MAGIC))
        return XDP_DROP;
    return add_one(SWALLOWED, XDP_DROP);
}

INLINE bool is_right(const __u16 *frame)
{
    const __u8 *bytes = (const __u8 *)frame;
    __u32 sum = 0;

    for (int i = 0; i < 6; i++)
        if (bytes[i] != sink_mac[i])
            return false;
    if (bytes[IP] != 0x45 || bytes[IP + 8] != sink_ttl || ntohs(frame[IP / 2 + 1]) != FRAME_BYTES - IP)
        return false;
#pragma unroll
    for (int i = IP / 2; i < UDP / 2; i++)
        sum += frame[i];
    if (fold(sum) != 0xffff)
        return false;
    sum = htons(FRAME_BYTES - UDP) + htons(PROTO_UDP);
#pragma unroll
    for (int i = IP / 2 + 6; i < WORDS; i++)
        sum += frame[i];
    if (fold(sum) != 0xffff)
        return false;

    /* Who sent it, and whether it is what he sent. */
    __u32 flow = ntohs(frame[UDP / 2]) - PORT_BASE;
    const volatile __u16 *from = (const volatile __u16 *)template;
    if (frame[IP / 2 + 6] != from[IP / 2 + 6] || frame[IP / 2 + 7] != from[IP / 2 + 7] || flow >= flows ||
        frame[DATA / 2] != htons(MAGIC) || ntohs(frame[DATA / 2 + 1]) != flow)
        return false;

    __u32 destination = (__u32)ntohs(frame[IP / 2 + 8]) << 16 | ntohs(frame[IP / 2 + 9]);
    __u32 endpoint = destination - first_endpoint;
    if (endpoint >= endpoints || ntohs(frame[UDP / 2 + 1]) != endpoint_port)
        return false;
    __u32 *went = bpf_map_lookup_elem(&chosen, &flow);
    if (!went)
        return false;
    if (!*went)
        *went = endpoint + 1;
    return *went == endpoint + 1;
}

SEC("classifier")
int judge(struct __sk_buff *skb)
{
    __u16 frame[WORDS];

    /* ARP, neighbour discovery and whatever else a link carries is none of the bench's. */
    if (skb->len < FRAME_BYTES || bpf_skb_load_bytes(skb, 0, frame, FRAME_BYTES))
        return TC_NEXT;
    if (ntohs(frame[6]) != ETH_IPV4 || ((__u8 *)frame)[IP + 9] != PROTO_UDP)
        return TC_NEXT;
    return add_one(skb->len == FRAME_BYTES && is_right(frame) ? RIGHT : WRONG, TC_DROP);
}

char LICENSE[] SEC("license") = "GPL";
