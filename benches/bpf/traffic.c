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
#define PROBE 0x4c54
#define PORT_BASE 10000
/* Flows of one client, by their source port; the next ones are another client's. */
#define CLIENT_FLOWS 32768
#define FLOWS_MAX (1 << 20)

/* Set by the loader; addresses and ports in host byte order. The template is a whole frame of flow 0, sequence 0, with
 * right checksums. Clients, Services and endpoints stand in rows: flow i goes to Service i % services, whose endpoints
 * follow those of the Service before it. */
const volatile __u8 template[FRAME_BYTES];
const volatile __u8 sink_mac[6];
const volatile __u32 first_client;
const volatile __u32 first_service;
const volatile __u32 services;
const volatile __u32 first_endpoint;
const volatile __u32 endpoints;
const volatile __u16 endpoint_port;
const volatile __u8 sink_ttl;

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 5);
    __type(key, __u32);
    __type(value, __u64);
} counts SEC(".maps");

/* What is sent now. */
struct stretch {
    __u32 ifindex;    /* by which frames leave */
    __u32 flows;      /* a power of two, FLOWS_MAX at most */
    __u32 fresh;      /* every frame begins a flow of its own, beyond FLOWS_MAX */
    __u32 generation; /* 1 to 2047: within a stretch a flow stays where it went first */
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct stretch);
} stretches SEC(".maps");

/* Which endpoint each flow went to: generation, and in the lower five bits the endpoint's index + 1. */
static __u16 chosen[FLOWS_MAX];

/* The last frame that was wrong, as much of it as a right one has. */
struct frame {
    __u8 bytes[FRAME_BYTES];
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct frame);
} wrong_frame SEC(".maps");

enum { SENT, SWALLOWED, RIGHT, WRONG, FRESH };

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

/* Changes one word of a frame; returns what that adds to a checksum's complement (RFC 1624, equation 3). */
INLINE __u32 change(__u16 *word, __u16 to)
{
    __u32 difference = (__u16)~*word + (__u32)to;
    *word = to;
    return difference;
}

INLINE __u32 change_address(__u16 *words, __u32 to)
{
    return change(&words[0], htons(to >> 16)) + change(&words[1], htons((__u16)to));
}

/* Every frame is written anew from its first byte to its last: its page comes back as the node left it. */
SEC("xdp")
int generate(struct xdp_md *ctx)
{
    __u16 *frame = (void *)(long)ctx->data;
    void *end = (void *)(long)ctx->data_end;
    __u64 *sent = counter(SENT), *begun = counter(FRESH);
    __u32 only = 0;
    struct stretch *now = bpf_map_lookup_elem(&stretches, &only);

    if ((void *)frame + FRAME_BYTES > end || !sent || !begun || !now)
        return XDP_ABORTED;
    /* What really comes in by the spare interface, where this is attached: listener reports and the like. */
    if ((void *)frame + FRAME_BYTES != end)
        return XDP_DROP;
    __u64 sequence = (*sent)++;
    __u32 flow = now->fresh ? FLOWS_MAX + (__u32)(*begun)++ : (__u32)sequence & (now->flows - 1);
    const volatile __u16 *from = (const volatile __u16 *)template;
#pragma unroll
    for (int i = 0; i < WORDS; i++)
        frame[i] = from[i];

    __u32 sum = change_address(frame + IP / 2 + 6, first_client + flow / CLIENT_FLOWS) +
                change_address(frame + IP / 2 + 8, first_service + flow % services);
    frame[IP / 2 + 5] = ~fold((__u16)~frame[IP / 2 + 5] + sum);
    sum += (__u16)~frame[UDP / 2 + 3] + change(&frame[UDP / 2], htons(PORT_BASE + flow % CLIENT_FLOWS));
    __u16 data[5] = {htons(flow >> 16), htons((__u16)flow), sequence, sequence >> 16, sequence >> 32};
#pragma unroll
    for (int i = 0; i < 5; i++)
        sum += change(&frame[DATA / 2 + 1 + i], data[i]);
    __u16 checksum = ~fold(sum);
    frame[UDP / 2 + 3] = checksum ? checksum : 0xffff;
    return bpf_redirect(now->ifindex, 0);
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
    __u32 client = ((__u32)ntohs(frame[IP / 2 + 6]) << 16 | ntohs(frame[IP / 2 + 7])) - first_client;
    __u32 port = ntohs(frame[UDP / 2]) - PORT_BASE;
    __u32 flow = client * CLIENT_FLOWS + port;
    if (client >= 1 << 16 || port >= CLIENT_FLOWS || frame[DATA / 2] != htons(MAGIC) ||
        ((__u32)ntohs(frame[DATA / 2 + 1]) << 16 | ntohs(frame[DATA / 2 + 2])) != flow)
        return false;

    __u32 destination = (__u32)ntohs(frame[IP / 2 + 8]) << 16 | ntohs(frame[IP / 2 + 9]);
    __u32 endpoint = destination - first_endpoint - flow % services * endpoints;
    if (endpoint >= endpoints || ntohs(frame[UDP / 2 + 1]) != endpoint_port)
        return false;
    if (flow >= FLOWS_MAX)
        return true;
    __u32 only = 0;
    struct stretch *now = bpf_map_lookup_elem(&stretches, &only);
    if (!now)
        return false;
    __u16 *went = &chosen[flow & (FLOWS_MAX - 1)], goes = now->generation << 5 | (endpoint + 1);
    if (*went >> 5 != now->generation)
        *went = goes;
    return *went == goes;
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
    if (skb->len == FRAME_BYTES && is_right(frame))
        return add_one(RIGHT, TC_DROP);
    __u32 only = 0;
    bpf_map_update_elem(&wrong_frame, &only, frame, 0);
    return add_one(WRONG, TC_DROP);
}

/* What a socket that waits for probes is to see: nothing of the other traffic. */
SEC("socket")
int probes(struct __sk_buff *skb)
{
    __u16 frame[WORDS];

    if (skb->len != FRAME_BYTES || bpf_skb_load_bytes(skb, 0, frame, FRAME_BYTES))
        return 0;
    return frame[6] == htons(ETH_IPV4) && ((__u8 *)frame)[IP + 9] == PROTO_UDP && frame[DATA / 2] == htons(PROBE)
               ? FRAME_BYTES
               : 0;
}

char LICENSE[] SEC("license") = "GPL";
