// Package e2e runs the built binary as people run it: on an empty folder, with real load, real agents, programs of others,
// crashes and full disks. Its tests need `make build`; run them with `make e2e`.
package e2e
