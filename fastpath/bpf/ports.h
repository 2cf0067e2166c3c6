/* Pod ports by the interface index of their host end, and the way into the funnel. */
#pragma once
#include "kernel.h"
#include "layout.h"
#include "parse.h"

#define PORTS_MAX 4096

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __u32);
    __type(value, struct port_record);
    __uint(max_entries, PORTS_MAX);
} ports SEC(".maps");

/* Set by the loader: the funnel's kernel end. */
const volatile __u32 f1_ifindex;
