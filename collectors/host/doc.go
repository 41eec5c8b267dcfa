// Package host measures the machine it runs on: processors, load, memory, swap, disks, file systems, network, sockets,
// processes, pressure and the cgroups of services and containers. docs/metrics.md names every metric.
//
// It reads /proc and /sys directly into one buffer that is used again, and keeps the label set of each series, so that a
// collection allocates next to nothing. What the kernel does not offer is left out, quietly.
//
// It does not send, store or keep time: whoever calls Collect gets samples and knows when that was.
package host
